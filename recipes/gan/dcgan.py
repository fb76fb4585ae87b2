"""The DCGAN-sized pair: strided convolutions down, transposed ones up (arXiv:1511.06434), without its BatchNorm.

BatchNorm, or a statistic over the batch, would make a picture depend on what it is drawn with, and a step on how many
processes it is spread over: nothing here looks at its batch. He's initialisation stands in for it.
Shapes: B pictures, C channels, H rows, W columns, L latent numbers.
"""

import math

import torch
from torch import Tensor, nn

from recipes.common.images.shape import Shape
from recipes.gan.config import Convolutions
from recipes.gan.labels import Projection, Start
from recipes.gan.sizes import halvings_of, widths

SLOPE = 0.2  # of the leaky rectifiers, as in the paper
FAINT = (
    0.1  # of a generator's first pictures: random ones are noise to the pixel, which takes long to unlearn
)


class Generator(nn.Module):
    """(B, L), labels (B,) -> (B, C, H, W) in [-1, 1], fp32."""

    def __init__(self, model: Convolutions, shape: Shape):
        super().__init__()
        halvings = halvings_of(shape.image_size)
        maps = widths(model.channels, model.max_channels, halvings)[::-1]
        base = shape.image_size >> halvings
        layers = [nn.LeakyReLU(SLOPE), nn.Conv2d(maps[0], maps[0], 3, padding=1), nn.LeakyReLU(SLOPE)]
        for before, after in zip(maps, maps[1:], strict=False):
            layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        last = nn.ConvTranspose2d(maps[-1], shape.channels, 4, stride=2, padding=1)
        self.layers = nn.Sequential(*layers, last, nn.Tanh())
        initialise(self.layers)
        with torch.no_grad():
            last.weight *= FAINT
        self.start = Start(model.latent_size, shape.classes, maps[0], base, gain=1)

    def forward(self, latent_BL: Tensor, labels_B: Tensor) -> Tensor:
        return self.layers(self.start(latent_BL, labels_B)).float()


class Critic(nn.Module):
    """(B, C, H, W), labels (B,) -> scores (B,), fp32."""

    def __init__(self, model: Convolutions, shape: Shape):
        super().__init__()
        halvings = halvings_of(shape.image_size)
        maps = [shape.channels, *widths(model.channels, model.max_channels, halvings)]
        base, layers = shape.image_size >> halvings, []
        for before, after in zip(maps, maps[1:], strict=False):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        layers += [nn.Conv2d(maps[-1], maps[-1], 3, padding=1), nn.LeakyReLU(SLOPE), nn.Flatten()]
        layers += [nn.Linear(maps[-1] * base * base, maps[-1]), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers)
        self.head = Projection(maps[-1], shape.classes)
        initialise(self)

    def forward(self, x_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        return self.head(self.layers(x_BCHW.to(self.head.linear.weight.dtype)), labels_B)


def initialise(net: nn.Module) -> None:
    """Normal weights that keep the size of what passes (arXiv:1502.01852, Equation 15), zero biases."""
    gain = nn.init.calculate_gain("leaky_relu", SLOPE)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, std=gain / _inputs(module) ** 0.5)
            nn.init.zeros_(module.bias)


def _inputs(module: nn.Module) -> float:
    """Numbers that one output of `module` is a sum of."""
    if isinstance(module, nn.ConvTranspose2d):
        return module.in_channels * math.prod(module.kernel_size) / math.prod(module.stride)
    return float(module.weight[0].numel())
