"""PixelCNN++ (arXiv:1701.05517, figure 2): residual blocks down to coarser resolutions and up again, with short cuts.

The first stream sees all rows above a pixel, the second also what is left of it in its row, and the first stream. No
kernel reaches down or to the right. On the way up each coarse pixel becomes two by two, of no neighbour.

B pictures, C channels, F feature maps, P numbers a pixel, S pixels a side, L levels of resolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.pixelcnn.config import Model
from recipes.pixelcnn.net import PixelNet, at_one, inputs_of
from recipes.pixelcnn.pixels import pixels_of

ABOVE, LEFT = (2, 3), (2, 2)  # kernels of the two streams, rows and columns
ABOVE_MARGIN, LEFT_MARGIN = (1, 1, 1, 0), (1, 0, 1, 0)  # zeros at the left, right, top and bottom


def both_signs(x: Tensor) -> Tensor:
    """ELU of x and of -x, side by side: (B, F, ...) -> (B, 2 F, ...)."""
    return F.elu(torch.cat([x, -x], 1))


class Block(nn.Module):
    """x + a gated pair of convolutions, which are told of other features by 1 x 1 ones (section 2.4)."""

    def __init__(
        self,
        width: int,
        kernel: tuple[int, int],
        margin: tuple[int, ...],
        others: int,
        classes: int,
        dropout: float,
    ):
        """others: how many features of the same width the block is told of."""
        super().__init__()
        self.margin = margin
        self.first = nn.Conv2d(2 * width, width, kernel)
        self.links = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for _ in range(others))
        self.second = nn.Conv2d(2 * width, 2 * width, kernel)
        self.classes = nn.Embedding(classes, 2 * width) if classes else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BFSS: Tensor, labels_B: Tensor, *others: Tensor) -> Tensor:
        found = self.first(F.pad(both_signs(x_BFSS), self.margin))
        for link, other in zip(self.links, others, strict=True):
            found = found + link(both_signs(other))
        found = self.second(F.pad(self.dropout(both_signs(found)), self.margin))
        return x_BFSS + self.gated(found, labels_B)

    def gated(self, found_B2F: Tensor, labels_B: Tensor) -> Tensor:
        """(B, 2 F, ...) -> (B, F, ...): half of it through a gate that the other half opens."""
        if self.classes is not None:
            told = self.classes(labels_B)
            found_B2F = found_B2F + told.view(*told.shape, *[1] * (found_B2F.dim() - 2))
        values, gates = found_B2F.chunk(2, 1)
        return values * gates.sigmoid()


class Level(nn.Module):
    """The blocks of one resolution, on the way down and up, of both streams; and the way to the next resolution."""

    def __init__(self, model: Model, classes: int, last: bool):
        super().__init__()
        width, self.last = model.hidden_size, last
        above = {"kernel": ABOVE, "margin": ABOVE_MARGIN, "classes": classes, "dropout": model.dropout}
        left = {"kernel": LEFT, "margin": LEFT_MARGIN, "classes": classes, "dropout": model.dropout}
        ups = model.blocks if last else model.blocks + 1
        self.down_above = nn.ModuleList(Block(width, others=0, **above) for _ in range(model.blocks))
        self.down_left = nn.ModuleList(Block(width, others=1, **left) for _ in range(model.blocks))
        self.up_above = nn.ModuleList(Block(width, others=1, **above) for _ in range(ups))
        self.up_left = nn.ModuleList(Block(width, others=2, **left) for _ in range(ups))
        if not last:
            self.narrow_above = nn.Conv2d(width, width, ABOVE, stride=2)
            self.narrow_left = nn.Conv2d(width, width, LEFT, stride=2)
            self.widen_above = nn.ConvTranspose2d(width, width, 2, stride=2)
            self.widen_left = nn.ConvTranspose2d(width, width, 2, stride=2)


class PixelCnnPlus(PixelNet):
    """Log-probabilities of whole pictures in one pass."""

    def __init__(self, model: Model, image_size: int, channels: int, classes: int):
        super().__init__()
        self.image_size, self.channels, self.classes, self.width = image_size, channels, classes, model.hidden_size
        self.rows_above = nn.Conv2d(channels + 1, self.width, ABOVE)
        self.row_above = nn.Conv2d(channels + 1, self.width, (1, 3))
        self.column_left = nn.Conv2d(channels + 1, self.width, (2, 1))
        self.levels = nn.ModuleList(
            Level(model, classes, place == model.resolutions - 1) for place in range(model.resolutions)
        )
        self.likelihood = pixels_of(model, channels)
        self.head = nn.Conv2d(2 * self.width, self.likelihood.numbers, 1)

    def numbers(self, scaled_BCSS: Tensor, labels_B: Tensor) -> Tensor:
        scaled = F.pad(scaled_BCSS, (0, 0, 0, 0, 0, 1), value=1.0)
        above = _down(self.rows_above(F.pad(scaled, ABOVE_MARGIN)))
        left = _down(self.row_above(F.pad(scaled, (1, 1, 0, 0))))
        left = left + F.pad(self.column_left(F.pad(scaled, (0, 0, 1, 0))), (1, -1, 0, 0))
        _, left = self._through(0, above, left, labels_B)
        return self.head(both_signs(left))

    def _through(self, place: int, above: Tensor, left: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams through a level and all coarser ones."""
        level: Level = self.levels[place]  # type: ignore[assignment]
        short_cuts = [(above, left)]
        for of_above, of_left in zip(level.down_above, level.down_left, strict=True):
            above = of_above(above, labels_B)
            left = of_left(left, labels_B, above)
            short_cuts.append((above, left))
        if level.last:
            short_cuts.pop()
        else:
            coarse = (
                level.narrow_above(F.pad(above, ABOVE_MARGIN)),
                level.narrow_left(F.pad(left, LEFT_MARGIN)),
            )
            above, left = self._through(place + 1, *coarse, labels_B)
            above, left = level.widen_above(above), level.widen_left(left)
        for of_above, of_left in zip(level.up_above, level.up_left, strict=True):
            above_before, left_before = short_cuts.pop()
            above = of_above(above, labels_B, above_before)
            left = of_left(left, labels_B, above, left_before)
        return above, left

    def columns(self, labels_B: Tensor) -> "PlusColumns":
        return PlusColumns(self, labels_B)


