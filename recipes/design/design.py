"""Designs as a recipe: diffusion whose label is a whole request, a digit an attribute.

A label's embedding is the sum of its values' embeddings, so that a combination that training never saw has one too.
Shapes: B pictures, A attributes, D numbers of an embedding.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recipes.common.images.dataset import ImageSplit, PreparedImages
from recipes.common.images.shape import Shape
from recipes.common.images.sheet import save_sheet
from recipes.common.noise import uniform
from recipes.design.asked import Attribute, digits_of, label_of, labels_in, number_of
from recipes.design.attributes import Known, commonest, labels_of
from recipes.diffusion.config import Dit, Unet
from recipes.diffusion.diffusion import Diffusion, NoisyImages
from recipes.diffusion.nets import build_net


class SumOfValues(nn.Module):
    """The embedding of a label: the sum of a row of each attribute's table."""

    def __init__(self, attributes: tuple[Attribute, ...], width: int):
        super().__init__()
        self.sizes = [len(attribute.values) for attribute in attributes]
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in self.sizes)

    def forward(self, label_B: Tensor) -> Tensor:
        """int64 (B,) -> (B, D)."""
        total_BD: Tensor | None = None
        for size, table in zip(self.sizes, self.tables, strict=True):
            row_BD = table(label_B % size)
            total_BD = row_BD if total_BD is None else total_BD + row_BD
            label_B = label_B // size
        assert total_BD is not None
        return total_BD


def shape_of(image_size: int, channels: int, attributes: tuple[Attribute, ...]) -> Shape:
    """As diffusers' nets want it: they have a row more than classes, for no class; here that row is a label as well."""
    return Shape(image_size, channels, labels_in(attributes) - 1)


def with_sums(net: nn.Module, attributes: tuple[Attribute, ...]) -> nn.Module:
    """The net with a SumOfValues in place of every table of labels."""
    for module, name, table in _tables(net, labels_in(attributes)):
        setattr(module, name, SumOfValues(attributes, table.embedding_dim))
    return net


def plain(net: nn.Module, config: Unet | Dit, shape: Shape, attributes: tuple[Attribute, ...]) -> nn.Module:
    """The same net as diffusers builds it: its tables hold the sums, so that it needs nothing of ours."""
    found = build_net(config, shape)
    sums = {name: module for name, module in net.named_modules() if isinstance(module, SumOfValues)}
    weights = {
        name: tensor
        for name, tensor in net.state_dict().items()
        if not any(name.startswith(f"{place}.") for place in sums)
    }
    with torch.no_grad():
        weights |= {
            f"{place}.weight": module(torch.arange(labels_in(attributes))) for place, module in sums.items()
        }
    found.load_state_dict(weights)
    return found


def _tables(net: nn.Module, rows: int) -> list[tuple[nn.Module, str, nn.Embedding]]:
    """(the module that has it, its name there, the table) of every embedding of labels."""
    found = [
        (module, name, child)
        for module in net.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.Embedding) and child.num_embeddings == rows
    ]
    assert found, f"no table of {rows} labels in {type(net).__name__}"
    return found


class RequestedImages(NoisyImages):
    """Implements pipeline.train.recipe.Split: noisy pictures whose label leaves some attributes open, by index."""

    def __init__(self, attributes: tuple[Attribute, ...], each: float, *noisy: Any):
        """each: share of pictures an attribute is hidden of; noisy: what NoisyImages takes."""
        super().__init__(*noisy)
        self.attributes, self.each = attributes, each

    def item(self, index: int) -> dict[str, np.ndarray]:
        sample = super().item(index)
        draws = uniform(self.seed, f"{self.stream}/attributes", index, (len(self.attributes),))
        digits = digits_of(self.attributes, int(sample["label"]))
        kept = [
            attribute.open if draw < self.each else digit
            for attribute, digit, draw in zip(self.attributes, digits, draws, strict=True)
        ]
        return sample | {"label": np.array(number_of(self.attributes, kept), np.int64)}


class Design(Diffusion):
    """Implements pipeline.train.recipe.Recipe."""

    def __init__(self, config: Any, prepared: Path, known: Path | Known, shape: Shape | None = None):
        """prepared, known: the artifacts of the pictures and of their attributes."""
        super().__init__(config, prepared, shape)
        self.known = known if isinstance(known, Known) else Known.open(known)
        self._labels = None if isinstance(known, Known) else known

    @cached_property
    def shape(self) -> Shape:
        if self._given:
            return self._given
        images = PreparedImages.open(self.prepared, "train").images
        return shape_of(images.shape[1], images.shape[3], self.known.attributes)

    @property
    def null_label(self) -> int | None:
        return self.known.null

    def images(self, split: str) -> PreparedImages:
        found = super().images(split)
        assert self._labels is not None
        return PreparedImages(found.images, labels_of(self._labels, split), found.classes)

    def data(self) -> NoisyImages:
        train, seed = self.training, self.training.seed
        images = ImageSplit(self.images("train"), seed, train.flip)
        noisy = (images, seed, "train", train.condition_dropout, train.times == "logit_normal")
        return RequestedImages(self.known.attributes, self.config.attributes.dropout, *noisy)

    def built(self) -> nn.Module:
        return with_sums(super().built(), self.known.attributes)

    def described(self) -> dict[str, Any]:
        attributes = [vars(attribute) for attribute in self.known.attributes]
        return super().described() | {"attributes": attributes}

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """A sheet of the commonest requests in turn, in `out/samples.png`."""
        from recipes.diffusion.sampler import drawing, pipeline_of

        asked = commonest(self.known, 1)
        labels = [label_of(self.known.attributes, asked[place % len(asked)]) for place in range(len(seeds))]
        pipeline = pipeline_of(self.config, nets["model"], self.null_label, self.config.sampler)
        save_sheet(drawing(pipeline)(seeds, labels), out / "samples.png", len(asked))
        return {}
