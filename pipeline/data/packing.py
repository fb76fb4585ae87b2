"""Rows of tokens for training and scoring: map-style splits in which an item is a function of its index alone.

Shape letters: T sequence_length, B items of a batch, D documents of the shard, R rows of an epoch.
An item holds, for each of its positions,
    input_ids     int64  the token
    labels        int64  the token after it where that one is a target, else -100
    document_ids  int32  which document of the item the position belongs to, counted from 0; padding -1
    position_ids  int64  positions since its document began in this item
    weights       fp32   of the label, where the shard has other weights than 0 and 1
"""

from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.fitting import (
    OnLong,
    best_fit_decreasing,
    conversation_ledger,
    kept_tokens,
    nothing_left,
    untargeted,
)
from pipeline.data.ledger import Ledger
from pipeline.data.order import permutation, position
from pipeline.data.shards import Shard
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Item = dict[str, np.ndarray]

IGNORED = -100  # the label that torch's cross_entropy leaves out
PADDING = {"input_ids": 0, "labels": IGNORED, "document_ids": -1, "position_ids": 0, "weights": 0}


def gather(shard: Shard, starts: np.ndarray, counts: np.ndarray, ends: np.ndarray) -> Item:
    """The spans tokens[starts[k] : starts[k] + counts[k]] one after the other, each a document of the item.

    Args:
        starts, counts: int64 [K], where in the shard's tokens each span begins, and its tokens.
        ends: int64 [K], where the document of each span ends. A span that stops earlier has the token after it as
            the label of its last position.
    """
    position_ids = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    here = np.repeat(starts, counts) + position_ids
    is_target = here + 1 < np.repeat(ends, counts)
    following = here + is_target
    if shard.targets is not None:
        is_target &= shard.targets[following] != 0
    weights = {}
    if shard.targets is not None and len(shard.weights) > 2:
        weights["weights"] = np.where(is_target, shard.weights[shard.targets[following]], np.float32(0))
    return weights | {
        "input_ids": shard.tokens[here].astype(np.int64),
        "labels": np.where(is_target, shard.tokens[following].astype(np.int64), IGNORED),
        "document_ids": np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        "position_ids": position_ids,
    }


def whole_document(shard: Shard, document: int) -> Item:
    """A whole document as an item."""
    start, end = shard.offsets[document], shard.offsets[document + 1]
    return gather(shard, *np.array([[start], [end - start], [end]]))


def pad(item: Item, length: int) -> Item:
    """`item` with each of its per-position arrays padded at its end to `length`; other entries as they are."""
    missing = length - len(item["input_ids"])
    widths = {name: (0, missing) for name in PADDING if missing and name in item}
    return item | {
        name: np.pad(item[name], width, constant_values=PADDING[name]) for name, width in widths.items()
    }


def collate(items: list[Item]) -> "dict[str, Tensor]":
    """Items padded to the longest and stacked: tensors [B, longest], and [B] of an entry such as `document`."""
    import torch

    longest = max(len(item["input_ids"]) for item in items)
    padded = [pad(item, longest) for item in items]
    return {name: torch.from_numpy(np.stack([item[name] for item in padded])) for name in padded[0]}