def _down(x_BFSS: Tensor) -> Tensor:
    """Each row takes the place of the next one; zeros above."""
    return F.pad(x_BFSS, (0, 0, 1, -1))


class _Window:
    """The row before and this one, up to here, of what a layer of the second stream looks at: (B, F, 2, 1 + W)."""

    def __init__(self, like: Tensor, count: int, features: int, size: int):
        self.kept = like.new_zeros(count, features, 2, 1 + size)

    def next_row(self) -> None:
        self.kept[:, :, 0] = self.kept[:, :, 1]
        self.kept[:, :, 1] = 0

    def seen(self, x_BF: Tensor, column: int) -> Tensor:
        """Take the features at a column; give what the kernel sees there, (B, F 2 2)."""
        self.kept[:, :, 1, column + 1] = x_BF
        return self.kept[:, :, :, column : column + 2].flatten(1)


class _Strip:
    """The row before and this one of what a layer of the first stream looks at."""

    def __init__(self, like: Tensor, count: int, features: int, size: int):
        self.before = like.new_zeros(count, features, 1, size)

    def seen(self, row_BF1W: Tensor) -> Tensor:
        """Take a row; give both with margins, (B, F, 2, W + 2)."""
        both = F.pad(torch.cat([self.before, row_BF1W], 2), (1, 1))
        self.before = row_BF1W
        return both


class _Kept:
    """What one level keeps from row to row and from pixel to pixel."""

    def __init__(self, level: Level, like: Tensor, count: int, width: int, size: int):
        given = like, count, 2 * width, size  # of both convolutions of a block, after both_signs
        self.above = {
            block: (_Strip(*given), _Strip(*given)) for block in (*level.down_above, *level.up_above)
        }
        self.left = {
            block: (_Window(*given), _Window(*given)) for block in (*level.down_left, *level.up_left)
        }
        self.narrow_above = _Strip(like, count, width, size)
        self.narrow_left = _Window(like, count, width, size)
        self.wide_above = like.new_zeros(count, width, 2, size)
        self.wide_left = like.new_zeros(count, width, 2, size)
        self.told: dict[Block, Tensor] = {}  # what the first stream says to each block of the second, of this row
        self.row = 0


