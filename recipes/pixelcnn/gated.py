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
from recipes.pixelcnn.pixels import Pixels, pixels_of


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


class GatedPixelCnn(nn.Module):
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
        self.likelihood: Pixels = pixels_of(model, channels)
        self.mix = nn.Conv2d(width, width, 1)
        self.head = nn.Conv2d(width, self.likelihood.numbers, 1)

    def forward(self, images_BSSC: Tensor, labels_B: Tensor) -> Tensor:
        """The natural logarithm of each picture's probability, fp32 (B,)."""
        pixels_BCSS = self.likelihood.quantised(images_BSSC.permute(0, 3, 1, 2))
        numbers = self.numbers(self.likelihood.scaled(pixels_BCSS), labels_B)
        return self.likelihood.log_prob(numbers, pixels_BCSS).sum((1, 2))

    def numbers(self, scaled_BCSS: Tensor, labels_B: Tensor) -> Tensor:
        """(B, P, S, S): of each pixel, from the pixels before it alone."""
        scaled = F.pad(scaled_BCSS, (0, 0, 0, 0, 0, 1), value=1.0)
        above, left = F.pad(scaled, (0, 0, 1, -1)), F.pad(scaled, (1, -1, 0, 0))
        for place, layer in enumerate(self.layers):
            rows, row = layer(above, left, labels_B)
            left = left + row if place else row
            above = above + rows if place and rows is not None else rows
        return self.head(F.elu(self.mix(F.elu(left))))


@torch.no_grad()
def initialise(net: GatedPixelCnn, images_BSSC: Tensor, labels_B: Tensor) -> None:
    """Scale each convolution but the head so that its output on these pictures has mean 0 and variance 1 a feature map.

    The data-dependent initialisation of arXiv:1602.07868, section 3, without the weights' own parametrisation.
    """

    def scale(module: nn.Conv2d, given: tuple[Tensor, ...], found: Tensor) -> Tensor:
        mean, deviation = found.mean((0, 2, 3)), found.std((0, 2, 3))
        deviation = torch.where(
            deviation > 1e-6, deviation, 1.0
        )  # what never changes is left as large as it is
        module.weight /= deviation[:, None, None, None]
        module.bias.copy_((module.bias - mean) / deviation)
        return (found - mean[:, None, None]) / deviation[:, None, None]

    hooks = [
        module.register_forward_hook(scale)
        for module in net.modules()
        if isinstance(module, nn.Conv2d) and module is not net.head
    ]
    net(images_BSSC, labels_B)
    for hook in hooks:
        hook.remove()
