"""The ring of Gaussians: its samples by index, and how well other points imitate it.

Shapes: B points, 2 coordinates, K modes.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.train.recipe import Batch, Sum
from pipeline.train.seeds import derived_seed
from recipes.gan.config import Ring, RingConfig
from recipes.gan.model import build_critic, build_generator

# A point this near to a centre is of high quality and counts for its mode: 1 - exp(-4.5) = 0.9889 of the ring itself.
HIGH_QUALITY_STDS = 3
# A mode is covered by this part of the samples that it would have if every mode had the same number.
FAIR_SHARE = 1 / 4
CHUNK = 64  # samples drawn at a time: a matrix product's rounding depends on how many rows it has


class RingSubject:
    """Implements recipes.gan.subject.Subject: points on the plane, without classes."""

    unit = "samples"

    def __init__(self, config: RingConfig):
        self.ring, self.model, self.seed = config.data, config.model, config.train.seed
        self.held_out_samples = config.evaluate.samples

    def data(self) -> "RingSamples":
        return RingSamples(self.ring, self.model.latent_size, self.seed, "train")

    def held_out(self) -> "RingSamples":
        return RingSamples(self.ring, self.model.latent_size, self.seed, "held_out", self.held_out_samples)

    def blank(self, count: int) -> Batch:
        sizes = {"point": 2, "nudge": 2, "latent": self.model.latent_size}
        return {name: torch.zeros(count, size) for name, size in sizes.items()}

    def nets(self) -> dict[str, nn.Module]:
        return {"critic": build_critic(self.model), "generator": build_generator(self.model)}

    def described(self) -> dict[str, Any]:
        return {}

    def real(self, batch: Batch) -> Tensor:
        return batch["point"]

    def on_the_way(self, samples: Tensor, batch: Batch, real: bool) -> Tensor:
        return samples

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch) -> dict[str, Sum]:
        return figures(nets["generator"](batch["latent"]), self.ring)

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """One point a seed, in `out/points.npy`, (B, 2)."""
        np.save(out / "points.npy", self.points(nets["generator"], seeds).cpu().numpy())
        return {}

    @torch.no_grad()
    def points(self, generator: nn.Module, seeds: list[int]) -> Tensor:
        """Point i (B, 2) of seeds[i]: the same bits whatever the other seeds are."""
        latents = torch.zeros(len(seeds) + -len(seeds) % CHUNK, self.model.latent_size)
        for row, seed in enumerate(seeds):
            latents[row] = torch.from_numpy(latent_of(seed, self.model.latent_size))
        latents = latents.to(next(generator.parameters()).device)
        return torch.cat([generator(chunk) for chunk in latents.split(CHUNK)])[: len(seeds)]


def centres(ring: Ring) -> np.ndarray:
    """The modes' means, (K, 2), counter-clockwise from (radius, 0)."""
    angles = np.arange(ring.modes) * (2 * math.pi / ring.modes)
    return ring.radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


@dataclass(frozen=True)
class RingSamples:
    """An endless stream of points, each with the noise that its sample needs: both follow from (seed, name, index).

    Noise that comes with the sample is the same however samples are cut into micro-batches over processes.
    """

    ring: Ring
    latent_size: int
    seed: int
    name: str  # "train" or "held_out": streams that share no point
    length: int = 100_000

    def item(self, index: int) -> dict[str, np.ndarray]:
        """`point` and `nudge` (2,), `latent` (latent_size,); fp32."""
        random = np.random.default_rng(derived_seed(self.seed, self.name, index))
        angle = random.integers(self.ring.modes) * (2 * math.pi / self.ring.modes)
        centre = self.ring.radius * np.array([math.cos(angle), math.sin(angle)])
        normal = random.standard_normal(4 + self.latent_size)
        point = centre + self.ring.std * normal[:2]
        return {name: value.astype(np.float32) for name, value in _named(point, normal).items()}


def _named(point: np.ndarray, normal: np.ndarray) -> dict[str, np.ndarray]:
    return {"point": point, "nudge": normal[2:4], "latent": normal[4:]}


def latent_of(seed: int, latent_size: int) -> np.ndarray:
    """The latent (latent_size,) of sample number `seed`, fp32."""
    return np.random.default_rng(derived_seed(seed, "latent")).standard_normal(latent_size, dtype=np.float32)


def figures(points: Tensor, ring: Ring) -> dict[str, Sum]:
    """Of points (B, 2): the shares nearest to each mode, and those of them within HIGH_QUALITY_STDS of its centre."""
    distances = torch.cdist(points.double(), torch.from_numpy(centres(ring)).to(points.device))
    nearest_distances, modes = distances.min(dim=1)
    near = modes[nearest_distances <= HIGH_QUALITY_STDS * ring.std]
    count = float(len(points))
    found = {"high_quality": Sum(float(len(near)), count)}
    for kind, members in (("share", modes), ("covered", near)):
        numbers = torch.bincount(members, minlength=ring.modes).tolist()
        found |= {f"mode_{mode}_{kind}": Sum(float(number), count) for mode, number in enumerate(numbers)}
    return found


def summary(found: dict[str, Sum], ring: Ring) -> dict[str, float]:
    """The three scores of summed `figures`.

    modes_covered: modes with at least FAIR_SHARE of their fair share of the samples within HIGH_QUALITY_STDS;
    high_quality: share of the samples within that of any centre; mode_kl: Kullback-Leibler divergence in nats of
    the histogram of nearest modes from the uniform one.
    """
    shares = [found[f"mode_{mode}_share"].mean for mode in range(ring.modes)]
    covered = [found[f"mode_{mode}_covered"].mean >= FAIR_SHARE / ring.modes for mode in range(ring.modes)]
    return {
        "modes_covered": sum(covered),
        "high_quality": found["high_quality"].mean,
        "mode_kl": math.fsum(share * math.log(share * ring.modes) for share in shares if share),
        "samples": int(found["high_quality"].count),
    }
