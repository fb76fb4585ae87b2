"""What recipes of one net have in common, whatever they learn from; each adds its data, its net, its loss."""

from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.train.recipe import stacked
from recipes.common.estimate import flops_of


class OneNet:
    """A part of pipeline.train.recipe.Recipe. turns, which the recipe says, has one name."""

    turns: tuple[str, ...]
    units_per_sample = 1

    def __init__(self, config: Any, prepared: Path):
        """prepared: the artifact of the data."""
        self.config, self.training, self.prepared = config, config.train, prepared
        self.optimizers = {turn: config.train for turn in self.turns}

    @cached_property
    def flops_per_sample(self) -> float:
        return flops_of(self)  # type: ignore[arg-type]

    collate = staticmethod(stacked)
