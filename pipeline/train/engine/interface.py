"""What both engines share: the one face that the loop sees, and the optimizers that they step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.run.machine import precision
from pipeline.train.engine import eight_bit
from pipeline.train.engine.lion import Lion


class NonFinite(ArithmeticError):
    """The loss or a gradient is not finite; raised on every process alike, before any weight has changed.

    step: the one that it ended; batches: this process's (number, micro-batch) pairs that it may come from.
    """

    def __init__(self, text: str, step: int = 0, batches: list[tuple[int, dict[str, Tensor]]] | None = None):
        super().__init__(text)
        self.step, self.batches = step, batches or []


class Engine(Protocol):
    """One net, its optimizer, and how both are spread over processes.

    module: the bare net, for forwards in which it does not learn; forward: call this one where it does.
    """

    module: nn.Module
    forward: nn.Module

    def learns(self, learning: bool) -> None:
        """Turn gradients of the trainable parameters on or off."""

    def precision(self) -> AbstractContextManager:
        """The context of a forward: autocast where the weights are fp32 and the compute is bf16."""

    def opens(self, last: bool) -> None:
        """Announce a micro-batch, before its forward; `last` closes the optimizer step's accumulation."""

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add this micro-batch's gradients."""

    def update(self, factor: float) -> float | None:
        """Clip, update the weights at `factor` times the peak rates, clear the gradients; return the L2 norm.

        The norm is that of the gradient before clipping, over all processes; None with Muon under ZeRO, which turns
        gradients into orthogonal updates while it reduces them. Raises NonFinite instead of updating.
        """

    def discard(self) -> None:
        """Clear the gradients of a step whose last micro-batch has been added, without an update."""

    def masters(self) -> list[Tensor]:
        """The fp32 tensors that this process updates: whole parameters, or its ZeRO shards."""

    def points(self) -> list[Tensor]:
        """Of each master, schedule-free AdamW's z; before the first update the master itself."""

    def refresh(self) -> None:
        """Make the compute weights follow masters that were changed from outside."""

    def state(self, names: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
        """(`kind/parameter`, whole fp32 tensor) for each trainable parameter and kind in `names`.

        Every process yields the same keys in the same order and must exhaust the iterator (it gathers).
        """

    def load(self, read: Callable[[str], Tensor], updates: Sequence[int]) -> None:
        """Restore weights and optimizer state after the updates of these steps, key by key through `read`."""


OPTIMIZER_STATE = {
    "adamw": ("exp_avg", "exp_avg_sq"),
    "muon": ("momentum_buffer",),
    "lion": ("exp_avg",),
    "adafactor": ("row_var", "col_var", "variance"),
    "adamw_8bit": eight_bit.KINDS,
    "schedule_free_adamw": ("z", "exp_avg_sq"),
}
STATE = tuple(dict.fromkeys(kind for kinds in OPTIMIZER_STATE.values() for kind in kinds))  # of every rule
STEPPED = ("adamw", "adafactor")  # rules that count their updates


def optimizer_of(groups: list[dict], kind: str) -> torch.optim.Optimizer:
    """Fused AdamW, bitsandbytes' with moments in 8 bits, or schedule-free; Lion, torch's Adafactor, or Muon with fused
    AdamW for the rest: DeepSpeed's class, whose arithmetic ZeRO shares."""
    if kind == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    if kind == "lion":
        return Lion(groups)
    if kind == "adafactor":
        return torch.optim.Adafactor(groups)
    if kind == "adamw_8bit":
        return eight_bit.adamw_8bit(groups)
    if kind == "schedule_free_adamw":
        from pipeline.train.engine.schedule_free import ScheduleFreeAdamW

        return ScheduleFreeAdamW(groups)
    from deepspeed.runtime.zero.muon import original_muon
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    if not precision().bf16:
        # It takes every CPU for one that multiplies bf16: where that is emulated, the iteration took three quarters of
        # a step. fp32 is also what it falls back to by itself.
        original_muon.ns_compute_dtype = lambda ns_method="gram": torch.float32
    for group in groups:
        for parameter in group["params"]:
            # Where ZeRO looks; without it a matrix silently gets plain SGD.
            parameter.use_muon = group["use_muon"]
    return MuonWithAuxAdam(groups, adam_optimizer=torch.optim.AdamW, adam_optimizer_kwargs={"fused": True})


def set_rates(optimizer: Any, factor: float) -> None:
    """Put every group at `factor` times its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def trainable_of(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """(name, parameter) of what learns, each parameter once."""
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
