"""Pictures as what a GAN imitates: their samples by index, their nets, and what is said of generated ones.

Shapes: B pictures, H rows, W columns, C channels, L latent numbers.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.train.recipe import Batch, Split, Sum
from recipes.common.images.dataset import ImageSplit, PreparedImages
from recipes.common.images.pixels import to_unit
from recipes.common.images.shape import Shape
from recipes.common.images.sheet import save_sheet
from recipes.common.noise import normal, uniform
from recipes.common.sample import columns_of, labels_in_turn
from recipes.gan import alarms
from recipes.gan.config import ImageConfig
from recipes.gan.diffaugment import DRAWS, augment
from recipes.gan.drawing import drawn
from recipes.gan.losses import critic_loss
from recipes.gan.pairs import build_critic, build_generator, describe


class ImageSubject:
    """Implements recipes.gan.subject.Subject. prepared: None to estimate the nets' size alone."""

    unit = "images"

    def __init__(self, config: ImageConfig, prepared: Path | None):
        self.model, self.training, self.pictures = config.model, config.train, config.data
        self.prepared = prepared

    @cached_property
    def train(self) -> PreparedImages:
        return PreparedImages.open(self.prepared, "train")

    @cached_property
    def shape(self) -> Shape:
        """Before pictures are prepared their classes are not known; the estimate counts none."""
        if self.prepared is None:
            return Shape(self.pictures.image_size, self.pictures.channels, 0)
        shape = Shape.of(self.train)
        return shape if self.model.conditional else replace(shape, classes=0)

    def data(self) -> "NoisyPictures":
        seed = self.training.seed
        return self._noisy(ImageSplit(self.train, seed, self.training.flip), "train")

    def held_out(self) -> "NoisyPictures":
        return self._noisy(ImageSplit(PreparedImages.open(self.prepared, "held_out"), None), "held_out")

    def _noisy(self, split: Split, name: str) -> "NoisyPictures":
        return NoisyPictures(
            split,
            self.shape,
            self.model.latent_size,
            self.training.seed,
            name,
            nudged=self.training.penalised,
            augmented=bool(self.training.augment),
        )

    def blank(self, count: int) -> Batch:
        """A batch of `count` samples of the right shapes."""
        side, channels = self.shape.image_size, self.shape.channels
        pictures = self.shape.blank(count)
        if not self.shape.classes:
            del pictures["label"]
        return pictures | {
            "latent": torch.zeros(count, self.model.latent_size),
            "nudge": torch.zeros(count, channels, side, side),
            "draws": torch.zeros(count, 2, DRAWS),
        }

    def nets(self) -> dict[str, nn.Module]:
        """Pictures are channels-last in memory, weights are not: DeepSpeed 0.19.8 sends those as bytes, as they lie."""
        nets = {
            "critic": build_critic(self.model, self.shape),
            "generator": build_generator(self.model, self.shape),
        }
        if self.training.torch_compile:
            for net in nets.values():
                net.compile()
        return nets

    def described(self) -> dict[str, Any]:
        return describe(self.model, self.shape)

    def real(self, batch: Batch) -> Tensor:
        return to_unit(batch["image"])

    def on_the_way(self, samples: Tensor, batch: Batch, real: bool) -> Tensor:
        """DiffAugment, with draws of its own for the real and the generated picture of a sample."""
        if not self.training.augment:
            return samples
        return augment(samples, self.training.augment, batch["draws"][:, int(real)])

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch) -> dict[str, Sum]:
        """The critic's game on held-out pictures: one that has learnt its training pictures by heart loses it."""
        labels, count = batch.get("label"), len(batch["latent"])
        real = nets["critic"](self.real(batch), labels)
        fake = nets["critic"](nets["generator"](batch["latent"], labels), labels)
        figures = {"adversarial": critic_loss(self.training.adversarial, real, fake), "margin": real - fake}
        return {name: Sum(float(values.sum()), count) for name, values in figures.items()}

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """`out/samples.png`, a picture a seed, with label i modulo the classes; the figures are alarms.py's."""
        labels = labels_in_turn(len(seeds), len(self.train.classes))
        save_sheet(
            drawn(nets["generator"], seeds, labels), out / "samples.png", columns_of(len(self.train.classes))
        )
        count = min(self.training.alarm_samples, len(self.train.labels) // 2)
        real, labels = np.array(self.train.images[: 2 * count]), self.train.labels[:count].tolist()
        generated = drawn(nets["generator"], list(range(count)), [max(0, label) for label in labels])
        seen = alarms.likeness(real[:count], real[count:], generated)
        judged = alarms.judgement(nets["critic"], self.training.adversarial, real[:count], generated, labels)
        return alarms.rung(seen | judged)


@dataclass(frozen=True)
class NoisyPictures:
    """A split whose pictures come with the noise that their losses need, a function of (seed, name, index).

    name: "train" or "held_out", streams that share no noise. nudged, augmented: whether a loss asks for that noise.
    """

    split: Split
    shape: Shape
    latent_size: int
    seed: int
    name: str
    nudged: bool
    augmented: bool

    @property
    def length(self) -> int:
        return self.split.length

    def item(self, index: int) -> dict[str, np.ndarray]:
        """`image` uint8 (H, W, C); `latent` (L,), fp32; where asked for `nudge` (C, H, W), `draws` (2, DRAWS), fp32,
        and `label` ().
        """
        found = self.split.item(index)
        side, channels, latents = self.shape.image_size, self.shape.channels, self.latent_size
        numbers = latents + channels * side * side * self.nudged
        noise = normal(self.seed, f"{self.name}/noise", index, (numbers,))
        item = {"image": found["image"], "latent": noise[:latents]}
        if self.nudged:
            item["nudge"] = noise[latents:].reshape(channels, side, side)
        if self.augmented:
            item["draws"] = uniform(self.seed, f"{self.name}/augment", index, (2, DRAWS))
        if self.shape.classes:
            item["label"] = found["label"]
        return item
