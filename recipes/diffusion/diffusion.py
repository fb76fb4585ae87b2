"""Diffusion as a recipe: one turn, whose loss compares what the net says of a noisy picture with what it should say.

A sample's time, noise and whether its class is hidden follow from its index. Shapes: B pictures, C channels, H rows,
W columns.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.run.errors import UserError
from pipeline.train.recipe import Batch
from recipes.common.images.dataset import ImageSplit
from recipes.common.images.picture_net import PictureNet
from recipes.common.images.pixels import to_unit
from recipes.common.images.sheet import save_sheet
from recipes.common.noise import normal, uniform
from recipes.common.sample import columns_of, labels_in_turn
from recipes.diffusion.config import ZERO_STAGES
from recipes.diffusion.errors import SquaredErrors, misfit
from recipes.diffusion.nets import attend_plainly, build_net, predict
from recipes.diffusion.objectives import noisy, signal_and_noise, time_of, timestep_of
from recipes.diffusion.shapes import FEW_TOKENS, null_label, tokens


class NoisyImages:
    """Implements pipeline.train.recipe.Split: pictures with `u` in [0, 1), `noise` (C, H, W) and `hidden`, by index.

    middle: times lie about the middle, else evenly.
    """

    def __init__(self, images: ImageSplit, seed: int, stream: str, dropout: float, middle: bool = False):
        self.images, self.seed, self.stream, self.dropout = images, seed, stream, dropout
        self.middle = middle
        self.length = images.length
        self.start = float(uniform(seed, f"{stream}/time", 0))

    def item(self, index: int) -> dict[str, np.ndarray]:
        sample = self.images.item(index)
        height, width, channels = sample["image"].shape
        return sample | {
            "u": np.array(time_of(index, self.start, self.middle), np.float32),
            "noise": normal(self.seed, f"{self.stream}/noise", index, (channels, height, width)),
            "hidden": uniform(self.seed, f"{self.stream}/class", index) < self.dropout,
        }


class Diffusion(SquaredErrors, PictureNet):
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
        images = ImageSplit(self.images("train"), seed, train.flip)
        return NoisyImages(images, seed, "train", train.condition_dropout, train.times == "logit_normal")

    def held_out(self) -> NoisyImages:
        return NoisyImages(super().held_out(), self.training.seed, "held_out", 0.0)

    def nets(self) -> dict[str, nn.Module]:
        self._refuse_guidance()
        net = self.built()
        if torch.cuda.is_available():
            # On a CPU group normalisation loses more by it than convolutions win (torch 2.13, bf16: 287 against 207
            # images/s of forward and backward, 2 cores, batch 128).
            net.to(memory_format=torch.channels_last)
        elif tokens(self.config.model.net, self.shape.image_size) <= FEW_TOKENS:
            attend_plainly(net)
        if self.training.torch_compile:
            net.compile()
        return {"model": net}

    def built(self) -> nn.Module:
        """The net with fresh weights."""
        return build_net(self.config.model.net, self.shape)

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

    def errors(self, net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each picture's squared error of the prediction, summed over pixels, and its weight; fp32 (B,) both."""
        model = self.config.model
        x_BCHW = to_unit(batch["image"]).contiguous()
        timestep_B = timestep_of(model.schedule, batch["u"])
        alpha_B, sigma_B = signal_and_noise(model.schedule, timestep_B)
        x_t_BCHW = noisy(x_BCHW, batch["noise"], alpha_B, sigma_B)
        said_BCHW = self.said(net, x_t_BCHW, timestep_B, batch)
        gamma = self.training.min_snr_gamma
        return misfit(model.prediction, said_BCHW, x_BCHW, batch["noise"], alpha_B, sigma_B, gamma)

    def said(self, net: nn.Module, x_BCHW: Tensor, timestep_B: Tensor, batch: Batch) -> Tensor:
        """What the net predicts of noisy pictures, fp32 (B, C, H, W)."""
        return predict(net, x_BCHW, timestep_B, self.labels(batch))

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
