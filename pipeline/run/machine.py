"""What this machine computes fastest with: which precision `bf16: auto` stands for, and why."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta

from pipeline.run.config import Loop

VARIABLE = "HEADWATER_PRECISION"  # how a launcher's processes learn what their parent chose
SECONDS = 0.1  # spent on timing products, at least two turns
CAP = "ONEDNN_MAX_CPU_ISA"  # a user's limit on the instructions that oneDNN uses: what the CPU offers then says nothing


@dataclass(frozen=True)
class Precision:
    """bf16: bfloat16 compute, else fp32; reason: in words, for the plan."""

    bf16: bool
    reason: str


@functools.cache
def precision() -> Precision:
    """The faster of bf16 and fp32 on this machine: what the parent process chose, else chosen now, alike on every rank.

    GPUs are asked for their compute capability, CPUs for AMX; where that says nothing, one product is timed in both
    precisions (about 0.1 s). Equal choices matter: a process that trains in another precision trains another model.
    """
    if VARIABLE in os.environ:
        return Precision(**json.loads(os.environ[VARIABLE]))
    if (
        os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and int(os.environ.get("WORLD_SIZE", "1")) > 1
    ):
        return _of_rank_0()
    return _chosen()


@contextmanager
def planned_for(other: Precision) -> Iterator[None]:
    """Within, this machine's precision is another's: what is planned runs there."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = json.dumps(asdict(other))
    precision.cache_clear()
    try:
        yield
    finally:
        precision.cache_clear()
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before


def precision_of(training: Loop) -> str:
    """What a stage trains in, and what is known of this machine, for the plan."""
    return f"{'bf16' if training.bf16 else 'fp32'}; {precision().reason}"


def as_environment() -> dict[str, str]:
    """The choice for processes that this one starts."""
    return {VARIABLE: json.dumps(asdict(precision()))}


def _of_rank_0() -> Precision:
    """Rank 0 chooses and the others read it from torchrun's store: each one's own timing could come out otherwise."""
    from torch.distributed import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=timedelta(minutes=5))
    if int(os.environ["RANK"]) == 0:
        store.set(VARIABLE, json.dumps(asdict(_chosen())))
    return Precision(**json.loads(store.get(VARIABLE)))


def _chosen() -> Precision:
    import torch

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        name = f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"
        return Precision(
            major >= 8, f"{name}: {'8.0 and above multiply' if major >= 8 else 'below 8.0, no'} bf16"
        )
    if CAP not in os.environ and torch.cpu._is_amx_tile_supported():
        return Precision(True, "this CPU has AMX, which multiplies bf16")
    ratio = bf16_over_fp32()
    return Precision(
        ratio > 1, f"this CPU multiplies matrices in bf16 at {ratio:.2g} times the speed of fp32"
    )


def bf16_over_fp32() -> float:
    """The speed of bf16 over that of fp32 in the product of [256, 256] and [256, 1024], the shape of a small decoder.

    The shortest times of up to 40 turns are compared: what else the machine does falls on both precisions. Where the
    hardware has no bf16 at all, one product takes 0.1 s, and the first turn is the last.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for a busy core would be what is timed
    shortest = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    begin = time.perf_counter()
    for turn in range(41):  # turn 0 makes oneDNN's kernels
        for dtype in shortest:
            left, right = torch.ones(256, 256, dtype=dtype), torch.ones(256, 1024, dtype=dtype)
            started = time.perf_counter()
            torch.mm(left, right)
            if turn:
                shortest[dtype] = min(shortest[dtype], time.perf_counter() - started)
        if turn and time.perf_counter() - begin > SECONDS:
            break
    torch.set_num_threads(threads)
    return shortest[torch.float32] / shortest[torch.bfloat16]
