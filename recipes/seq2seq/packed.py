"""Several pairs a row, each apart from its neighbours on both sides. Every batch has one shape.

B rows, L tokens of a row's side, N pairs. A row has as many pairs as fit on its source side and on its target side.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.order import Order, position
from recipes.seq2seq.groups import PairedTexts

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pipeline.train.recipe import Batch

OPEN = 128  # rows that a pair may still go into
ALONE = -1  # the pair that padding belongs to

Pair = tuple[np.ndarray, np.ndarray]


class PackedPairs:
    """Implements pipeline.train.recipe.Split: every pair once an epoch, in rows of `length` tokens a side.

    Pairs are packed once; the rows are permuted each epoch. An item is `rows` rows: {"source", "target"} int64
    (rows, L), and {"source_pairs", "target_pairs"} int32 (rows, L), which say what pair of its row a token is of.

    Args:
        lengths: tokens of both sides, int64 (N, 2), each at most `length`.
        pair_of: (pair, epoch) -> its ids.
        seed: None: rows as packed, the same in every epoch.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        pair_of: Callable[[int, int], Pair],
        length: int,
        rows: int,
        pad: tuple[int, int],
        seed: int | None,
    ):
        self.row_length, self.rows, self.pad, self.pair_of = length, rows, pad, pair_of
        row_of = packed(lengths, length)
        self.members = np.argsort(row_of, kind="stable")
        self.begins = np.concatenate([[0], np.bincount(row_of).cumsum()])
        self.length = -(-(len(self.begins) - 1) // rows)
        self._order = Order(seed, self.length * rows)

    def item(self, index: int) -> dict[str, np.ndarray]:
        """Rows of global sample `index`; beyond the last row of an epoch they are empty."""
        epoch, _ = position(index, self.length)
        shape = self.rows, self.row_length
        sides = [np.full(shape, pad, np.int64) for pad in self.pad]
        owners = [np.full(shape, ALONE, np.int32) for _ in sides]
        for place in range(self.rows):
            row = self._order.row(index * self.rows + place)
            if row >= len(self.begins) - 1:
                continue
            begun = [0, 0]
            for number, member in enumerate(self.members[self.begins[row] : self.begins[row + 1]].tolist()):
                for side, ids in enumerate(self.pair_of(member, epoch)):
                    span = slice(begun[side], begun[side] + len(ids))
                    sides[side][place, span], owners[side][place, span] = ids, number
                    begun[side] = span.stop
        return dict(zip(("source", "target", "source_pairs", "target_pairs"), sides + owners, strict=True))


def packed(lengths: np.ndarray, length: int) -> np.ndarray:
    """The row of each pair, int64 (N,), by best fit among the OPEN rows with most room, in the order given.

    Raises:
        AssertionError: a side is longer than `length`.
    """
    assert lengths.max(initial=0) <= length
    room = np.full((OPEN, 2), length, np.int64)
    names, following = np.arange(OPEN), OPEN
    found = np.empty(len(lengths), np.int64)
    for place, sides in enumerate(lengths):
        left = room - sides
        fits = left.min(1) >= 0
        total = left.sum(1)
        if not fits.any():  # the fullest row is closed, and a new one opened in its place
            chosen = int(total.argmin())
            room[chosen], names[chosen], following = length, following, following + 1
        else:
            chosen = int(np.where(fits, total, 4 * length).argmin())
        room[chosen] -= sides
        found[place] = names[chosen]
    return np.unique(found, return_inverse=True)[1]  # rows that stayed empty have no number


def of_texts(pairs: PairedTexts, rows: np.ndarray) -> tuple[np.ndarray, Callable[[int, int], Pair]]:
    """(lengths, pair_of) of these pairs."""
    lengths = np.stack([pairs.source.lengths[rows], pairs.target.lengths[rows]], 1)
    return lengths, lambda member, epoch: (pairs.source.row(rows[member]), pairs.target.row(rows[member]))


def collated(items: list[dict[str, np.ndarray]]) -> "Batch":
    """Items as one batch."""
    import torch

    return {name: torch.from_numpy(np.concatenate([item[name] for item in items])) for name in items[0]}


def begins(pairs_BL: "Tensor") -> "Tensor":
    """Where a pair begins in its row, bool (B, L)."""
    import torch

    first = torch.ones_like(pairs_BL[:, :1], dtype=torch.bool)
    return torch.cat([first, pairs_BL[:, 1:] != pairs_BL[:, :-1]], 1)


def places(pairs_BL: "Tensor") -> "Tensor":
    """Tokens since the pair began, int64 (B, L)."""
    import torch

    every = torch.arange(pairs_BL.shape[1], device=pairs_BL.device).expand(pairs_BL.shape)
    return every - torch.where(begins(pairs_BL), every, 0).cummax(1).values


def masks(source_BL: "Tensor", target_BL: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
    """Who sees whom, bool (B, 1, L, L): in the encoder, in the decoder, and in the decoder of the encoder.

    From pairs of the tokens. Padding sees something, for a row of a softmax without anything is no number.
    """
    same = source_BL[:, :, None] == source_BL[:, None]
    own = (target_BL[:, :, None] == target_BL[:, None]).tril()
    across = (target_BL[:, :, None] == source_BL[:, None]) | (target_BL == ALONE)[:, :, None]
    return same[:, None], own[:, None], across[:, None]


class Positions:
    """Position tables that begin anew with each pair, where an architecture has some.

    The table is asked for the positions of one long text, and of these each token takes its own.
    """

    def __init__(self, model: "nn.Module"):
        self.places: Tensor | None = None
        for module in model.modules():
            table = getattr(module, "embed_positions", None)
            if table is not None:
                table.register_forward_hook(self._taken)

    def _taken(self, module: "nn.Module", given: object, found: "torch.Tensor") -> "torch.Tensor":
        if self.places is None:
            return found
        table = found if found.dim() == 2 else found[0]
        return table[self.places]
