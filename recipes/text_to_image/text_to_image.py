"""Pictures from words as a recipe: diffusion whose net attends to a caption.

Shapes: B pictures, C channels, H rows, W columns, L tokens, D numbers of a state.
"""

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.train.recipe import Batch
from recipes.common.images.dataset import ImageSplit, PreparedImages
from recipes.common.images.shape import Shape
from recipes.common.images.sheet import save_sheet
from recipes.diffusion.diffusion import Diffusion, NoisyImages
from recipes.diffusion.nets import attend_plainly
from recipes.diffusion.shapes import FEW_TOKENS, tokens
from recipes.text_to_image.captions import Captions
from recipes.text_to_image.encoder import build_encoder
from recipes.text_to_image.nets import Painter, build_net

EMPTY = -1  # the row of the empty caption


class CaptionedImages(NoisyImages):
    """Implements pipeline.train.recipe.Split: noisy pictures with the tokens or states of their caption, by index."""

    def __init__(self, captions: Captions, *noisy: Any):
        """noisy: what NoisyImages takes."""
        super().__init__(*noisy)
        self.captions = captions

    def item(self, index: int) -> dict[str, np.ndarray]:
        sample = super().item(index)
        hidden = sample.pop("hidden")
        return sample | self.captions.item(EMPTY if hidden else int(sample["label"]))


class TextToImage(Diffusion):
    """Implements pipeline.train.recipe.Recipe."""

    def __init__(self, config: Any, prepared: Path, captions: Path | Captions, shape: Shape | None = None):
        """prepared, captions: the artifacts of the pictures and of their captions."""
        super().__init__(config, prepared, shape)
        self.captions = captions if isinstance(captions, Captions) else Captions.open(captions)

    @cached_property
    def shape(self) -> Shape:
        """A caption is no class to the net."""
        if self._given:
            return self._given
        images = PreparedImages.open(self.prepared, "train").images
        return Shape(images.shape[1], images.shape[3], 0)

    @property
    def null_label(self) -> None:
        return None

    def blank(self, count: int) -> Batch:
        found = super().blank(count)
        del found["hidden"]
        told = {name: torch.from_numpy(value) for name, value in self.captions.item(EMPTY).items()}
        return found | {name: value.expand(count, *value.shape).clone() for name, value in told.items()}

    def data(self) -> NoisyImages:
        train, seed = self.training, self.training.seed
        images = ImageSplit(self.images("train"), seed, train.flip)
        middle = train.times == "logit_normal"
        return CaptionedImages(self.captions, images, seed, "train", train.condition_dropout, middle)

    def held_out(self) -> NoisyImages:
        images = ImageSplit(self.images("held_out"), None)
        return CaptionedImages(self.captions, images, self.training.seed, "held_out", 0.0)

    def nets(self) -> dict[str, nn.Module]:
        painter = self.built()
        if torch.cuda.is_available():
            painter.net.to(memory_format=torch.channels_last)
        elif tokens(self.config.model.net, self.shape.image_size) <= FEW_TOKENS:
            attend_plainly(painter.net)
        if self.training.torch_compile:
            painter.compile()
        return {"model": painter}

    def built(self) -> Painter:
        """The net and its encoder with fresh weights."""
        captions = self.captions
        encoder = build_encoder(self.config.text, captions.vocabulary) if captions.states is None else None
        return Painter(build_net(self.config.model.net, self.shape, captions.width), encoder)

    def described(self) -> dict[str, Any]:
        sizes = {"vocabulary": self.captions.vocabulary, "width": self.captions.width}
        return {"net": self.config.model.net.model_dump(), "shape": asdict(self.shape), **sizes}

    def said(self, net: nn.Module, x_BCHW: Tensor, timestep_B: Tensor, batch: Batch) -> Tensor:
        told = batch["ids"] if self.captions.states is None else batch["states"]
        return net(x_BCHW, timestep_B, batch["mask"], told).float()

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """A sheet of held-out captions in turn, in `out/samples.png`."""
        from recipes.text_to_image.sampler import drawing, pipeline_of

        held_out = self.images("held_out")
        labels = [int(held_out.labels[place % len(held_out.labels)]) for place in range(len(seeds))]
        painter = nets["model"]
        pipeline = pipeline_of(self.config, painter.net, painter.encoder, None, self.config.sampler)
        save_sheet(drawing(pipeline, self.captions)(seeds, labels), out / "samples.png")
        return {}
