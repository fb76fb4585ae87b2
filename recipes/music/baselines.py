"""What foretells notes without a net: the bar before, again."""

from collections.abc import Iterable

import numpy as np

ROUNDS = 20  # of expectation and maximisation


class RepeatedBar:
    """Each word is the one at the same place of the bar before, with one probability, else drawn as often as it comes.

    Args:
        documents: ids of each, the opening token first; bar: the id that opens a bar; vocabulary: how many ids.
    """

    def __init__(self, documents: Iterable[np.ndarray], bar: int, vocabulary: int) -> None:
        self.bar = bar
        counts, again, alone = np.ones(vocabulary), [], []
        for ids in documents:
            counts += np.bincount(ids[1:], minlength=vocabulary)
            again.append(self._again(ids))
            alone.append(ids[1:])
        self.words = counts / counts.sum()
        same, single = np.concatenate(again), self.words[np.concatenate(alone)]
        self.share = 0.5
        for _ in range(ROUNDS):
            copied = self.share * same
            self.share = float((copied / (copied + (1 - self.share) * single)).mean())

    def _again(self, ids: np.ndarray) -> np.ndarray:
        """1 where a word is what stood there a bar before, of each word but the first; 0 in a document's first bar."""
        found = np.zeros(len(ids) - 1)
        begins = np.flatnonzero(ids == self.bar)
        for before, begin, end in zip(begins, begins[1:], [*begins[2:], len(ids)], strict=False):
            bar, last = ids[begin + 1 : end + 1], ids[before + 1 : begin + 1]
            both = min(len(bar), len(last))
            found[begin : begin + both] = bar[:both] == last[:both]
        return found

    def nats(self, ids: np.ndarray) -> float:
        """-log p of a document."""
        copied = self.share * self._again(ids)
        return float(-np.log(copied + (1 - self.share) * self.words[ids[1:]]).sum())
