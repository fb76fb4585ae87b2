"""The one contract that every model family signs: data, nets, loss, evaluate, sample."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.run.config import Loop, Optimizer

Batch = dict[str, Tensor]


class Loss(NamedTuple):
    """A sum over the terms of one micro-batch, never a mean: ranks, micro-batches and padding then add exactly.

    total: 0-d tensor, the sum that is differentiated; the loop divides it by the recipe's `count` of the
        whole optimizer step, over all processes.
    parts: detached 0-d sums for the log, over the same terms.
    counts: of the parts that are over other terms, how many these are.
    """

    total: Tensor
    parts: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}


class Sum(NamedTuple):
    """An evaluation figure before its only division."""

    total: float
    count: float

    def __add__(self, other: "Sum") -> "Sum":
        return Sum(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> float:
        return self.total / self.count


@dataclass(frozen=True)
class Clock:
    """Progress, the only thing that a recipe's schedules may depend on.

    step: optimizer steps done; samples: index of this batch's first sample.
    """

    step: int
    samples: int


class Split(Protocol):
    """Samples by global index: order is a pure function of (seed, epoch, index), so the only state is an integer.

    Noise that a loss needs (a latent, a diffusion time) is part of the sample, a function of its index too: it is then
    the same however samples are cut into batches over processes, in training and in evaluation.
    """

    length: int  # samples an epoch

    def item(self, index: int) -> dict[str, np.ndarray]: ...


class Recipe(Protocol):
    """What a model family gives; the loop, the launcher, checkpoints, resume and export are the same for all."""

    training: Loop
    turns: tuple[str, ...]  # nets updated within a step, in order: ("model",) or ("critic", "generator")
    ema: tuple[str, ...]  # the turns whose nets get an fp32 shadow where `ema_decay` asks for one
    optimizers: dict[str, Optimizer]  # the update rule of each turn's net
    zero_stages: tuple[int, ...]  # ZeRO stages this recipe is tested under; others are refused by name
    unit: str  # what rates count: "tokens", "images"
    units_per_sample: int
    flops_per_sample: float  # of forward and backward over all turns; 0: not reported

    def data(self) -> Split: ...

    def held_out(self) -> Split | None: ...

    def collate(self, items: list[dict[str, np.ndarray]]) -> Batch: ...

    def nets(self) -> dict[str, nn.Module]:
        """Every net by name; one that is no turn is frozen: it learns nothing, and no checkpoint holds it."""

    def count(self, turn: str, batch: Batch) -> float:
        """Terms that `loss` sums over in this batch; known before the forward, on the CPU."""

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss: ...

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]: ...

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """Write sample i of seeds[i] to `out`, the same at any batch size; returns figures on them for the log.

        A figure named `alarm_NAME` is 1 where something is wrong: it is said on the terminal and in the report.
        """


@runtime_checkable
class Acting(Protocol):
    """What a recipe has beside the contract if it learns from what its nets do: answers that they sample.

    round_steps: updates on what one call made, all on the same samples. Only whole rounds are saved, and a request to
    stop waits for the end of one: what the weights did before is kept nowhere.
    """

    round_steps: int

    def act(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Batch:
        """What is learnt from in place of `batch`, on any device, made by the weights at the beginning of a round."""


def stacked(items: list[dict[str, np.ndarray]]) -> Batch:
    """`Recipe.collate` for items of one shape: every entry with one more dimension, the first."""
    return {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
