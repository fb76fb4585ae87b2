"""Whether generated pictures are copies: of each other, and of training pictures.

A generated picture is held against what real pictures that nobody trained on do: how near is their nearest training
picture? Shapes: N pictures or rows of features, M training ones, D numbers of each.
"""

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import torch

PERCENTILE = 1  # of the real pictures' distances: below it a picture counts as a near copy
QUERIES, ROWS = 1000, 10_000  # distances in memory at a time


def duplicates(pictures: np.ndarray) -> np.ndarray:
    """Which pictures (N, ...) occur more than once among them, byte for byte; bool (N,)."""
    keys = _keys(pictures)
    counts = Counter(keys)
    return np.array([counts[key] > 1 for key in keys])


def copies(pictures: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Which pictures are a training picture, byte for byte; bool (N,)."""
    known = set(_keys(train))
    return np.array([key in known for key in _keys(pictures)])


def _keys(pictures: Iterable[np.ndarray]) -> list[bytes]:
    return [np.ascontiguousarray(picture).tobytes() for picture in pictures]


def nearest_distances(
    queries_ND: np.ndarray, train: np.ndarray, rows_of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The Euclidean distance of each query, fp32 (N, D), to the nearest of `train`, fp32 (N,), as nearest_rows."""
    return nearest_rows(queries_ND, train, rows_of)[1]


def nearest_rows(
    queries_ND: np.ndarray, train: np.ndarray, rows_of: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Which of `train` is nearest to each query, fp32 (N, D): its place, int64 (N,), and its distance, fp32 (N,).

    train: training pictures (M, H, W, C); rows_of: some of them to fp32 (any, D). The nearest is found by products,
    and its distance is then taken by differences: a copy is at distance 0, not at the square root of a rounding.
    """
    best = np.full(len(queries_ND), np.inf, np.float32)
    places = np.zeros(len(queries_ND), np.int64)
    for start in range(0, len(train), ROWS):
        rows_MD = torch.from_numpy(rows_of(train[start : start + ROWS]))
        squares_M = rows_MD.square().sum(dim=1)
        for first in range(0, len(queries_ND), QUERIES):
            part_ND = torch.from_numpy(queries_ND[first : first + QUERIES])
            # |q|^2 is the same for every row, so it has no say in which is nearest.
            nearest_N = torch.addmm(squares_M, part_ND, rows_MD.T, alpha=-2).argmin(dim=1)
            found_N = (part_ND - rows_MD[nearest_N]).square().sum(dim=1).sqrt().numpy()
            place = slice(first, first + QUERIES)
            nearer_N = found_N < best[place]
            places[place] = np.where(nearer_N, start + nearest_N.numpy(), places[place])
            best[place] = np.minimum(best[place], found_N)
    return places, best


def as_pixels(pictures: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C) -> fp32 (N, D) in [0, 1]."""
    return pictures.reshape(len(pictures), -1).astype(np.float32) / 255


def near_share(distances: np.ndarray, real: np.ndarray) -> float:
    """Share of `distances` (N,) below the 1st percentile of the real pictures': 1% where both are drawn alike."""
    return float((distances < np.percentile(real, PERCENTILE, method="lower")).mean())


def nearer_chance(distances: np.ndarray, real: np.ndarray) -> float:
    """The chance that one of `distances` is below one of the real pictures', ties counted half.

    The Mann-Whitney statistic over its largest value: 0.5 where both are drawn alike, 1 where all are nearer.
    """
    ordered = np.sort(real)
    above = len(real) - np.searchsorted(ordered, distances, side="right")
    equal = len(real) - above - np.searchsorted(ordered, distances, side="left")
    return float((above + equal / 2).mean() / len(real))
