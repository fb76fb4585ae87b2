"""Schedule-free AdamW (arXiv:2405.15682): a running average of the weights takes the place of a schedule that decays.

Three sequences: z, which AdamW's steps move; x, the average of its points, which is the model; and y between them,
where gradients are taken. A parameter holds y, and x follows from y and z.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pipeline.run.config import Loop, Optimizer
from pipeline.train.engine.interface import Engine
from pipeline.train.schedule import learning_rate_factor


class ScheduleFreeAdamW(torch.optim.Optimizer):
    """Every operation is of one element, so that a shard's update is that of its part of the whole.

    Each parameter's state counts its updates as `steps`, and sums its squared rates, by which points are weighed, as
    `weight_sum`: under ZeRO-3 a group is updated in parts.
    """

    def __init__(self, groups: list[dict]):
        defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        assert closure is None, "the loop computes the loss"
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not params:
                continue
            for parameter in params:
                if "z" not in self.state[parameter]:
                    self.state[parameter]["z"] = parameter.detach().clone()
                    self.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)
                    self.state[parameter] |= counted(group["lr"], [])
                count(self.state[parameter], group["lr"])
            points = [self.state[parameter]["z"] for parameter in params]
            squares = [self.state[parameter]["exp_avg_sq"] for parameter in params]
            gradients = [parameter.grad for parameter in params]
            (beta1, beta2), rate, done = group["betas"], group["lr"], self.state[params[0]]
            share = rate**2 / done["weight_sum"]
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
            scales = torch._foreach_div(squares, 1 - beta2 ** done["steps"])
            torch._foreach_sqrt_(scales)
            torch._foreach_add_(scales, group["eps"])
            updates = torch._foreach_div(gradients, scales)
            torch._foreach_add_(updates, params, alpha=group["weight_decay"])
            torch._foreach_lerp_(params, points, share)
            torch._foreach_add_(params, updates, alpha=rate * (beta1 * (1 - share) - 1))
            torch._foreach_add_(points, updates, alpha=-rate)


def factors_before(updates: Sequence[int], optimizer: Optimizer, training: Loop) -> list[float]:
    """The factors of the updates of these steps, by which counters are made anew."""
    return [learning_rate_factor(step, training.max_steps, optimizer) for step in updates]


def count(state: dict[str, Any], rate: float) -> None:
    """One more update at this rate."""
    state["steps"] += 1
    state["weight_sum"] += rate**2


def counted(peak: float, factors: list[float]) -> dict[str, Any]:
    """The counters that updates at these factors of a peak rate leave behind."""
    found = {"steps": 0, "weight_sum": 0.0}
    for factor in factors:
        count(found, peak * factor)
    return found


class Average:
    """The averages x of a net that is learnt schedule-free."""

    def __init__(self, engine: Engine, beta1: float):
        self.engine, self.beta1 = engine, beta1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within, the masters hold x; behind it they hold y again, to the bit."""
        masters = self.engine.masters()
        kept = [master.detach().clone() for master in masters]
        with torch.no_grad():
            for master, point in zip(masters, self.engine.points(), strict=True):
                master.detach().lerp_(point, 1 - 1 / self.beta1)
        try:
            yield
        finally:
            with torch.no_grad():
                for master, before in zip(masters, kept, strict=True):
                    master.detach().copy_(before)
