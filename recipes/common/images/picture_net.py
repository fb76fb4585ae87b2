"""What recipes of one net that learns from pictures have in common; each adds its net, its loss and its samples."""

from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.train.recipe import Batch
from recipes.common.images.dataset import ImageSplit, PreparedImages
from recipes.common.images.shape import Shape
from recipes.common.one_net import OneNet


class PictureNet(OneNet):
    """Data, counts and rates. A recipe whose samples have more than a picture and its label overrides `blank`, `data`
    and `held_out`."""

    unit = "images"

    def __init__(self, config: Any, prepared: Path, shape: Shape | None = None):
        """prepared: the artifact of the pictures; shape: what they are like, where they are not there yet."""
        super().__init__(config, prepared)
        self._given = shape

    @cached_property
    def shape(self) -> Shape:
        return self._given or Shape.of(PreparedImages.open(self.prepared, "train"))

    def blank(self, count: int) -> Batch:
        """A batch of `count` samples of the right shapes."""
        return self.shape.blank(count)

    def images(self, split: str) -> PreparedImages:
        """The pictures of a split, with the labels that the net is given."""
        return PreparedImages.open(self.prepared, split)

    def data(self) -> Any:
        return ImageSplit(self.images("train"), self.training.seed)

    def held_out(self) -> Any:
        return ImageSplit(self.images("held_out"), None)

    def count(self, turn: str, batch: Batch) -> int:
        """Pictures."""
        return len(batch["image"])
