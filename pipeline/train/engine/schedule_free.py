"""Schedule-free AdamW (arXiv:2405.15682): a running average of the weights takes the place of a schedule that decays.

Three sequences: z, which AdamW's steps move; x, the average of its points, which is the model; and y between them,
where gradients are taken. A parameter holds y, and x follows from y and z.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pipeline.run.config import Loop, Optimizer
from pipeline.train.engine.interface import Engine
from pipeline.train.schedule import learning_rate_factor


class ScheduleFreeAdamW(torch.optim.Optimizer):
    """Every operation is of one element, so that a shard's update is that of its part of the whole.

    A group counts its updates as `steps`, and sums its squared rates, by which points are weighed, as `weight_sum`.
    """

    def __init__(self, groups: list[dict]):
        defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
        super().__init__(groups, defaults | {"steps": 0, "weight_sum": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        assert closure is None, "the loop computes the loss"
        for group in self.param_groups:
            rate = self.count(group, group["lr"])
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not params:
                continue
            for parameter in params:
                if "z" not in self.state[parameter]:
                    self.state[parameter]["z"] = parameter.detach().clone()
                    self.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)
            points = [self.state[parameter]["z"] for parameter in params]
            squares = [self.state[parameter]["exp_avg_sq"] for parameter in params]
            gradients = [parameter.grad for parameter in params]
            (beta1, beta2), share = group["betas"], rate**2 / group["weight_sum"]
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
            scales = torch._foreach_div(squares, 1 - beta2 ** group["steps"])
            torch._foreach_sqrt_(scales)
            torch._foreach_add_(scales, group["eps"])
            updates = torch._foreach_div(gradients, scales)
            torch._foreach_add_(updates, params, alpha=group["weight_decay"])
            torch._foreach_lerp_(params, points, share)
            torch._foreach_add_(params, updates, alpha=rate * (beta1 * (1 - share) - 1))
            torch._foreach_add_(points, updates, alpha=-rate)

    @staticmethod
    def count(group: dict, rate: float) -> float:
        """One more update of the group at this rate."""
        group["steps"] += 1
        group["weight_sum"] += rate**2
        return rate


def counters_of(optimizer: Optimizer, training: Loop) -> Callable[[int], list[float]] | None:
    """What gives the factors of the first so many updates, by which the counters are made anew; None without them."""
    if optimizer.optim != "schedule_free_adamw":
        return None
    return lambda steps: [learning_rate_factor(step, training.max_steps, optimizer) for step in range(steps)]


def recount(optimizer: torch.optim.Optimizer, factors: list[float]) -> None:
    """Give each group the counters that updates at these factors of its peak rate leave behind."""
    for group in optimizer.param_groups:
        group["steps"], group["weight_sum"] = 0, 0.0
        for factor in factors:
            ScheduleFreeAdamW.count(group, group["peak"] * factor)


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
