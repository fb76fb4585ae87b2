"""A check, where it runs, and what it says: one JSON line."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from pipeline.train.engine import Runtime, start_runtime

Value = TypeVar("Value")
Said = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where the checks run: on the GPU, or in a rehearsal on the CPU at sizes that take seconds."""

    rehearsal: bool

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.rehearsal else "cuda")

    @property
    def runtime(self) -> Runtime:
        return start_runtime()

    def size(self, gpu: Value, rehearsal: Value) -> Value:
        return rehearsal if self.rehearsal else gpu

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if not self.rehearsal:
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Check:
    """run: gives its figures; raises Wrong where they are not what they must be. needs: packages it skips without."""

    name: str
    about: str
    run: Callable[[Place], Said]
    needs: tuple[str, ...] = ()


class Wrong(Exception):
    """A figure that is not what it must be; the figures go with it."""

    def __init__(self, why: str, figures: Said):
        super().__init__(why)
        self.figures = figures


def require(holds: bool, why: str, figures: Said) -> Said:
    """`figures`.

    Raises:
        Wrong: it does not hold.
    """
    if not holds:
        raise Wrong(why, figures)
    return figures
