"""What a training stage holds: bytes on one process, and on disk.

Formulas, for P parameters of which t are trained, over W processes: ZeRO (arXiv:1910.02054) for weights, gradients and
optimizer state; activations are what autograd keeps of one micro-batch, counted on an empty model. The process itself,
its libraries and the allocator's slack come on top: 0.4 GB and, on a CPU, up to half of the activations.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.run.config import Loop
from pipeline.run.launch import Launch

LEAST_IN_8_BITS, BLOCK_OF_8_BITS = 4096, 256  # bitsandbytes' sizes: of a moment, and of what shares a scale


@dataclass(frozen=True)
class Size:
    """What a training stage holds and does.

    parameters, trained: counts; moments: bytes of the optimizers' moments; flops: of one optimizer step, 0 where not
    known; activations: bytes of one micro-batch on one process; kernels: which ones compute it, in words; in_codes: of
    the parameters, those stored as codes; code_bytes: what these take.
    """

    parameters: int
    trained: int
    moments: int
    flops: float
    activations: float
    kernels: str = ""
    in_codes: int = 0
    code_bytes: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes on one process."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations


def moment_bytes(groups: list[dict[str, Any]]) -> int:
    """fp32 moments of parameter groups: one of what Muon and Lion update, two of what AdamW does, codes of both in
    8 bits; Adafactor's rows and columns."""
    return sum(4 * _moments(p, group["rule"]) for group in groups for p in group["params"])


def _moments(parameter: Any, rule: str) -> int:
    count = parameter.numel()
    if rule == "adafactor":
        return count // parameter.shape[-1] + count // parameter.shape[-2] if parameter.ndim > 1 else count
    if (
        rule == "adamw_8bit" and count >= LEAST_IN_8_BITS
    ):  # a byte each, and an fp32 scale a block; counted in fp32
        return (2 * count + 8 * -(-count // BLOCK_OF_8_BITS)) // 4
    return count if rule in ("muon", "lion") else 2 * count


def memory(size: Size, training: Loop, launch: Launch) -> Memory:
    """The estimate for one process; bf16 weights with fp32 masters under ZeRO, fp32 weights without."""
    processes, stage = launch.num_processes, launch.zero_stage or 0
    compute = 2 if training.bf16 and stage else 4
    copies = (4 if stage else 0) + (4 if training.ema_decay else 0)
    return Memory(
        weights=((size.parameters - size.in_codes) * compute + size.code_bytes)
        / (processes if stage == 3 else 1),
        gradients=size.trained * compute / (processes if stage >= 2 else 1),
        optimizer=(size.trained * copies + size.moments) / (processes if stage else 1),
        activations=size.activations,
    )


def snapshot(size: Size, training: Loop, launch: Launch) -> float:
    """Bytes that a process's share of a checkpoint takes in the host's memory until it is written."""
    weights = 4 * size.trained * (2 if training.ema_decay else 1)
    return (weights + size.moments) / launch.num_processes


def disk(size: Size, keep: int) -> float:
    """Bytes of checkpoints, one being written included, and of the artifact."""
    return 12 * size.trained * (keep + 1) + 4 * size.parameters