class PlusColumns:
    """The net on one pixel at a time: the first stream once a row, the second a pixel at a time, at each resolution."""

    def __init__(self, net: PixelCnnPlus, labels_B: Tensor):
        self.net, self.labels, like = net, labels_B, net.head.weight
        self.levels: list[Level] = list(net.levels)  # type: ignore[arg-type]
        self.kept = [
            _Kept(level, like, len(labels_B), net.width, net.image_size >> place)
            for place, level in enumerate(self.levels)
        ]
        self.rows = like.new_zeros(len(labels_B), net.channels + 1, 2, net.image_size)  # the two above this one
        self.first = like.new_zeros(len(labels_B), net.width, 1, net.image_size)

    def begin(self, row: int, pixels_BSSC: Tensor) -> None:
        net, self.row = self.net, row
        above = torch.zeros_like(self.first)
        if row:
            self.rows[:, :, 0] = self.rows[:, :, 1]
            self.rows[:, :, 1] = inputs_of(net.likelihood, pixels_BSSC[:, row - 1])
            above = net.rows_above(F.pad(self.rows, (1, 1)))
            self.first = net.row_above(F.pad(self.rows[:, :, 1:], (1, 1)))
        self._row(0, row, above)

    def numbers(self, column: int, pixels_BSSC: Tensor) -> Tensor:
        net, left = self.net, self.first[:, :, 0, column]
        if column:
            here = inputs_of(net.likelihood, pixels_BSSC[:, self.row, column - 1 : column])[:, :, 0]
            over = self.rows[:, :, 1, column - 1]
            left = left + at_one(net.column_left, torch.stack([over, here], 2).flatten(1))
        return at_one(net.head, both_signs(self._pixel(0, column, left)))

    def _row(self, place: int, row: int, above: Tensor) -> Tensor:
        """A row of the first stream through a level and, every other row, the coarser ones; (B, F, 1, W)."""
        level, kept = self.levels[place], self.kept[place]
        kept.row = row
        for windows in kept.left.values():
            for window in windows:
                window.next_row()
        kept.narrow_left.next_row()
        short_cuts = [above]
        for of_above, of_left in zip(level.down_above, level.down_left, strict=True):
            above = self._row_of(kept, of_above, above)
            kept.told[of_left] = of_left.links[0](both_signs(above))[:, :, 0]
            short_cuts.append(above)
        if level.last:
            short_cuts.pop()
        else:
            both = kept.narrow_above.seen(above)
            if row % 2 == 0:
                coarse = self._row(place + 1, row // 2, level.narrow_above(both))
                kept.wide_above = level.widen_above(coarse)
            above = kept.wide_above[:, :, row % 2 : row % 2 + 1]
        for of_above, of_left in zip(level.up_above, level.up_left, strict=True):
            above = self._row_of(kept, of_above, above, short_cuts.pop())
            kept.told[of_left] = of_left.links[0](both_signs(above))[:, :, 0]
        return above

    def _row_of(self, kept: _Kept, block: Block, x: Tensor, *others: Tensor) -> Tensor:
        first, second = kept.above[block]
        found = block.first(first.seen(both_signs(x)))
        for link, other in zip(block.links, others, strict=True):
            found = found + link(both_signs(other))
        return x + block.gated(block.second(second.seen(both_signs(found))), self.labels)

    def _pixel(self, place: int, column: int, left: Tensor) -> Tensor:
        """A pixel of the second stream through a level and, where it is one of theirs, the coarser ones; (B, F)."""
        level, kept = self.levels[place], self.kept[place]
        short_cuts = [left]
        for block in level.down_left:
            left = self._pixel_of(kept, block, column, left, kept.told[block][:, :, column])
            short_cuts.append(left)
        if level.last:
            short_cuts.pop()
        else:
            seen = kept.narrow_left.seen(left, column)
            if kept.row % 2 == 0 and column % 2 == 0:
                coarse = self._pixel(place + 1, column // 2, at_one(level.narrow_left, seen))
                kept.wide_left[:, :, :, column : column + 2] = level.widen_left(coarse[:, :, None, None])
            left = kept.wide_left[:, :, kept.row % 2, column]
        for block in level.up_left:
            told = kept.told[block][:, :, column] + at_one(block.links[1], both_signs(short_cuts.pop()))
            left = self._pixel_of(kept, block, column, left, told)
        return left

    def _pixel_of(self, kept: _Kept, block: Block, column: int, x: Tensor, told: Tensor) -> Tensor:
        first, second = kept.left[block]
        found = at_one(block.first, first.seen(both_signs(x), column)) + told
        return x + block.gated(at_one(block.second, second.seen(both_signs(found), column)), self.labels)
