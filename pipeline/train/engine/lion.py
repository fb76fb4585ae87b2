"""Lion (arXiv:2302.06675, algorithm 2): the sign of an interpolated moment, one moment a parameter."""

from collections.abc import Callable

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """Every operation is of one element, so that a shard's update is that of its part of the whole."""

    def __init__(self, groups: list[dict]):
        super().__init__(groups, {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        assert closure is None, "the loop computes the loss"
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not params:
                continue
            gradients = [parameter.grad for parameter in params]
            for parameter in params:
                if "exp_avg" not in self.state[parameter]:
                    self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
            moments = [self.state[parameter]["exp_avg"] for parameter in params]
            beta1, beta2 = group["betas"]
            update = torch._foreach_mul(moments, beta1)
            torch._foreach_add_(update, gradients, alpha=1 - beta1)
            torch._foreach_sign_(update)
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, update, alpha=-group["lr"])
            torch._foreach_mul_(moments, beta2)
            torch._foreach_add_(moments, gradients, alpha=1 - beta2)
