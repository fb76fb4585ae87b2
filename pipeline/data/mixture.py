"""Rows of several sources in given shares, decided while training: no token is made again for another mixture.

Which source a row comes from, and which of its rows it is, is a function of the row's index alone. Rows are counted in
blocks of BLOCK, each of which holds the same number of every source, spread evenly, so that any stretch of training has
its shares to within a row a source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from pipeline.run.errors import UserError

BLOCK = 1_000  # rows; a share is a multiple of one in so many


class Rows(Protocol):
    """One source's rows of training, in an order of its own for each of its epochs."""

    length: int
    mean_length: int
    packed: bool

    def item(self, index: int) -> dict[str, np.ndarray]: ...


class Stretch(NamedTuple):
    """A part of training with shares of its own. begin: its first row; shares: of rows, by source, summing to 1."""

    begin: int
    shares: np.ndarray


class Mixture:
    """A split that takes its rows from several, each of which begins its next epoch by itself when it is used up.

    stretches: in order, the first from row 0, the last without end. seed: of which row of a block is whose.
    """

    def __init__(self, sources: Sequence[Rows], stretches: Sequence[Stretch], seed: int) -> None:
        self.sources, self.seed = list(sources), seed
        self.length = sum(source.length for source in sources)
        self.packed = all(source.packed for source in sources)
        self._begins = np.array([stretch.begin for stretch in stretches])
        self._quotas = [quotas(stretch.shares) for stretch in stretches]
        self._block: tuple[int, int] | None = None  # the stretch and block that the next one describes
        self._whose = np.zeros(BLOCK, np.int64)
        self._before = [np.zeros(len(self.sources), np.int64)]  # rows of each source before a stretch
        for number, length in enumerate(np.diff(self._begins).tolist()):
            self._before.append(self._before[-1] + self._drawn(number, length))
        lengths = np.array([source.mean_length for source in sources])
        self.mean_length = round(float((self._quotas[0] * lengths).sum() / BLOCK))

    def item(self, index: int) -> dict[str, np.ndarray]:
        """The row of global sample `index`."""
        source, row = self.place(index)
        return self.sources[source].item(row)

    def place(self, index: int) -> tuple[int, int]:
        """(source, row of its own count) of a global sample."""
        stretch = int(np.searchsorted(self._begins, index, side="right")) - 1
        block, offset = divmod(index - int(self._begins[stretch]), BLOCK)
        whose = self._of_block(stretch, block)
        source = int(whose[offset])
        within = int(np.count_nonzero(whose[:offset] == source))
        return source, int(self._before[stretch][source] + block * self._quotas[stretch][source]) + within

    def counts(self, rows: int) -> np.ndarray:
        """How many of the first `rows` rows come from each source."""
        stretch = int(np.searchsorted(self._begins, rows, side="right")) - 1
        return self._before[stretch] + self._drawn(stretch, rows - int(self._begins[stretch]))

    def epochs(self, rows: int) -> np.ndarray:
        """How often each source is read in the first `rows` rows."""
        return self.counts(rows) / [source.length for source in self.sources]

    def _drawn(self, stretch: int, rows: int) -> np.ndarray:
        block, offset = divmod(rows, BLOCK)
        some = np.bincount(self._of_block(stretch, block)[:offset], minlength=len(self.sources))
        return block * self._quotas[stretch] + some

    def _of_block(self, stretch: int, block: int) -> np.ndarray:
        """The source of each row of a block: those of a source stand evenly, from a place of its own drawing on."""
        if self._block != (stretch, block):
            counts = self._quotas[stretch]
            key = hashlib.sha256(f"{self.seed}/mixture/{stretch}/{block}".encode()).digest()[:16]
            drawn = np.random.Philox(key=np.frombuffer(key, dtype="<u8")).random_raw(len(counts)) / 2**64
            whose = np.repeat(np.arange(len(counts)), counts)
            places = np.concatenate(
                [(np.arange(n) + u) / max(n, 1) for n, u in zip(counts, drawn, strict=True)]
            )
            self._block, self._whose = (stretch, block), whose[np.argsort(places, kind="stable")]
        return self._whose


def quotas(shares: np.ndarray) -> np.ndarray:
    """Rows of each source in a block, summing to BLOCK: rounded down, the largest remainders up."""
    wanted = shares * BLOCK
    counts = np.floor(wanted).astype(np.int64)
    missing = BLOCK - int(counts.sum())
    counts[np.argsort(counts - wanted, kind="stable")[:missing]] += 1
    return counts


def shares_by_temperature(tokens: np.ndarray, temperature: float) -> np.ndarray:
    """Shares in proportion to tokens ** (1 / temperature): 1 as the sources are, more the more alike."""
    raised = (tokens / tokens.max()) ** (1 / temperature)
    return raised / raised.sum()


def stretches_of(
    phases: Sequence[Any], names: list[str], tokens: np.ndarray, documents: np.ndarray, batch: int
) -> list[Stretch]:
    """The recipe's phases in rows.

    Args:
        phases: pipeline.lm.config.Phase. names: of the sources; tokens, documents: int64, what each one holds.
        batch: rows of an optimizer step.

    Raises:
        UserError: a share is not 0 and less than one row in a block.
    """
    found, begin = [], 0
    for phase in phases:
        if phase.temperature is not None:
            shares = shares_by_temperature(tokens.astype(float), phase.temperature)
        else:
            shares = np.array([phase.weights.get(name, 0.0) for name in names])
            if phase.by == "documents":
                shares = shares * tokens / documents
            shares = shares / shares.sum()
        for name, share in zip(names, shares, strict=True):
            if 0 < share < 1 / BLOCK:
                raise UserError(
                    f"mixture: {name} would be {share:.1e} of the rows\nexpected: none, or at least {1 / BLOCK}"
                )
        found.append(Stretch(begin, shares))
        begin = (phase.until or 0) * batch
    return found
