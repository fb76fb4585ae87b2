"""How drawn pieces differ from real ones, in figures that need no net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from recipes.music.pieces import intervals, melody

if TYPE_CHECKING:
    from symusic import Score

STEPS = 16  # places a bar at which an onset is counted
LONGEST = 128  # intervals that are looked for at most


def pitch_classes(score: Score) -> np.ndarray:
    """Share of the notes' time on each pitch class, counted from the commonest one up: fp64 [12]."""
    found = np.zeros(12)
    for track in score.tracks:
        for note in () if track.is_drum else track.notes:
            found[note.pitch % 12] += note.duration
    return np.roll(found, -int(found.argmax())) / max(1, found.sum())


def groove(score: Score) -> float:
    """How alike the bars' rhythms are: the mean over pairs of bars of 1 - share of places where one has an onset and
    the other none (Wu and Yang 2020, arXiv:2008.01307). Bars are of four beats."""
    bar = 4 * score.ticks_per_quarter
    onsets = [note.time for track in score.tracks for note in track.notes]
    if not onsets:
        return 1.0
    grid = np.zeros((max(onsets) // bar + 1, STEPS))
    for time in onsets:
        grid[time // bar, time % bar * STEPS // bar] = 1
    if len(grid) < 2:
        return 1.0
    apart = (grid[:, None] != grid[None]).mean(-1)
    return float(1 - apart[np.triu_indices(len(grid), 1)].mean())


def histogram_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Total variation between the mean histograms of two sets, each [N, K]."""
    return float(np.abs(one.mean(0) - other.mean(0)).sum() / 2)


def value_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Wasserstein distance between two sets of numbers."""
    places = (np.arange(512) + 0.5) / 512
    return float(np.abs(np.quantile(one, places) - np.quantile(other, places)).mean())


def distance_interval(
    distance: Callable[[np.ndarray, np.ndarray], float],
    one: np.ndarray,
    other: np.ndarray,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Percentile interval of `distance` over pieces of both sets drawn with replacement, which reads high."""
    random = np.random.default_rng(seed)
    found = [
        distance(*(each[random.integers(0, len(each), len(each))] for each in (one, other)))
        for _ in range(resamples)
    ]
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


class Shared:
    """The longest run of intervals that a melody has in common with one of `known`, in any key."""

    def __init__(self, known: Sequence[list[int]]) -> None:
        self.known = known
        self.runs: dict[int, set[tuple[int, ...]]] = {}

    def _of(self, length: int) -> set[tuple[int, ...]]:
        if length not in self.runs:
            self.runs[length] = {run for line in self.known for run in _runs(line, length)}
        return self.runs[length]

    def longest(self, score: Score) -> int:
        """Intervals, at most LONGEST."""
        line = intervals(melody(score))
        low, high = 0, min(len(line), LONGEST)
        while low < high:  # a run of n that is shared has one of n - 1
            length = (low + high + 1) // 2
            if any(run in self._of(length) for run in _runs(line, length)):
                low = length
            else:
                high = length - 1
        return low


def _runs(line: list[int], length: int) -> list[tuple[int, ...]]:
    return [tuple(line[begin : begin + length]) for begin in range(len(line) - length + 1)]
