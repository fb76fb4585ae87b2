"""Pairs of about one length in groups of about as many tokens: the samples that the loop counts.

Which pairs stand together, and when, is a pure function of (seed, index). B pairs of a group, S and T tokens of the
longest source and target in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.data.order import Order, permutation, position
from pipeline.train.recipe import Batch

STEP = 8  # lengths are rounded up to it: pairs of a group differ by less


@dataclass(frozen=True)
class Texts:
    """Token ids of texts, one after the other; text i is ids[offsets[i] : offsets[i + 1]]."""

    ids: np.ndarray
    offsets: np.ndarray

    @classmethod
    def open(cls, directory: Path, split: str, side: str) -> "Texts":
        ids = np.asarray(np.load(directory / f"{split}.{side}.ids.npy", mmap_mode="r"))
        return cls(ids, np.load(directory / f"{split}.{side}.offsets.npy"))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, number: int) -> np.ndarray:
        return self.ids[self.offsets[number] : self.offsets[number + 1]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


@dataclass(frozen=True)
class PairedTexts:
    """Sources with their targets."""

    source: Texts
    target: Texts

    @classmethod
    def open(cls, directory: Path, split: str) -> "PairedTexts":
        return cls(Texts.open(directory, split, "source"), Texts.open(directory, split, "target"))

    @property
    def lengths(self) -> np.ndarray:
        """Of the longer side, int64 (N,)."""
        return np.maximum(self.source.lengths, self.target.lengths)


class Groups:
    """Implements pipeline.train.recipe.Split: every pair of the `rows` once an epoch.

    Pairs are sorted into bins by the length of their longer side; a bin's pairs are shuffled anew each epoch and cut
    into groups of group_tokens // length pairs, of which every epoch has as many; then the groups are shuffled.
    An item is {"source": int64 (B, S), "target": int64 (B, T)}, padded with `pad`.
    seed: None: in order of length, over and over, each pair in the same group.
    """

    def __init__(
        self, pairs: PairedTexts, rows: np.ndarray, group_tokens: int, pad: tuple[int, int], seed: int | None
    ):
        self.pairs, self.pad, self.seed = pairs, pad, seed
        rounded = -(-pairs.lengths[rows] // STEP) * STEP
        self.bins = [rows[rounded == length] for length in np.unique(rounded)]
        self.sizes = [max(1, group_tokens // int(length)) for length in np.unique(rounded)]
        counts = [-(-len(members) // size) for members, size in zip(self.bins, self.sizes, strict=True)]
        self.groups = [(place, number) for place, count in enumerate(counts) for number in range(count)]
        self.length = len(self.groups)
        self._order = Order(seed, self.length)
        self._members: dict[int, tuple[int, np.ndarray]] = {}  # of each bin, the current epoch's order

    def item(self, index: int) -> dict[str, np.ndarray]:
        """Group `index`, which counts on over the epochs."""
        place, number = self.groups[self._order.row(index)]
        members = self._shuffled(place, position(index, self.length)[0])
        rows = members[number * self.sizes[place] : (number + 1) * self.sizes[place]]
        return {
            "source": padded([self.pairs.source.row(row) for row in rows], self.pad[0]),
            "target": padded([self.pairs.target.row(row) for row in rows], self.pad[1]),
        }

    def _shuffled(self, place: int, epoch: int) -> np.ndarray:
        if self.seed is None:
            return self.bins[place]
        if self._members.get(place, (None,))[0] != epoch:
            order = permutation(self.seed, epoch, len(self.bins[place]), f"bin {place}")
            self._members[place] = epoch, self.bins[place][order]
        return self._members[place][1]


def padded(rows: Iterable[np.ndarray], pad: int) -> np.ndarray:
    """Rows of ids as one int64 matrix, `pad` behind the shorter ones."""
    rows = list(rows)
    found = np.full((len(rows), max(map(len, rows))), pad, np.int64)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found


def collated(items: list[dict[str, np.ndarray]], pad: tuple[int, int]) -> Batch:
    """Several groups as one batch."""
    columns = zip(("source", "target"), pad, strict=True)
    return {
        name: torch.from_numpy(padded((row for item in items for row in item[name]), own))
        for name, own in columns
    }
