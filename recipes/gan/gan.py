"""The GAN as a recipe: two turns, the critic's and the generator's, over the same samples.

The critic's slope is held down at both kinds of samples (R1 and R2, arXiv:2501.05441). What is imitated, and by which
nets, is the subject's (subject.py). Shapes: B samples.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.train.recipe import Batch, Clock, Loss, Split, Sum, stacked
from recipes.common.estimate import flops_of
from recipes.gan.config import ZERO_STAGES, GanConfig
from recipes.gan.losses import critic_loss, generator_loss, squared_slope
from recipes.gan.subject import subject_of


class Gan:
    """Implements pipeline.train.recipe.Recipe. prepared: the pictures; the ring needs none."""

    turns = ("critic", "generator")
    ema = ("generator",)
    zero_stages = ZERO_STAGES
    units_per_sample = 1

    def __init__(self, config: GanConfig, prepared: Path | None = None):
        self.config, self.training = config, config.train
        self.optimizers = {"critic": config.train.critic, "generator": config.train.generator}
        self.subject = subject_of(config, prepared)
        self.unit = self.subject.unit

    @cached_property
    def flops_per_sample(self) -> float:
        return flops_of(self, self.training.penalty_steps)

    def blank(self, count: int) -> Batch:
        return self.subject.blank(count)

    def data(self) -> Split:
        return self.subject.data()

    def held_out(self) -> Split:
        return self.subject.held_out()

    collate = staticmethod(stacked)

    def nets(self) -> dict[str, nn.Module]:
        return self.subject.nets()

    def described(self) -> dict[str, Any]:
        return self.subject.described()

    def count(self, turn: str, batch: Batch) -> int:
        return len(batch["latent"])

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        fake = nets["generator"](batch["latent"], batch.get("label"))
        fake = self.subject.on_the_way(fake, batch, real=False)
        real = self.subject.on_the_way(self.subject.real(batch), batch, real=True)
        if turn == "critic":
            return self._critics_loss(nets["critic"], real, fake, batch, clock)
        fake_score, real_score = nets["critic"](fake, batch.get("label")), None
        if self.training.adversarial == "relativistic":  # the only game in which it matters to the generator
            with torch.no_grad():
                real_score = nets["critic"](real, batch.get("label"))
        return Loss(generator_loss(self.training.adversarial, real_score, fake_score).sum())

    def _critics_loss(
        self, critic: nn.Module, real: Tensor, fake: Tensor, batch: Batch, clock: Clock
    ) -> Loss:
        """One forward over everything that is scored: DDP and ZeRO want one a backward."""
        samples, label = torch.cat([real, fake]), batch.get("label")
        due = self.training.penalised and clock.step % self.training.penalty_steps == 0
        if due:
            nudge = self.training.penalty_std * batch["nudge"]
            samples = torch.cat([samples, real + nudge, fake + nudge])
        labels = None if label is None else label.repeat(len(samples) // len(label))
        scores = critic(samples, labels).split(len(real))
        adversarial = critic_loss(self.training.adversarial, *scores[:2]).sum()
        # Of scores only differences are told: the relativistic game leaves their common level free to wander.
        parts = {"adversarial": adversarial, "margin": (scores[0] - scores[1]).sum()}
        total = adversarial
        if due:
            penalty, slopes = self._penalty(scores)
            parts, total = parts | slopes, total + penalty
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def _penalty(self, scores: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """R1 and R2, weighted; measured every k-th step, k times as much (arXiv:1912.04958, Section 3.1)."""
        real, fake, nudged_real, nudged_fake = scores
        std, every = self.training.penalty_std, self.training.penalty_steps
        slopes = {
            "slope_real": squared_slope(real, nudged_real, std).sum(),
            "slope_fake": squared_slope(fake, nudged_fake, std).sum(),
        }
        weighted = self.training.r1 * slopes["slope_real"] + self.training.r2 * slopes["slope_fake"]
        return every / 2 * weighted, slopes

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        return self.subject.evaluate(nets, batch)

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        return self.subject.sample(nets, seeds, out)
