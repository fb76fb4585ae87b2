"""What training an image recipe holds and does, counted on nets without memory, for `headwater plan`."""

from typing import TYPE_CHECKING

import torch

from pipeline.activations import kept_bytes
from pipeline.estimate import Size, moment_bytes
from pipeline.optimizer import parameter_groups
from pipeline.recipe import Batch, Clock, Recipe

if TYPE_CHECKING:
    from torch import Tensor


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
        fresh = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in batch.items()}
        # A compiled kernel would read the memory that is not there.
        with torch.compiler.set_stance("force_eager"):
            return recipe.loss(turn, nets, fresh, Clock(0, 0)).total

    bf16 = recipe.training.bf16
    dtype = torch.bfloat16 if bf16 and zero else torch.float32
    activations = kept_bytes(nets.values(), forward, dtype, autocast=bf16 and not zero)
    flops = recipe.flops_per_sample * recipe.training.train_batch_size
    return Size(parameters, learning, moments, flops, activations)
