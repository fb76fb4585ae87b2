"""The real pictures that generated ones are held against, the same number of each."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.common.images.dataset import PreparedImages
from recipes.common.scores.classifier import of_learnt_classes


@dataclass(frozen=True)
class Real:
    """The real pictures that generated ones are held against.

    count: pictures of every set that is compared; part: held-out pictures in each of the two parts by which distances
    to training pictures are judged.
    """

    train: PreparedImages
    held_out: PreparedImages
    count: int
    part: int
    shortage: str

    @classmethod
    def open(cls, prepared: Path, samples: int, classes: bool = True) -> "Real":
        """classes: labels are classes, and held-out pictures of one that training lacks are left out."""
        train, held_out = (PreparedImages.open(prepared, split) for split in ("train", "held_out"))
        held_out = of_learnt_classes(held_out, train) if classes else held_out
        sizes = {"held-out": len(held_out.labels), "training": len(train.labels)}
        fewest = min(sizes, key=sizes.__getitem__)
        count = min(samples, sizes[fewest])
        part = min(count, sizes["held-out"] // 2)
        return cls(train, held_out, count, part, f"the {fewest} split has no more")

    @property
    def reference(self) -> np.ndarray:
        return self.held_out.images[: self.count]

    @property
    def floor(self) -> np.ndarray:
        return self.train.images[: self.count]

    @property
    def labels(self) -> list[int]:
        """What each sampler is asked for; 0 where there are no labels."""
        return self.train.labels[: self.count].clip(min=0).tolist()

    @property
    def unseen(self) -> np.ndarray:
        return self.held_out.images[: self.part]

    @property
    def others(self) -> np.ndarray:
        return self.held_out.images[self.part : 2 * self.part]
