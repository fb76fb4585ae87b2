"""An n-gram model with interpolated Witten-Bell smoothing: what counting alone foretells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SEED = 20260101  # of the hash of contexts, which is 64 bits wide


class NGram:
    """p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h)), down to a uniform one.

    c: how often; t: how many different words follow; h': h without its first word (Bell, Cleary, Witten 1990).

    Args:
        documents: ids of each, the opening token first, which is never foretold.
    """

    def __init__(self, documents: Sequence[np.ndarray], order: int, vocabulary: int) -> None:
        self.order, self.vocabulary = order, vocabulary
        random = np.random.default_rng(SEED)
        self.keys = random.integers(1, 2**63, order, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self.tables = []
        for size in range(1, order + 1):
            hashed = [self._hashes(ids, size) for ids in documents]
            contexts = np.concatenate([context for context, _ in hashed])
            pairs = np.concatenate([pair for _, pair in hashed])
            pair_keys, first, pair_counts = np.unique(pairs, return_index=True, return_counts=True)
            keys, counts = np.unique(contexts, return_counts=True)
            _, types = np.unique(contexts[first], return_counts=True)
            self.tables.append((keys, counts, types, pair_keys, pair_counts))

    def _hashes(self, ids: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each word but the first: its context of size - 1 words, and that with the word; uint64."""
        codes = np.concatenate([np.zeros(size, np.uint64), ids.astype(np.uint64) + np.uint64(1)])
        places = np.arange(size + 1, len(codes))
        context = np.full(len(places), size, np.uint64)
        for back in range(1, size):
            context = (context ^ codes[places - back] * self.keys[back]) * self.keys[0]
            context ^= context >> np.uint64(31)
        pair = (context ^ codes[places] * self.keys[self.order - 1]) * self.keys[0]
        return context, pair ^ (pair >> np.uint64(29))

    def probabilities(self, ids: np.ndarray) -> np.ndarray:
        """Of each word but the first, fp64."""
        found = np.full(len(ids) - 1, 1 / self.vocabulary)
        for size, (keys, counts, types, pair_keys, pair_counts) in enumerate(self.tables, 1):
            contexts, pairs = self._hashes(ids, size)
            seen = _looked_up(contexts, keys, counts)
            kinds = _looked_up(contexts, keys, types)
            of_word = _looked_up(pairs, pair_keys, pair_counts)
            whole = seen + kinds
            found = np.where(whole > 0, (of_word + kinds * found) / np.maximum(whole, 1), found)
        return found

    def nats(self, ids: np.ndarray) -> float:
        """-log p of a document."""
        return float(-np.log(self.probabilities(ids)).sum())


def _looked_up(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
