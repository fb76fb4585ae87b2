"""What training an image recipe holds and does, counted on nets without memory, for `headwater plan`."""

from itertools import product
from typing import TYPE_CHECKING

import torch

from pipeline.activations import kept_bytes, without_memory
from pipeline.estimate import Size, moment_bytes
from pipeline.optimizer import parameter_groups
from pipeline.recipe import Batch, Clock, Recipe

if TYPE_CHECKING:
    from torch import Tensor


def flops_of(recipe: Recipe, batch: Batch, steps: int = 1) -> float:
    """FLOPs that a sample costs an optimizer step: forward and backward of every turn, without the update.

    Counted are products of matrices, convolutions and attention, a multiplication and an addition apart, as PyTorch's
    FlopCounterMode has them. batch: of any values; steps: after how many updates the work repeats itself.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        nets = recipe.nets()
    plain = sdpa_kernel(SDPBackend.MATH)  # the counter does not know the fused attention of a CPU
    with plain, without_memory(nets.values(), torch.float32), FlopCounterMode(display=False) as counter:
        for turn, step in product(recipe.turns, range(steps)):
            for name, net in nets.items():
                net.requires_grad_(name == turn)
            recipe.loss(turn, nets, _blank(batch), Clock(step, 0)).total.backward()
    return counter.get_total_flops() / (steps * len(next(iter(batch.values()))))


def _blank(batch: Batch) -> Batch:
    return {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in batch.items()}


def size_of(recipe: Recipe, turn: str, batch: Batch, zero: bool) -> Size:
    """The size of a recipe whose nets can be made on the meta device.

    turn: the one that keeps the most for its backward; batch: one micro-batch, of any values; zero: whether DeepSpeed
    turns the weights to bf16.
    """
    with torch.device("meta"):
        nets = recipe.nets()
    trained = [nets[name] for name in recipe.turns]
    parameters = sum(parameter.numel() for net in nets.values() for parameter in net.parameters())
    learning = sum(parameter.numel() for net in trained for parameter in net.parameters())
    moments = sum(
        moment_bytes(parameter_groups(nets[name], recipe.optimizers[name])) for name in recipe.turns
    )

    def forward() -> "Tensor":
        return recipe.loss(turn, nets, _blank(batch), Clock(0, 0)).total

    bf16 = recipe.training.bf16
    dtype = torch.bfloat16 if bf16 and zero else torch.float32
    activations = kept_bytes(nets.values(), forward, dtype, autocast=bf16 and not zero)
    flops = recipe.flops_per_sample * recipe.training.train_batch_size
    return Size(parameters, learning, moments, flops, activations)
