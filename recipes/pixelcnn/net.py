"""What both nets of the family are: log-probabilities of whole pictures, and the start of their weights.

B pictures, C channels, P numbers a pixel, S pixels a side.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from recipes.pixelcnn.pixels import Pixels


class Columns(Protocol):
    """A net on one pixel at a time, row by row from the left, with what came before it kept."""

    def begin(self, row: int, pixels_BSSC: Tensor) -> None:
        """Go on to a row, of which nothing is known yet."""

    def numbers(self, column: int, pixels_BSSC: Tensor) -> Tensor:
        """(B, P) of the pixel at `column` of the row, given all before it."""


class PixelNet(nn.Module):
    """head: the layer that gives the numbers, which alone is not scaled in the beginning."""

    image_size: int
    channels: int
    classes: int
    likelihood: Pixels
    head: nn.Conv2d

    def forward(self, images_BSSC: Tensor, labels_B: Tensor) -> Tensor:
        """The natural logarithm of each picture's probability, fp32 (B,)."""
        pixels_BCSS = self.likelihood.quantised(images_BSSC.permute(0, 3, 1, 2))
        numbers = self.numbers(self.likelihood.scaled(pixels_BCSS), labels_B)
        return self.likelihood.log_prob(numbers, pixels_BCSS).sum((1, 2))

    def numbers(self, scaled_BCSS: Tensor, labels_B: Tensor) -> Tensor:
        """(B, P, S, S): of each pixel, from the pixels before it alone."""
        raise NotImplementedError

    def columns(self, labels_B: Tensor) -> Columns:
        """The net on one pixel at a time."""
        raise NotImplementedError


@torch.no_grad()
def initialise(net: "PixelNet", images_BSSC: Tensor, labels_B: Tensor) -> None:
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


def inputs_of(likelihood: Pixels, pixels_BSC: Tensor) -> Tensor:
    """Pixels of a row as a first layer takes them, (B, C + 1, S): a channel of ones says what is inside a picture."""
    scaled = likelihood.scaled(pixels_BSC).transpose(1, 2)
    return torch.cat([scaled, torch.ones_like(scaled[:, :1])], 1)


def at_one(convolution: nn.Conv2d, features_BF: Tensor) -> Tensor:
    """A convolution at one place, whose kernel sees these features alone."""
    return nn.functional.linear(features_BF, convolution.weight.flatten(1), convolution.bias)
