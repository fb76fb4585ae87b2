"""Noise as a function of (seed, purpose, index), and pictures drawn in chunks of one size."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pipeline.train.recipe import derived_seed

Draw = Callable[[list[int], list[int]], Tensor]  # (seeds, labels) -> uint8 (B, H, W, C)


def normal(seed: int, purpose: str, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers, fp32 `shape`."""
    return _generator(seed, purpose, index).standard_normal(shape, dtype=np.float32)


def uniform(seed: int, purpose: str, index: int, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Numbers in [0, 1), fp32 `shape`."""
    return np.asarray(_generator(seed, purpose, index).random(shape, dtype=np.float32))


def _generator(seed: int, purpose: str, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(derived_seed(seed, purpose, index)))


@torch.no_grad()
def in_chunks(draw: Draw, seeds: list[int], labels: list[int], size: int) -> np.ndarray:
    """Pictures uint8 (B, H, W, C), drawn `size` at a time; the last chunk is padded and its padding dropped.

    A matrix product's rounding depends on how many rows it has, so every chunk has the same number: picture i is then
    the same bits whatever is drawn beside it.
    """
    rows = math.ceil(len(seeds) / size) * size - len(seeds)
    seeds, labels = [*seeds, *[0] * rows], [*labels, *[0] * rows]
    starts = range(0, len(seeds), size)
    chunks = [draw(seeds[start : start + size], labels[start : start + size]) for start in starts]
    return torch.cat(chunks)[: len(seeds) - rows].cpu().numpy()
