"""Noise as a function of (seed, purpose, index)."""

import numpy as np

from pipeline.train.seeds import derived_seed


def normal(seed: int, purpose: str, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers, fp32 `shape`."""
    return _generator(seed, purpose, index).standard_normal(shape, dtype=np.float32)


def uniform(seed: int, purpose: str, index: int, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Numbers in [0, 1), fp32 `shape`."""
    return np.asarray(_generator(seed, purpose, index).random(shape, dtype=np.float32))


def _generator(seed: int, purpose: str, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(derived_seed(seed, purpose, index)))
