"""Diffusion as a recipe: one turn, whose loss compares what the net says of a noisy picture with what it should say.

A sample's time, noise and whether its class is hidden follow from its index. Shapes: B pictures, C channels, H rows,
W columns.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.run.errors import UserError
from pipeline.train.recipe import Batch, Clock, Loss, Sum
from recipes.common.images.dataset import ImageSplit, PreparedImages, to_unit
from recipes.common.images.picture_net import PictureNet
from recipes.common.images.sheet import save_sheet
from recipes.common.noise import normal, uniform
from recipes.common.sample import columns_of, labels_in_turn
from recipes.diffusion.config import ZERO_STAGES
from recipes.diffusion.nets import attend_plainly, build_net, predict
from recipes.diffusion.objectives import noisy, signal_and_noise, target, timestep_of, weight
from recipes.diffusion.shapes import FEW_TOKENS, null_label, tokens

GOLDEN = (math.sqrt(5) - 1) / 2


class NoisyImages:
    """Implements pipeline.train.recipe.Split: pictures with `u` in [0, 1), `noise` (C, H, W) and `hidden`, by index."""

    def __init__(self, images: ImageSplit, seed: int, stream: str, dropout: float):
        self.images, self.seed, self.stream, self.dropout = images, seed, stream, dropout
        self.length = images.length
        self.start = float(uniform(seed, f"{stream}/time", 0))

    def item(self, index: int) -> dict[str, np.ndarray]:
        sample = self.images.item(index)
        height, width, channels = sample["image"].shape
        # Every run of indices fills [0, 1) evenly, so the mean over times varies less than with independent draws.
        time = (self.start + index * GOLDEN) % 1
        return sample | {
            "u": np.array(min(time, 1 - 2**-24), np.float32),
            "noise": normal(self.seed, f"{self.stream}/noise", index, (channels, height, width)),
            "hidden": uniform(self.seed, f"{self.stream}/class", index) < self.dropout,
        }


class Diffusion(PictureNet):
    """Implements pipeline.train.recipe.Recipe."""

    turns = ("model",)
    ema = ("model",)
    zero_stages = ZERO_STAGES

    def blank(self, count: int) -> Batch:
        size, channels = self.shape.image_size, self.shape.channels
        return super().blank(count) | {
            "u": torch.zeros(count),
            "noise": torch.zeros(count, channels, size, size),
            "hidden": torch.zeros(count, dtype=torch.bool),
        }

    def data(self) -> NoisyImages:
        train, seed = self.training, self.training.seed
        images = ImageSplit(PreparedImages.open(self.prepared, "train"), seed, train.flip)
        return NoisyImages(images, seed, "train", train.condition_dropout)

    def held_out(self) -> NoisyImages:
        return NoisyImages(super().held_out(), self.training.seed, "held_out", 0.0)

    def nets(self) -> dict[str, nn.Module]:
        self._refuse_guidance()
        net = build_net(self.config.model.net, self.shape)
        if torch.cuda.is_available():
            # On a CPU group normalisation loses more by it than convolutions win (torch 2.13, bf16: 287 against 207
            # images/s of forward and backward, 2 cores, batch 128).
            net.to(memory_format=torch.channels_last)
        elif tokens(self.config.model.net, self.shape.image_size) <= FEW_TOKENS:
            attend_plainly(net)
        if self.training.torch_compile:
            net.compile()
        return {"model": net}

    def _refuse_guidance(self) -> None:
        samplers = (self.config.sampler, *self.config.sampler.others)
        if not self.shape.classes and any(sampler.guidance != 1 for sampler in samplers):
            raise UserError(
                "guidance leads towards a class, and these pictures have no labels\nway out: sampler.guidance=1"
            )

    def described(self) -> dict[str, Any]:
        return {"net": self.config.model.net.model_dump(), "shape": asdict(self.shape)}

    def count(self, turn: str, batch: Batch) -> int:
        """Pixels, each channel for itself."""
        return batch["image"].numel()

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        errors_B, weights_B = self.errors(nets["model"], batch)
        return Loss((weights_B * errors_B).sum(), {"squared_error": errors_B.detach().sum()})

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        errors_B, weights_B = self.errors(nets["model"], batch)
        count = self.count("model", batch)
        weighted = (weights_B.double() * errors_B.double()).sum()
        return {
            "loss": Sum(float(weighted), count),
            "squared_error": Sum(float(errors_B.double().sum()), count),
        }

    def errors(self, net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each picture's squared error of the prediction, summed over pixels, and its weight; fp32 (B,) both."""
        model = self.config.model
        x_BCHW = to_unit(batch["image"]).contiguous()
        timestep_B = timestep_of(model.schedule, batch["u"])
        alpha_B, sigma_B = signal_and_noise(model.schedule, timestep_B)
        x_t_BCHW = noisy(x_BCHW, batch["noise"], alpha_B, sigma_B)
        said_BCHW = predict(net, x_t_BCHW, timestep_B, self.labels(batch))
        wanted_BCHW = target(model.prediction, x_BCHW, batch["noise"], alpha_B, sigma_B)
        errors_B = (said_BCHW - wanted_BCHW).square().flatten(1).sum(dim=1)
        return errors_B, weight(model.prediction, alpha_B, sigma_B, self.training.min_snr_gamma)

    def labels(self, batch: Batch) -> Tensor | None:
        """int64 (B,), the null label where a class is hidden or unknown; None for a net without classes."""
        null = self.null_label
        if null is None:
            return None
        unknown_B = batch["hidden"] | (batch["label"] < 0)
        return torch.where(unknown_B, null, batch["label"])

    @property
    def null_label(self) -> int | None:
        return null_label(self.config.model.net, self.shape.classes)

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """A sheet of picture i of seeds[i] and class i modulo the classes, in `out/samples.png`."""
        from recipes.diffusion.sampler import drawing, pipeline_of

        classes = self.shape.classes
        pipeline = pipeline_of(self.config, nets["model"], self.null_label, self.config.sampler)
        pictures = drawing(pipeline)(seeds, labels_in_turn(len(seeds), classes))
        save_sheet(pictures, out / "samples.png", columns_of(classes))
        return {}
