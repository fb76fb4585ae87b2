"""An entropy coder: asymmetric numeral systems over many interleaved states (arXiv:1311.2540, its range variant).

Only integers decide what is coded, so encoder and decoder agree wherever they are given the same tables.
A message is a stack: what was pushed last is popped first. A symbol is given by its start and its frequency among
2**precision slots: pushing it costs precision - log2(frequency) bits, popping one gives them back.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

PRECISION = 24  # log2 of the slots among which a symbol has its share
SLOTS = 1 << PRECISION
WORD = 32  # bits that move between a state and the stack at a time
LOWEST = np.uint64(1 << 31)  # states lie in [2**31, 2**63)

Interval = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


class Message:
    """`lanes` states and a stack of words that all of them share. lowest: the smallest size the stack has had."""

    def __init__(self, lanes: int, words: np.ndarray | None = None):
        """words: uint32, the bits that a fresh message begins with, for what pops before it pushes."""
        self.heads = np.full(lanes, LOWEST, np.uint64)
        self.words = np.zeros(0, np.uint32) if words is None else words
        self.size = self.lowest = len(self.words)

    def push(self, starts: np.ndarray, frequencies: np.ndarray, turns: np.ndarray | int = 0) -> None:
        """Code one symbol a state, on the first len(starts) states; integers with frequencies of 1 or more.

        turns: slots by which each state's slots are turned round, the same as in the pop that this undoes.
        """
        heads = self.heads[: len(starts)]
        starts, frequencies = starts.astype(np.uint64), frequencies.astype(np.uint64)
        full = heads >= frequencies << np.uint64(63 - PRECISION)
        self._put((heads[full] & np.uint64(0xFFFFFFFF)).astype(np.uint32))
        heads = np.where(full, heads >> np.uint64(WORD), heads)
        whole, rest = np.divmod(heads, frequencies)
        slots = (rest + starts + np.uint64(SLOTS) - np.asarray(turns, np.uint64)) & np.uint64(SLOTS - 1)
        self.heads[: len(starts)] = (whole << np.uint64(PRECISION)) + slots

    def pop(self, count: int, interval_of: Interval, turns: np.ndarray | int = 0) -> np.ndarray:
        """`count` symbols, one from each of the first states.

        interval_of: slots int64 (count,) -> (symbols, starts, frequencies), each int64 (count,).
        turns: slots below SLOTS by which each state's slots are turned round before they are looked at.
        """
        heads = self.heads[:count]
        slots = (heads + np.asarray(turns, np.uint64)) & np.uint64(SLOTS - 1)
        symbols, starts, frequencies = interval_of(slots.astype(np.int64))
        heads = (
            frequencies.astype(np.uint64) * (heads >> np.uint64(PRECISION)) + slots - starts.astype(np.uint64)
        )
        empty = heads < LOWEST
        heads[empty] = (heads[empty] << np.uint64(WORD)) | self._take(int(empty.sum()))
        self.heads[:count] = heads
        return symbols

    def _put(self, words: np.ndarray) -> None:
        if self.size + len(words) > len(self.words):
            self.words = np.concatenate([self.words, np.zeros(len(self.words) + len(words), np.uint32)])
        self.words[self.size : self.size + len(words)] = words
        self.size += len(words)

    def _take(self, count: int) -> np.ndarray:
        if count > self.size:
            raise ValueError("the message holds fewer bits than what is popped from it")
        self.size -= count
        self.lowest = min(self.lowest, self.size)
        return self.words[self.size : self.size + count].astype(np.uint64)

    def to_bytes(self) -> bytes:
        """The states, then the stack above what was never popped of its first words; little-endian."""
        return (
            self.heads.astype("<u8").tobytes() + self.words[self.lowest : self.size].astype("<u4").tobytes()
        )

    @classmethod
    def from_bytes(cls, content: bytes, lanes: int) -> "Message":
        """The inverse of to_bytes. Raises ValueError for a length that no message has."""
        if len(content) < 8 * lanes or len(content) % 4:
            raise ValueError(f"{len(content)} bytes are no message of {lanes} states")
        message = cls(lanes, np.frombuffer(content[8 * lanes :], "<u4").astype(np.uint32))
        message.heads = np.frombuffer(content[: 8 * lanes], "<u8").astype(np.uint64)
        return message


def push_table(message: Message, symbols: np.ndarray, cumulative: np.ndarray) -> None:
    """Push symbols int64 (n,), the last first; cumulative: int64 (n, alphabet + 1) or (alphabet + 1,)."""
    rows = np.broadcast_to(cumulative, (len(symbols), cumulative.shape[-1]))
    places = np.arange(len(symbols))
    starts, ends = rows[places, symbols], rows[places, symbols + 1]
    for piece in reversed(pieces(message, len(symbols))):
        message.push(starts[piece], ends[piece] - starts[piece])


def pop_table(message: Message, count: int, cumulative: np.ndarray) -> np.ndarray:
    """The inverse of push_table, int64 (count,)."""
    rows = np.broadcast_to(cumulative, (count, cumulative.shape[-1]))

    def interval_of(slots: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        symbols = (own <= slots[:, None]).sum(axis=1) - 1
        places = np.arange(len(slots))
        starts = own[places, symbols]
        return symbols, starts, own[places, symbols + 1] - starts

    popped = [
        message.pop(len(rows[piece]), partial(interval_of, own=rows[piece]))
        for piece in pieces(message, count)
    ]
    return np.concatenate(popped)


def pieces(message: Message, count: int) -> list[slice]:
    """`count` symbols in the order of popping, as many at a time as there are states; pushes go the other way."""
    lanes = len(message.heads)
    return [slice(first, min(first + lanes, count)) for first in range(0, count, lanes)]


def table(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities float64 (..., symbols) -> cumulative frequencies int64 (..., symbols + 1).

    Every symbol has a frequency of at least 1 however improbable: sums of what is not negative never fall, and each
    symbol adds one. They end at 2**PRECISION exactly.
    """
    symbols = probabilities.shape[-1]
    sums = np.cumsum(probabilities, axis=-1)
    shares = np.minimum(sums / sums[..., -1:], 1.0)
    cumulative = np.zeros((*probabilities.shape[:-1], symbols + 1), np.int64)
    cumulative[..., 1:] = np.floor(shares * (SLOTS - symbols)).astype(np.int64) + np.arange(1, symbols + 1)
    return cumulative
