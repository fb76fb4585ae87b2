"""Which conversations are kept, how much of each, and in which row each is packed."""

from typing import Literal

import numpy as np

from pipeline.data.ledger import Ledger
from pipeline.data.shards import Shard
from pipeline.run.errors import UserError

OnLong = Literal["error", "truncate", "drop"]


def kept_tokens(shard: Shard, sequence_length: int, on_long: OnLong) -> np.ndarray:
    """How many tokens of each conversation are trained on, int64 [D]: all, the first T, or 0 for a dropped one.

    Raises:
        UserError: as PackedConversations.
    """
    lengths = shard.lengths
    too_long = np.flatnonzero(lengths > sequence_length)
    if on_long == "drop":
        lengths[too_long] = 0
    if on_long == "error" and len(too_long):
        raise UserError(_too_long(shard, sequence_length, too_long))
    if on_long == "truncate" and len(blank := untargeted(shard, sequence_length)):
        raise UserError(_truncated_to_nothing(shard, sequence_length, blank))
    return np.minimum(lengths, sequence_length)


def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The row of each length, int64 [K]: longest first, each into the fullest row that still has room for it.

    Rows are found by their free positions through the bits of one integer, so the time is K steps, not K x rows.

    Args:
        lengths: int64 [K], each in 1..capacity.
    """
    row_of = np.empty(len(lengths), np.int64)
    rows_by_free: list[list[int]] = [[] for _ in range(capacity + 1)]
    rows, frees = 0, 0  # bit f of `frees`: some row has f positions free
    longest_first = np.argsort(-lengths, kind="stable")
    for index, length in zip(longest_first.tolist(), lengths[longest_first].tolist(), strict=True):
        if roomy := frees >> length:
            free = length + (roomy & -roomy).bit_length() - 1
            row = rows_by_free[free].pop()
            frees ^= 0 if rows_by_free[free] else 1 << free
        else:
            free, row, rows = capacity, rows, rows + 1
        row_of[index] = row
        rows_by_free[free - length].append(row)
        frees |= 1 << (free - length)
    return row_of


def conversation_ledger(shard: Shard, kept: np.ndarray) -> Ledger:
    """What became of each conversation's tokens, given how many of them were kept, int64 [D]."""
    lost = shard.lengths - kept
    return Ledger(
        shard.name,
        tokens_in=shard.tokens_total,
        kept=int(kept.sum()),
        truncated=int(lost[kept > 0].sum()),
        dropped=int(lost[kept == 0].sum()),
    )


def untargeted(shard: Shard, sequence_length: int) -> np.ndarray:
    """The conversations of more than T tokens of which the first T hold no target; the first token is never one."""
    too_long = np.flatnonzero(shard.lengths > sequence_length)
    heads = (shard.targets_of(index)[1:sequence_length] for index in too_long)
    return too_long[[not head.any() for head in heads]] if len(too_long) else too_long


def _too_long(shard: Shard, sequence_length: int, which: np.ndarray) -> str:
    return (
        f"conversation {which[0]} of {shard.name} has {shard.lengths[which[0]]} tokens: more than finetune."
        f"sequence_length = {sequence_length}, as have {len(which)} of {shard.documents}\n"
        f"way out: finetune.sequence_length={shard.lengths.max()}, or finetune.on_long=truncate or drop"
    )


def _truncated_to_nothing(shard: Shard, sequence_length: int, which: np.ndarray) -> str:
    return (
        f"conversation {which[0]} of {shard.name} has {shard.lengths[which[0]]} tokens, and its first "
        f"{sequence_length} hold none of the assistant's, as in {len(which)} of {shard.documents}\n"
        "way out: a larger finetune.sequence_length, or finetune.on_long=drop"
    )


def nothing_left(shard: Shard, sequence_length: int) -> str:
    return (
        f"none of the {shard.documents} conversations of {shard.name} fits finetune."
        f"sequence_length = {sequence_length}\n"
        f"way out: finetune.sequence_length={shard.lengths.max(initial=0)}, or finetune.on_long=truncate"
    )
