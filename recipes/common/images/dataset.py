"""A prepared split, memory-mapped: its pictures in an endless order by index, and pixels to numbers and back.

Shapes: N pictures of a split, B of a batch, H rows, W columns, C channels (1 or 3).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.order import Order
from pipeline.train.seeds import derived_seed


@dataclass(frozen=True)
class PreparedImages:
    """One split of a published `prepare` artifact. Its first n pictures are a fair draw: they lie in hashed order.

    images: uint8 (N, H, W, C), read from the file as they are asked for.
    labels: int64 (N,); -1 everywhere where there are no labels.
    classes: names, by label; () where there are no labels. A class that was left out of training keeps its place.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def open(cls, directory: Path, split: str) -> "PreparedImages":
        """The split `train` or `held_out` of the artifact in `directory`.

        Raises:
            FileNotFoundError: the artifact holds no such split.
        """
        images = np.asarray(
            np.load(directory / f"{split}.images.npy", mmap_mode="r")
        )  # as fast to index as any
        labels = np.load(directory / f"{split}.labels.npy")
        return cls(images, labels, tuple(json.loads((directory / "classes.json").read_text())))


class ImageSplit:
    """Implements pipeline.train.recipe.Split: {"image": uint8 (H, W, C), "label": int64 ()} by index.

    seed: of the order and the flips; None: in stored order, over and over, never flipped.
    flip: mirror each picture left to right or not, by a coin of its (seed, index).
    """

    def __init__(self, images: PreparedImages, seed: int | None, flip: bool = False):
        self.images, self.seed, self.flip = images, seed, flip
        self.length = len(images.labels)
        self._order = Order(seed, self.length)

    def item(self, index: int) -> dict[str, np.ndarray]:
        """Sample `index`, which counts on over the epochs."""
        row = self._order.row(index)
        image = self.images.images[row]
        if self.seed is not None and self.flip and derived_seed(self.seed, "flip", index) & 1:
            image = image[:, ::-1]
        return {"image": np.array(image), "label": np.array(self.images.labels[row])}
