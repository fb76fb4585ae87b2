"""One process, or DDP over several."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.run.config import Loop, Optimizer
from pipeline.train.engine.eight_bit import empty_state
from pipeline.train.engine.interface import (
    OPTIMIZER_STATE,
    STEPPED,
    NonFinite,
    optimizer_of,
    set_rates,
    trainable_of,
)
from pipeline.train.engine.runtime import Runtime
from pipeline.train.engine.schedule_free import counted, factors_before
from pipeline.train.optimizer import rule_of

# DDP's reducer must not be freed while gloo's thread still holds its last tensor: each then waits for the other.
# Programs end by `stage.leave`, which frees nothing.
_DDP_OF_THIS_PROCESS: list[nn.Module] = []


class PlainEngine:
    """One process, or DDP over several: fp32 weights, bf16 by autocast."""

    def __init__(
        self,
        module: nn.Module,
        groups: list[dict],
        optimizer: Optimizer,
        training: Loop,
        runtime: Runtime,
    ):
        self.module = module
        self.forward = module
        if runtime.world_size > 1:
            # DDP lays gradients out anew after its first step, in the order that they came in. From three processes
            # on, where a gradient lies decides in what order its parts are added: a resumed run, whose first step is
            # a later one, would differ in the last bits. Where it looks for unused parameters, it does not (2.13).
            fixed = training.deterministic and runtime.world_size > 2
            self.forward = nn.parallel.DistributedDataParallel(module, find_unused_parameters=fixed)
            _DDP_OF_THIS_PROCESS.append(self.forward)
        self.trainable = trainable_of(module)
        self.optimizer = optimizer_of(groups, rule_of(optimizer.optim))
        self.factors = partial(factors_before, optimizer=optimizer, training=training)
        self.max_norm = optimizer.max_grad_norm or math.inf
        self.autocast = training.bf16
        self.device = runtime.device.type

    def learns(self, learning: bool) -> None:
        for _, parameter in self.trainable:
            parameter.requires_grad_(learning)

    def precision(self) -> AbstractContextManager:
        return torch.autocast(self.device, torch.bfloat16) if self.autocast else nullcontext()

    def opens(self, last: bool) -> None:
        if self.forward is not self.module:
            self.forward.require_backward_grad_sync = last  # read by DDP's forward

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()

    def update(self, factor: float) -> float:
        parameters = [parameter for _, parameter in self.trainable]
        norm = nn.utils.clip_grad_norm_(parameters, self.max_norm, foreach=True).item()
        if not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise NonFinite(f"the gradient norm is {norm}")
        set_rates(self.optimizer, factor)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def discard(self) -> None:
        self.optimizer.zero_grad()

    def masters(self) -> list[Tensor]:
        return [parameter for _, parameter in self.trainable]

    def points(self) -> list[Tensor]:
        return [self.optimizer.state[parameter].get("z", parameter.detach()) for parameter in self.masters()]

    def refresh(self) -> None:
        """The masters are the weights."""

    def state(self, names: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.trainable:
            for kind in names:
                if kind == "weight":
                    yield f"weight/{name}", parameter.detach()
                elif kind in self.optimizer.state[parameter]:
                    yield f"{kind}/{name}", self.optimizer.state[parameter][kind]

    @torch.no_grad()
    def load(self, read: Callable[[str], Tensor], updates: Sequence[int]) -> None:
        owners = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        for name, parameter in self.trainable:
            parameter.copy_(read(f"weight/{name}"))
            rule = owners[id(parameter)]["rule"]
            if rule == "adamw_8bit":
                state = empty_state(self.optimizer, parameter, len(updates))
                kinds = [kind for kind in kinds_of(parameter, rule) if kind in state]
            else:
                kinds = kinds_of(parameter, rule)
                state = {kind: _like(parameter, kind) for kind in kinds}
            for kind in kinds:
                state[kind].copy_(read(f"{kind}/{name}"))
            if rule == "schedule_free_adamw":
                state |= counted(owners[id(parameter)]["peak"], self.factors(updates))
            if rule in STEPPED:
                state["step"] = torch.tensor(float(len(updates)), device=parameter.device)
            self.optimizer.state[parameter] = state


def kinds_of(parameter: Tensor, rule: str) -> tuple[str, ...]:
    """What the rule keeps of a parameter: of a matrix, Adafactor keeps rows and columns of its second moment."""
    if rule != "adafactor":
        return OPTIMIZER_STATE[rule]
    return ("row_var", "col_var") if parameter.ndim > 1 else ("variance",)


def _like(parameter: Tensor, kind: str) -> Tensor:
    """Empty state, laid out as the parameter is (channels last, say): the fused update walks both in memory order."""
    if kind in ("row_var", "col_var"):
        dimension = -1 if kind == "row_var" else -2
        shape = list(parameter.shape)
        shape[dimension] = 1
        return parameter.new_empty(shape)
    return torch.empty_like(parameter)
