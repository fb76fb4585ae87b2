"""An entropy coder: asymmetric numeral systems over many interleaved states (arXiv:1311.2540, its range variant).

Only integers decide what is coded, so encoder and decoder agree wherever they are given the same tables.
A message is a stack: what was pushed last is popped first. A symbol is given by its start and its frequency among
2**precision slots: pushing it costs precision - log2(frequency) bits, popping one gives them back.
"""

from collections.abc import Callable

import numpy as np

PRECISION = 24  # log2 of the slots among which a symbol has its share
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

    def push(self, starts: np.ndarray, frequencies: np.ndarray) -> None:
        """Code one symbol a state, on the first len(starts) states; integers with frequencies of 1 or more."""
        heads = self.heads[: len(starts)]
        starts, frequencies = starts.astype(np.uint64), frequencies.astype(np.uint64)
        full = heads >= frequencies << np.uint64(63 - PRECISION)
        self._put((heads[full] & np.uint64(0xFFFFFFFF)).astype(np.uint32))
        heads = np.where(full, heads >> np.uint64(WORD), heads)
        whole, rest = np.divmod(heads, frequencies)
        self.heads[: len(starts)] = (whole << np.uint64(PRECISION)) + rest + starts

    def pop(self, count: int, interval_of: Interval) -> np.ndarray:
        """`count` symbols, one from each of the first states.

        interval_of: slots int64 (count,) -> (symbols, starts, frequencies), each int64 (count,).
        """
        heads = self.heads[:count]
        slots = heads & np.uint64((1 << PRECISION) - 1)
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
    push_intervals(message, starts, ends - starts)


def push_intervals(message: Message, starts: np.ndarray, frequencies: np.ndarray) -> None:
    """Push n symbols, as many at a time as there are states, the last first."""
    lanes = len(message.heads)
    for first in reversed(range(0, len(starts), lanes)):
        message.push(starts[first : first + lanes], frequencies[first : first + lanes])


def pop_table(message: Message, count: int, cumulative: np.ndarray) -> np.ndarray:
    """The inverse of push_table, int64 (count,)."""
    rows = np.broadcast_to(cumulative, (count, cumulative.shape[-1]))

    def interval_of(slots: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        own = rows[first : first + len(slots)]
        symbols = (own <= slots[:, None]).sum(axis=1) - 1
        places = np.arange(len(slots))
        starts = own[places, symbols]
        return symbols, starts, own[places, symbols + 1] - starts

    return pop_intervals(message, count, interval_of)


def pop_intervals(message: Message, count: int, interval_of: Callable[..., tuple]) -> np.ndarray:
    """Pop `count` symbols in the order that push_intervals pushed them; interval_of(slots, first) as in Message.pop."""
    lanes = len(message.heads)
    popped = [
        message.pop(min(lanes, count - first), lambda slots, first=first: interval_of(slots, first))
        for first in range(0, count, lanes)
    ]
    return np.concatenate(popped)


def table(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities float64 (..., symbols) -> cumulative frequencies int64 (..., symbols + 1).

    Every symbol has a frequency of at least 1 however improbable: sums of what is not negative never fall, and each
    symbol adds one. They end at 2**PRECISION exactly.
    """
    symbols = probabilities.shape[-1]
    sums = np.cumsum(probabilities, axis=-1)
    shares = np.minimum(sums / sums[..., -1:], 1.0)
    cumulative = np.zeros((*probabilities.shape[:-1], symbols + 1), np.int64)
    cumulative[..., 1:] = np.floor(shares * ((1 << PRECISION) - symbols)).astype(np.int64) + np.arange(
        1, symbols + 1
    )
    return cumulative
