"""The gated PixelCNN (arXiv:1606.05328): what each pixel is given of those before it, without a blind spot.

Pixels come row by row, from the left. The vertical stack sees all rows above a pixel, as wide as its kernels reach; the
horizontal stack sees the pixels left of it in its row, and what the vertical stack found. Both shift their input by one
before the first layer, and no kernel reaches down or to the right, so no masks are needed (arXiv:1701.05517, section
2.3). B pictures, C channels, F feature maps, P numbers a pixel, K reach of a kernel to one side, S pixels a side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.pixelcnn.config import Model
from recipes.pixelcnn.net import PixelNet, at_one, inputs_of
from recipes.pixelcnn.pixels import pixels_of


class Layer(nn.Module):
    """One gated layer of both stacks (figure 2), each with its residual (the vertical one as in arXiv:1701.05517)."""

    def __init__(self, inputs: int, model: Model, classes: int, last: bool = False):
        """last: no layer comes after it to look at its vertical stack."""
        super().__init__()
        width, self.reach = model.hidden_size, model.kernel // 2
        self.vertical = nn.Conv2d(inputs, 2 * width, (self.reach + 1, model.kernel))
        self.horizontal = nn.Conv2d(inputs, 2 * width, (1, self.reach + 1))
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.vertical_out = None if last else nn.Conv2d(width, width, 1)
        self.horizontal_out = nn.Conv2d(width, width, 1)
        self.dropout = nn.Dropout(model.dropout)
        self.classes = nn.Embedding(classes, 4 * width) if classes else None

    def forward(
        self, above_BFSS: Tensor, left_BFSS: Tensor, labels_B: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """What the layer adds to the vertical and to the horizontal stack."""
        reach = self.reach
        rows = self.vertical(F.pad(above_BFSS, (reach, reach, reach, 0)))
        row = self.horizontal(F.pad(left_BFSS, (reach, 0, 0, 0))) + self.link(rows)
        for_rows, for_row = self.conditions(labels_B)
        added = self.horizontal_out(self.dropout(gated(row + for_row)))
        return self.down(rows, for_rows), added

    def down(self, rows_B2FRS: Tensor, for_rows: Tensor | float) -> Tensor | None:
        """What a layer adds to the vertical stack; None of the last one, which nothing looks at."""
        if self.vertical_out is None:
            return None
        return self.vertical_out(self.dropout(gated(rows_B2FRS + for_rows)))

    def conditions(self, labels_B: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """What the class adds to each stack before its gate (equation 4): (B, 2 F, 1, 1) each."""
        if self.classes is None:
            return 0.0, 0.0
        return self.classes(labels_B)[:, :, None, None].chunk(2, 1)  # type: ignore[return-value]


def gated(features_B2FSS: Tensor) -> Tensor:
    """Equation 2."""
    values, gates = features_B2FSS.chunk(2, 1)
    return values.tanh() * gates.sigmoid()


class GatedPixelCnn(PixelNet):
    """Log-probabilities of whole pictures in one pass."""

    def __init__(self, model: Model, image_size: int, channels: int, classes: int):
        super().__init__()
        self.image_size, self.channels, self.classes = image_size, channels, classes
        self.reach = model.kernel // 2
        width = model.hidden_size
        inputs = [
            channels + 1,
            *[width] * (model.blocks - 1),
        ]  # a channel of ones tells what is inside the picture
        self.layers = nn.ModuleList(
            Layer(count, model, classes, place == model.blocks - 1) for place, count in enumerate(inputs)
        )
        self.likelihood = pixels_of(model, channels)
        self.mix = nn.Conv2d(width, width, 1)
        self.head = nn.Conv2d(width, self.likelihood.numbers, 1)

    def numbers(self, scaled_BCSS: Tensor, labels_B: Tensor) -> Tensor:
        """(B, P, S, S): of each pixel, from the pixels before it alone."""
        scaled = F.pad(scaled_BCSS, (0, 0, 0, 0, 0, 1), value=1.0)
        above, left = F.pad(scaled, (0, 0, 1, -1)), F.pad(scaled, (1, -1, 0, 0))
        for place, layer in enumerate(self.layers):
            rows, row = layer(above, left, labels_B)
            left = left + row if place else row
            above = above + rows if place and rows is not None else rows
        return self.head(F.elu(self.mix(F.elu(left))))

    def columns(self, labels_B: Tensor) -> "GatedColumns":
        return GatedColumns(self, labels_B)


class GatedColumns:
    """The net on one pixel at a time: the vertical stack once a row, the horizontal stack a column at a time."""

    def __init__(self, net: GatedPixelCnn, labels_B: Tensor):
        self.net, self.count = net, len(labels_B)
        self.layers: list[Layer] = list(net.layers)  # type: ignore[arg-type]
        self.conditions = [layer.conditions(labels_B) for layer in self.layers]
        widths = [layer.vertical.in_channels for layer in self.layers]
        reach, size = net.reach, net.image_size
        weight = self.layers[0].vertical.weight
        # Of each layer's input: the last K + 1 rows with their margins, and this row up to here with its margin.
        self.above = [weight.new_zeros(self.count, width, reach + 1, size + 2 * reach) for width in widths]
        self.left = [weight.new_zeros(self.count, width, size + reach) for width in widths]
        self.links: list[Tensor] = []
        self.row = 0

    def begin(self, row: int, pixels_BSSC: Tensor) -> None:
        """Go on to a row, of which nothing is known yet: what the rows above say of all its pixels."""
        self.row, self.links, reach = row, [], self.net.reach
        rows = (
            inputs_of(self.net.likelihood, pixels_BSSC[:, row - 1])
            if row
            else torch.zeros_like(self.above[0][:, :, 0, reach:-reach])
        )
        for place, layer in enumerate(self.layers):
            strip = self.above[place]
            strip[:, :, :-1] = strip[:, :, 1:].clone()
            strip[:, :, -1, reach : reach + self.net.image_size] = rows
            found = layer.vertical(strip)
            self.links.append(layer.link(found)[:, :, 0])
            self.left[place].zero_()
            added = layer.down(found, self.conditions[place][0])
            if added is not None:
                rows = rows + added[:, :, 0] if place else added[:, :, 0]

    def numbers(self, column: int, pixels_BSSC: Tensor) -> Tensor:
        """(B, P) of the pixel at `column` of the row."""
        reach = self.net.reach
        here = torch.zeros_like(self.left[0][:, :, 0])
        if column:
            before = pixels_BSSC[:, self.row, column - 1 : column]
            here = inputs_of(self.net.likelihood, before)[:, :, 0]
        for place, layer in enumerate(self.layers):
            row = self.left[place]
            row[:, :, column + reach] = here
            window = row[:, :, column : column + reach + 1].flatten(1)
            found = F.linear(window, layer.horizontal.weight.flatten(1), layer.horizontal.bias)
            found = (found + self.links[place][:, :, column])[:, :, None, None] + self.conditions[place][1]
            added = at_one(layer.horizontal_out, gated(found)[:, :, 0, 0])
            here = here + added if place else added
        return at_one(self.net.head, F.elu(at_one(self.net.mix, F.elu(here))))