class PackedDocuments:
    """Documents in a new order each epoch, end to end, cut into rows of T.

    A document that does not fit in a row is split: the rest opens the next row of the cut, sees nothing of the part
    before, and its position_ids begin again at 0. Each token that is not a document's first is a target exactly
    once an epoch; a document's last token has no label. The rows are permuted too; one row an epoch is padded.

    Args:
        seed: order of documents and rows; None: the shard's order, the same in every epoch.
    """

    packed = True

    def __init__(self, shard: Shard, sequence_length: int, seed: int | None) -> None:
        self.shard, self.sequence_length, self.seed = shard, sequence_length, seed
        self.mean_length = sequence_length
        self.length = -(-shard.tokens_total // sequence_length)
        self._epoch = -1  # the epoch that the next three belong to
        self._documents = self._begins = self._rows = np.zeros(0, np.int64)

    def item(self, index: int) -> Item:
        """The row of global sample `index`: arrays [T]."""
        epoch, offset = position(index, self.length)
        self._enter(epoch if self.seed is not None else 0)
        begin = int(self._rows[offset]) * self.sequence_length
        end = min(begin + self.sequence_length, self.shard.tokens_total)
        first = np.searchsorted(self._begins, begin, side="right") - 1
        past = np.searchsorted(self._begins, end, side="left")
        cuts = np.clip(self._begins[first : past + 1], begin, end)
        documents = self._documents[first:past]
        starts = self.shard.offsets[documents] + cuts[:-1] - self._begins[first:past]
        item = gather(self.shard, starts, np.diff(cuts), self.shard.offsets[documents + 1])
        return pad(item, self.sequence_length)

    def _enter(self, epoch: int) -> None:
        """Lay out `epoch`: its documents in order, where each begins in the cut, and its rows in order."""
        if epoch == self._epoch:
            return
        self._documents = order_of(self.seed, epoch, self.shard.documents, "documents")
        self._begins = np.concatenate([[0], np.cumsum(self.shard.lengths[self._documents])])
        self._rows = order_of(self.seed, epoch, self.length, "rows")
        self._epoch = epoch

    def ledger(self) -> Ledger:
        """The tokens of one epoch."""
        tokens = self.shard.tokens_total
        return Ledger(
            self.shard.name,
            tokens_in=tokens,
            kept=tokens,
            rows=self.length,
            row_length=self.sequence_length,
            inputs=tokens,
            padded=-tokens % self.sequence_length,
        ).balance()


class PackedConversations:
    """Whole conversations, packed once into rows of T by best fit; the rows are permuted each epoch.

    A label is the next token of the same conversation where the shard's targets supervise it, else -100.

    Args:
        seed: order of the rows; None: as packed, the same in every epoch.
        on_long: what becomes of a conversation of more than T tokens; `truncate` keeps its first T.

    Raises:
        UserError: a conversation is too long under `error`; its first T tokens hold no target under `truncate`; or
            none is left under `drop`.
    """

    packed = True

    def __init__(self, shard: Shard, sequence_length: int, seed: int | None, on_long: OnLong) -> None:
        self.shard, self.sequence_length, self.seed = shard, sequence_length, seed
        self.mean_length = sequence_length
        self._kept = kept_tokens(shard, sequence_length, on_long)
        packed = np.flatnonzero(self._kept)
        if not len(packed):
            raise UserError(nothing_left(shard, sequence_length))
        row_of = best_fit_decreasing(self._kept[packed], sequence_length)
        self._members = packed[np.argsort(row_of, kind="stable")]
        self._row_begins = np.concatenate([[0], np.cumsum(np.bincount(row_of))])
        self.length = len(self._row_begins) - 1
        self._epoch, self._rows = -1, np.zeros(0, np.int64)

    def item(self, index: int) -> Item:
        """The row of global sample `index`: arrays [T]."""
        epoch, offset = position(index, self.length)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, order_of(self.seed, epoch, self.length, "rows")
        row = self._rows[offset]
        members = self._members[self._row_begins[row] : self._row_begins[row + 1]]
        starts, counts = self.shard.offsets[members], self._kept[members]
        return pad(gather(self.shard, starts, counts, starts + counts), self.sequence_length)

    def ledger(self) -> Ledger:
        """The tokens of one epoch."""
        kept = conversation_ledger(self.shard, self._kept)
        fill = np.add.reduceat(self._kept[self._members], self._row_begins[:-1])
        kept.rows, kept.row_length = self.length, self.sequence_length
        kept.inputs, kept.padded = int(fill.sum()), int((self.sequence_length - fill).sum())
        return kept.balance()


class Alone:
    """One document or conversation a row, for models that carry state along a row: nothing could keep two apart.

    A document of more than T tokens is cut into rows, each seen without what came before, as in packing; conversations
    follow `on_long`. Rows of about the same length come in the same step, so that `collate` pads little: each epoch's
    permutation is cut into stretches of STRETCH steps, sorted by length within, and the stretch's steps are permuted.
    Nothing is padded here.

    Args:
        on_long: as PackedConversations; None: documents, which are cut.
        seed: order of the rows; None: the shard's order, the same in every epoch.
        step: rows of an optimizer step.

    Raises:
        UserError: as PackedConversations.
    """

    STRETCH, packed = 32, False

    def __init__(
        self, shard: Shard, sequence_length: int, seed: int | None, on_long: OnLong | None, step: int
    ) -> None:
        self.shard, self.seed, self.step = shard, seed, step
        if on_long is None:
            pieces = -(-shard.lengths // sequence_length)
            document = np.repeat(np.arange(shard.documents), pieces)
            before = (
                np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
            ) * sequence_length
            self._counts = np.minimum(shard.lengths[document] - before, sequence_length)
        else:
            kept = kept_tokens(shard, sequence_length, on_long)
            document, before = np.flatnonzero(kept), 0
            self._counts = kept[document]
            if not len(document):
                raise UserError(nothing_left(shard, sequence_length))
        self._starts = shard.offsets[document] + before
        self._ends = shard.offsets[document + 1] if on_long is None else self._starts + self._counts
        self.length, self.mean_length = len(document), round(self._counts.mean())
        self._epoch, self._rows = -1, np.zeros(0, np.int64)

    def item(self, index: int) -> Item:
        """The row of global sample `index`: arrays as long as its document."""
        epoch, offset = position(index, self.length)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._order(epoch)
        row = self._rows[offset : offset + 1]
        return gather(self.shard, self._starts[row], self._counts[row], self._ends[row])

    def _order(self, epoch: int) -> np.ndarray:
        order = order_of(self.seed, epoch, self.length, "rows")
        if self.seed is None:
            return order
        whole = self.length // self.step  # steps that are full; the rows left over come last
        steps = permutation(self.seed, epoch, whole, "steps")
        by_length = [
            stretch[np.argsort(self._counts[stretch], kind="stable")]
            for stretch in np.split(
                order[: whole * self.step], range(0, whole * self.step, self.STRETCH * self.step)[1:]
            )
        ]
        cut = np.concatenate([*by_length, order[whole * self.step :]])
        full = cut[: whole * self.step].reshape(whole, self.step)[steps]
        return np.concatenate([full.flatten(), cut[whole * self.step :]])

    @property
    def padding(self) -> float:
        """The share of padding in a step's rows, of the first epoch: each step padded to its longest row."""
        counts = self._counts[self._order(0)]
        longest = np.maximum.reduceat(counts, np.arange(0, len(counts), self.step))
        rows = np.diff(np.append(np.arange(0, len(counts), self.step), len(counts)))
        return float(1 - counts.sum() / (longest * rows).sum())


class Windows:
    """For scoring documents: each is cut into windows of T, in document order, one window an item.

    Every token of a document but its first is a target exactly once. The target at position t of a window was
    predicted from the window's t + 1 tokens up to it and from nothing before the window: a document's first window
    begins at its first token (bos), later ones at the last target of the window before, so a token has between 1 and
    T tokens of context. Nothing is padded: `collate` pads. `document` is the index in the shard.

    Args:
        documents: score the first so many of the shard; None: all.
    """

    def __init__(self, shard: Shard, sequence_length: int, documents: int | None = None) -> None:
        self.shard, self.sequence_length = shard, sequence_length
        targets = np.maximum(shard.lengths[:documents] - 1, 0)
        self._begins = np.concatenate([[0], np.cumsum(-(-targets // sequence_length))])
        self.length = int(self._begins[-1])

    def item(self, index: int) -> Item:
        """Window `index`: arrays of at most T, and `document` []."""
        document = np.searchsorted(self._begins, index, side="right") - 1
        done = (index - self._begins[document]) * self.sequence_length
        start, end = self.shard.offsets[document] + done, self.shard.offsets[document + 1]
        count = min(self.sequence_length, end - 1 - start)
        return gather(self.shard, *np.array([[start], [count], [end]])) | {"document": np.asarray(document)}


class Conversations:
    """For scoring conversations: one an item, alone, in shard order; at most its first T tokens.

    The target at position t was predicted from all t + 1 tokens of the conversation up to it. A conversation of which
    the first T tokens hold no target is left out and counted as dropped. Nothing is padded: `collate` pads.
    `document` is the index in the shard.

    Args:
        conversations: score the first so many of the shard; None: all.
    """

    def __init__(self, shard: Shard, sequence_length: int, conversations: int | None = None) -> None:
        self.shard = shard
        self._kept = np.minimum(shard.lengths, sequence_length)
        self._kept[untargeted(shard, sequence_length)] = 0
        self._scored = np.flatnonzero(self._kept[:conversations])
        self.length = len(self._scored)

    def item(self, index: int) -> Item:
        """Conversation `index`: arrays of at most T, and `document` []."""
        document = self._scored[index]
        start, count = self.shard.offsets[document], self._kept[document]
        return gather(self.shard, *np.array([[start], [count], [start + count]])) | {
            "document": np.asarray(document)
        }

    def ledger(self) -> Ledger:
        """The tokens of the whole shard, scored or not."""
        return conversation_ledger(self.shard, self._kept).balance()


def order_of(seed: int | None, epoch: int, length: int, purpose: str) -> np.ndarray:
    """The order of an epoch, int64 [length]; without a seed as they are."""
    return np.arange(length) if seed is None else permutation(seed, epoch, length, purpose)
