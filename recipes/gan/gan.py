"""The GAN as a recipe: two turns, the critic's and the generator's, over the same samples.

The loss compares a real with a generated point (relativistic pairing, arXiv:1807.00734), which leaves no reward for
dropping modes, and holds the critic's slope down at both kinds of points (arXiv:2501.05441). The slope is measured as
a finite difference (arXiv:2501.08316), so no gradient is differentiated twice and any engine can take the backward.
Shapes: B samples, 2 coordinates.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.recipe import Batch, Clock, Loss, Sum
from recipes.gan.config import GanConfig
from recipes.gan.model import build_critic, build_generator
from recipes.gan.ring import RingSamples, figures, latent_of

ZERO_STAGES = (1, 2)
CHUNK = 64  # samples drawn at a time: a matrix product's rounding depends on how many rows it has


class Gan:
    """Implements pipeline.recipe.Recipe."""

    turns = ("critic", "generator")
    ema = ("generator",)
    zero_stages = ZERO_STAGES
    flops_per_sample = 0.0
    unit = "samples"
    units_per_sample = 1

    def __init__(self, config: GanConfig):
        self.config, self.training = config, config.train
        self.optimizers = {"critic": config.train.critic, "generator": config.train.generator}

    def data(self) -> RingSamples:
        return RingSamples(self.config.data, self.config.model.latent_size, self.training.seed, "train")

    def held_out(self) -> RingSamples:
        size, samples = self.config.model.latent_size, self.config.evaluate.samples
        return RingSamples(self.config.data, size, self.training.seed, "held_out", samples)

    def collate(self, items: list[dict[str, np.ndarray]]) -> Batch:
        return {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}

    def nets(self) -> dict[str, nn.Module]:
        return {"critic": build_critic(self.config.model), "generator": build_generator(self.config.model)}

    def count(self, turn: str, batch: Batch) -> int:
        return len(batch["point"])

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        fake = nets["generator"](batch["latent"])
        points = torch.cat([batch["point"], fake])
        if turn == "generator":
            real_score, fake_score = _scores(nets["critic"], points).chunk(2)
            return Loss(F.softplus(real_score - fake_score).sum())
        nudge = self.training.penalty_std * batch["nudge"].repeat(2, 1)
        scores, nudged = _scores(nets["critic"], torch.cat([points, points + nudge])).chunk(2)
        real_score, fake_score = scores.chunk(2)
        adversarial = F.softplus(fake_score - real_score).sum()
        slope = ((nudged - scores) / self.training.penalty_std).square().sum()
        parts = {"adversarial": adversarial.detach(), "slope": slope.detach()}
        return Loss(adversarial + self.training.penalty / 2 * slope, parts)

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        return figures(nets["generator"](batch["latent"]), self.config.data)

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> None:
        """One point a seed, in `out/points.npy`, (B, 2)."""
        np.save(out / "points.npy", self.points(nets["generator"], seeds).numpy())

    @torch.no_grad()
    def points(self, generator: nn.Module, seeds: list[int]) -> Tensor:
        """Point i (B, 2) of seeds[i]: the same bits whatever the other seeds are."""
        latents = torch.zeros(len(seeds) + -len(seeds) % CHUNK, self.config.model.latent_size)
        for row, seed in enumerate(seeds):
            latents[row] = torch.from_numpy(latent_of(seed, self.config.model.latent_size))
        return torch.cat([generator(chunk) for chunk in latents.split(CHUNK)])[: len(seeds)]


def _scores(critic: nn.Module, points: Tensor) -> Tensor:
    """(B, 2) -> (B,)."""
    return critic(points).squeeze(1)
