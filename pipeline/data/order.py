"""Which sample comes when: a pure function of (seed, epoch, index), so that resuming needs one integer."""

import hashlib

import numpy as np


def permutation(seed: int, epoch: int, length: int, purpose: str = "order") -> np.ndarray:
    """A permutation of range(length) as int64 [length]; callers keep the current epoch's.

    It sorts raw Philox words, because numpy keeps bit streams stable between versions but not `Generator`'s methods:
    the order of a run must survive an upgrade in the middle of it.

    Args:
        purpose: two permutations of the same epoch with different purposes are independent.
    """
    key = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()[:16]
    words = np.random.Philox(key=np.frombuffer(key, dtype="<u8")).random_raw(length)
    return np.argsort(words, kind="stable")


def position(index: int, length: int) -> tuple[int, int]:
    """(epoch, offset within the epoch) of a global sample index, with `length` samples an epoch."""
    return divmod(index, length)


class Order:
    """Rows of a split in an endless order by sample index; the current epoch's permutation is kept.

    seed: None: in stored order, over and over.
    """

    def __init__(self, seed: int | None, length: int):
        self.seed, self.length = seed, length
        self._current: tuple[int, np.ndarray] | None = None

    def row(self, index: int) -> int:
        """The row of sample `index`, which counts on over the epochs."""
        epoch, offset = position(index, self.length)
        if self.seed is None:
            return offset
        if self._current is None or self._current[0] != epoch:
            self._current = epoch, permutation(self.seed, epoch, self.length)
        return int(self._current[1][offset])
