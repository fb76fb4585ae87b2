"""Units of two answers to rows: both sides of a unit in one row, each answer seen alone.

Shape letters: T sequence_length, B items, R rows (B of them, or 2 B where rows are not packed), U units of an item.
A batch holds the tensors of `packing.collate` over its rows [R, T] and, of each item's units,
    reference       fp32   [B, U, 2]  log-probability of each answer under the model before training
    margins         fp32   [B, U, 2]  by how much the first answer is to be above the second, said of both
    answer_lengths  int64  [B, U, 2]  tokens of each answer that count
    answer_labels   uint8  [B, U, 2]  as in the shard; NO_UNIT where an item has fewer units than another
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.data.fitting import best_fit_decreasing
from pipeline.data.ledger import Ledger
from pipeline.data.order import position
from pipeline.data.packing import collate, gather, order_of, pad
from pipeline.data.shards import Shard
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

NO_UNIT = 255
Item = dict[str, Any]


class PackedAnswers:
    """Units packed once into rows of T by best fit; the rows are permuted each epoch.

    Args:
        reference: fp32 [documents], log-probability of each answer; None: 0.
        seed: order of the rows; None: as packed, the same in every epoch.
        on_long: what becomes of a unit of more than T tokens.
        packed: several units a row; else one an item, its two answers a row each.
        section: of the recipe, for errors.

    Raises:
        UserError: a unit is too long under `error`, or none is left under `drop`.
    """

    def __init__(
        self,
        shard: Shard,
        reference: np.ndarray | None,
        sequence_length: int,
        seed: int | None,
        on_long: Literal["error", "drop"],
        packed: bool,
        section: str = "prefer",
    ) -> None:
        assert shard.labels is not None, "a shard of judged answers has labels"
        self.shard, self.sequence_length, self.seed, self.packed = shard, sequence_length, seed, packed
        self.reference = np.zeros(shard.documents, np.float32) if reference is None else reference
        self.answer_lengths = _targets_of(shard)
        sides = shard.lengths.reshape(-1, 2)
        self.lengths = sides.sum(1) if packed else sides.max(1)
        kept = np.flatnonzero(self.lengths <= sequence_length)
        if on_long == "error" and len(kept) < len(sides):
            raise UserError(_too_long(shard, sequence_length, self.lengths, packed, section))
        if not len(kept):
            raise UserError(
                f"none of the {len(sides)} units of {shard.name} fits {section}.sequence_length = {sequence_length}\n"
                f"way out: {section}.sequence_length={self.lengths.max()}"
            )
        row_of = best_fit_decreasing(self.lengths[kept], sequence_length) if packed else np.arange(len(kept))
        self._units = kept[np.argsort(row_of, kind="stable")]
        self._row_begins = np.concatenate([[0], np.cumsum(np.bincount(row_of))])
        self.length = len(self._row_begins) - 1
        self.mean_length = sequence_length if packed else round(2 * float(self.lengths[kept].mean()))
        self._epoch, self._rows = -1, np.zeros(0, np.int64)

    def item(self, index: int) -> Item:
        """The units of global sample `index`: `rows` of arrays [T], or as long as they are, and arrays [U, 2]."""
        epoch, offset = position(index, self.length)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, order_of(self.seed, epoch, self.length, "rows")
        row = self._rows[offset]
        units = self._units[self._row_begins[row] : self._row_begins[row + 1]]
        answers = (2 * units[:, None] + np.arange(2)).ravel()
        parts = [answers] if self.packed else np.split(answers, 2)
        shape = (len(units), 2)
        return {
            "rows": [self._row(part) for part in parts],
            "reference": self.reference[answers].reshape(shape),
            "margins": self.shard.margins[answers].reshape(shape),
            "answer_lengths": self.answer_lengths[answers].reshape(shape),
            "answer_labels": self.shard.labels[answers].reshape(shape),
        }

    def _row(self, answers: np.ndarray) -> dict[str, np.ndarray]:
        starts, ends = self.shard.offsets[answers], self.shard.offsets[answers + 1]
        row = gather(self.shard, starts, ends - starts, ends)
        return pad(row, self.sequence_length) if self.packed else row

    def ledger(self) -> Ledger:
        """The tokens of one epoch."""
        sides = self.shard.lengths.reshape(-1, 2)
        kept = int(sides[self._units].sum())
        ledger = Ledger(
            self.shard.name,
            tokens_in=self.shard.tokens_total,
            kept=kept,
            dropped=self.shard.tokens_total - kept,
        )
        if self.packed:
            ledger.rows, ledger.row_length, ledger.inputs = self.length, self.sequence_length, kept
            ledger.padded = self.length * self.sequence_length - kept
        return ledger.balance()


def _targets_of(shard: Shard) -> np.ndarray:
    """Tokens of each document that are an answer's, int64 [documents]; its first token is never one."""
    targets = (np.asarray(shard.targets) != 0).astype(np.int64)
    targets[shard.offsets[:-1]] = 0
    return np.add.reduceat(targets, shard.offsets[:-1])


def _too_long(shard: Shard, sequence_length: int, lengths: np.ndarray, packed: bool, section: str) -> str:
    which = np.flatnonzero(lengths > sequence_length)
    sides = "both sides together" if packed else "one side"
    return (
        f"unit {which[0]} of {shard.name} has {lengths[which[0]]} tokens, {sides}: more than "
        f"{section}.sequence_length = {sequence_length}, as have {len(which)} of {len(lengths)}\n"
        f"way out: {section}.sequence_length={lengths.max()}, or {section}.on_long=drop"
    )


def collate_answers(items: list[Item]) -> "dict[str, Tensor]":
    """The rows of `items` as `collate` stacks them, and their units' arrays padded to the most units of an item."""
    import torch

    batch = collate([row for item in items for row in item["rows"]])
    most = max(len(item["answer_labels"]) for item in items)
    empties = {"reference": 0, "margins": 0, "answer_lengths": 0, "answer_labels": NO_UNIT}
    for name, empty in empties.items():
        padded = [
            np.pad(item[name], ((0, most - len(item[name])), (0, 0)), constant_values=empty) for item in items
        ]
        batch[name] = torch.from_numpy(np.stack(padded))
    return batch
