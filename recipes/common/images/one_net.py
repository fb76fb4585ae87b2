"""What recipes of one net that learns from pictures have in common; each adds its net, its loss and its samples."""

from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.train.recipe import Batch, stacked
from recipes.common.estimate import flops_of
from recipes.common.images.dataset import ImageSplit, PreparedImages
from recipes.common.images.shape import Shape


class OneNet:
    """Half of pipeline.train.recipe.Recipe: data, counts and rates.

    turns, which the recipe says, has one name. A recipe whose samples have more than a picture and its label overrides
    `blank`, `data` and `held_out`.
    """

    turns: tuple[str, ...]
    unit = "images"
    units_per_sample = 1

    def __init__(self, config: Any, prepared: Path, shape: Shape | None = None):
        """prepared: the artifact of the pictures; shape: what they are like, where they are not there yet."""
        self.config, self.training, self.prepared = config, config.train, prepared
        self.optimizers = {turn: config.train for turn in self.turns}
        self._given = shape

    @cached_property
    def shape(self) -> Shape:
        return self._given or Shape.of(PreparedImages.open(self.prepared, "train"))

    @cached_property
    def flops_per_sample(self) -> float:
        return flops_of(self)

    def blank(self, count: int) -> Batch:
        """A batch of `count` samples of the right shapes."""
        return self.shape.blank(count)

    def data(self) -> Any:
        return ImageSplit(PreparedImages.open(self.prepared, "train"), self.training.seed)

    def held_out(self) -> Any:
        return ImageSplit(PreparedImages.open(self.prepared, "held_out"), None)

    collate = staticmethod(stacked)

    def count(self, turn: str, batch: Batch) -> int:
        """Pictures."""
        return len(batch["image"])
