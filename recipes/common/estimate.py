"""What training an image recipe holds and does, counted on nets without memory, for `headwater plan`."""

from itertools import product
from typing import TYPE_CHECKING, Protocol

import torch

from pipeline.run.activations import kept_bytes, without_memory
from pipeline.run.config import Run
from pipeline.run.launch import read_launch
from pipeline.run.memory import Size, moment_bytes
from pipeline.run.plan import Batches
from pipeline.train.optimizer import parameter_groups
from pipeline.train.recipe import Batch, Clock, Recipe

if TYPE_CHECKING:
    from torch import Tensor


PAIR = 2  # samples that FLOPs are counted on: every sample costs the same


class Foretold(Recipe, Protocol):
    """A recipe that knows what its batches look like before there are any."""

    def blank(self, count: int) -> Batch:
        """A batch of `count` samples of the right shapes."""


def flops_of(recipe: Foretold, steps: int = 1) -> float:
    """FLOPs that a sample costs an optimizer step: forward and backward of every turn, without the update.

    Counted are products of matrices, convolutions and attention, a multiplication and an addition apart, as PyTorch's
    FlopCounterMode has them. steps: after how many updates the work repeats itself.
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
            recipe.loss(turn, nets, recipe.blank(PAIR), Clock(step, 0)).total.backward()
    return counter.get_total_flops() / (steps * PAIR)


def size_of(recipe: Foretold, turn: str, run: Run) -> Size:
    """The size of a recipe whose nets can be made on the meta device; `turn` keeps the most for its backward."""
    launch = read_launch(run)
    zero = launch.zero_stage is not None  # DeepSpeed turns the weights to bf16
    micro = Batches.derive(recipe.training, launch.num_processes).micro
    with torch.device("meta"):
        nets = recipe.nets()
    trained = [nets[name] for name in recipe.turns]
    parameters = sum(parameter.numel() for net in nets.values() for parameter in net.parameters())
    learning = sum(parameter.numel() for net in trained for parameter in net.parameters())
    moments = sum(
        moment_bytes(parameter_groups(nets[name], recipe.optimizers[name])) for name in recipe.turns
    )

    def forward() -> "Tensor":
        return recipe.loss(turn, nets, recipe.blank(micro), Clock(0, 0)).total

    bf16 = recipe.training.bf16
    dtype = torch.bfloat16 if bf16 and zero else torch.float32
    activations = kept_bytes(nets.values(), forward, dtype, autocast=bf16 and not zero)
    flops = recipe.flops_per_sample * recipe.training.train_batch_size
    return Size(parameters, learning, moments, flops, activations)
