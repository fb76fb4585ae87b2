"""Span corruption (arXiv:1910.10683, section 3.1.4): a text with gaps, and what was in them."""

import numpy as np

from recipes.common.noise import uniform
from recipes.seq2seq.groups import Groups, PairedTexts, Texts, padded


def both_sides(pairs: PairedTexts) -> Texts:
    """Every text of either side on its own."""
    source, target = pairs.source, pairs.target
    ids = np.concatenate([source.ids, target.ids])
    return Texts(ids, np.concatenate([source.offsets, len(source.ids) + target.offsets[1:]]))


class Corrupted:
    """Implements pipeline.train.recipe.Split: groups of texts, of which spans are taken out by (seed, index, place)."""

    def __init__(self, groups: Groups, sentinels: list[int], density: float, mean_span: float, seed: int):
        self.groups, self.sentinels, self.seed = groups, sentinels, seed
        self.density, self.mean_span = density, mean_span
        self.length = groups.length

    def item(self, index: int) -> dict[str, np.ndarray]:
        """As Groups.item: texts with gaps as sources, what was in them as targets."""
        texts, pad = self.groups.item(index)["source"], self.groups.pad
        rows = [row[: int((row != pad[0]).sum())] for row in texts]
        made = [
            corrupted(
                row,
                gaps_of(len(row) - 1, self.density, self.mean_span, self.seed, index, place),
                self.sentinels,
            )
            for place, row in enumerate(rows)
        ]
        return {
            "source": padded((given for given, _ in made), pad[0]),
            "target": padded((wanted for _, wanted in made), pad[1]),
        }


class CorruptedTexts:
    """Texts and what was taken out of each, anew every epoch, for rows of several: how long both are never changes.

    lengths: of the text with gaps and of what was in them, int64 (N, 2).
    """

    def __init__(
        self, texts: Texts, rows: np.ndarray, sentinels: list[int], density: float, mean_span: float, seed: int
    ):
        self.texts, self.rows, self.sentinels, self.seed = texts, rows, sentinels, seed
        self.density, self.mean_span = density, mean_span
        shapes = {length: self._lengths(length) for length in np.unique(texts.lengths[rows]).tolist()}
        self.lengths = np.array([shapes[length] for length in texts.lengths[rows].tolist()], np.int64)

    def pair(self, member: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        row = self.texts.row(self.rows[member])
        gaps = gaps_of(len(row) - 1, self.density, self.mean_span, self.seed, epoch, member)
        return corrupted(row, gaps, self.sentinels)

    def _lengths(self, length: int) -> tuple[int, int]:
        gaps = gaps_of(length - 1, self.density, self.mean_span, 0, 0, 0)
        given, wanted = corrupted(np.zeros(length, np.int64), gaps, self.sentinels)
        return len(given), len(wanted)


def gaps_of(length: int, density: float, mean_span: float, seed: int, index: int, place: int) -> np.ndarray:
    """Which of `length` tokens are taken out, bool (length,): spans of `mean_span` tokens in the mean, anywhere.

    At least one token goes and one stays; the number of spans and of tokens is fixed, their places are drawn.
    """
    if length < 2:
        return np.zeros(length, bool)
    out = min(max(1, round(length * density)), length - 1)
    spans = min(max(1, round(out / mean_span)), length - out)
    coins = uniform(seed, f"gaps {place}", index, (2, length + 2))
    gone, kept = _parts(out, spans, coins[0]), _parts(length - out + 2, spans + 1, coins[1])
    kept[[0, -1]] -= 1  # nothing need stand before the first gap or after the last
    lengths = np.empty(2 * spans + 1, np.int64)
    lengths[0::2], lengths[1::2] = kept, gone
    return np.repeat(np.arange(2 * spans + 1) % 2 == 1, lengths)


def _parts(total: int, count: int, coins: np.ndarray) -> np.ndarray:
    """`total` as a sum of `count` numbers of 1 or more, every way equally likely."""
    cuts = np.sort(np.argsort(coins[: total - 1], kind="stable")[: count - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def corrupted(row: np.ndarray, gaps: np.ndarray, sentinels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(the text, a sentinel for each gap; each sentinel with what was in its gap), both with the text's last token."""
    text, end = row[:-1], row[-1:]
    starts = gaps & ~np.concatenate([[False], gaps[:-1]])
    number = np.cumsum(starts) - 1
    marks = np.array(sentinels)[number.clip(0)]
    given = np.where(starts, marks, text)[~gaps | starts]
    wanted = [part for place in np.flatnonzero(starts) for part in _gap(place, gaps, text, marks)]
    return np.concatenate([given, end]), np.concatenate([*wanted, end]) if wanted else end


def _gap(place: int, gaps: np.ndarray, text: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    after = np.flatnonzero(~gaps[place:])
    return marks[place : place + 1], text[place : place + (after[0] if len(after) else len(text))]
