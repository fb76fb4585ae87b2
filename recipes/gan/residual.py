"""The residual pair, modern and small: no normalisation, a Fixup start and no tricks (after arXiv:2501.05441).

A block's last convolution starts at zero, so that every block starts as its skip, and the others are scaled down by the
number of blocks (arXiv:1901.09321, Section 3): this is what keeps a net without normalisation trainable.
Resolutions change by nearest neighbours and means, whose backward is deterministic on a GPU, that of bilinear
interpolation is not. Nothing looks at its batch.
Shapes: B pictures, C channels, H rows, W columns, L latent numbers, F feature maps.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from recipes.common.images.shape import Shape
from recipes.gan.config import Convolutions
from recipes.gan.labels import Projection, Start
from recipes.gan.sizes import halvings_of, widths

SLOPE = 0.2
GAIN = nn.init.calculate_gain("leaky_relu", SLOPE)
CONVOLUTIONS = 3  # of a block


class Block(nn.Module):
    """x + (1 x 1, 3 x 3, 1 x 1), (B, F, H, W) -> the same."""

    def __init__(self, width: int, blocks: int):
        super().__init__()
        self.narrow = nn.Conv2d(width, width, 1)
        self.look = nn.Conv2d(width, width, 3, padding=1)
        self.widen = nn.Conv2d(width, width, 1, bias=False)
        for layer in (self.narrow, self.look):
            scaled(
                layer, GAIN * blocks ** (-1 / (2 * CONVOLUTIONS - 2))
            )  # arXiv:1901.09321, Section 3, rule 2
        nn.init.zeros_(self.widen.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.narrow(x), SLOPE)
        return x + self.widen(F.leaky_relu(self.look(y), SLOPE))


class Generator(nn.Module):
    """(B, L), labels (B,) -> (B, C, H, W), fp32; not squeezed into [-1, 1]."""

    def __init__(self, model: Convolutions, shape: Shape):
        super().__init__()
        halvings = halvings_of(shape.image_size)
        maps = widths(model.channels, model.max_channels, halvings + 1)[::-1]
        base, blocks = shape.image_size >> halvings, model.blocks * (halvings + 1)
        self.start = Start(model.latent_size, shape.classes, maps[0], base, gain=1)
        layers = stage(maps[0], model.blocks, blocks)
        for before, after in zip(maps, maps[1:], strict=False):
            layers += [scaled(nn.Conv2d(before, after, 1), 1), nn.Upsample(scale_factor=2)]
            layers += stage(after, model.blocks, blocks)
        self.layers = nn.Sequential(*layers, scaled(nn.Conv2d(maps[-1], shape.channels, 1), 1))

    def forward(self, latent_BL: Tensor, labels_B: Tensor) -> Tensor:
        return self.layers(self.start(latent_BL, labels_B)).float()


class Critic(nn.Module):
    """(B, C, H, W), labels (B,) -> scores (B,), fp32."""

    def __init__(self, model: Convolutions, shape: Shape):
        super().__init__()
        halvings = halvings_of(shape.image_size)
        maps = widths(model.channels, model.max_channels, halvings + 1)
        base, blocks = shape.image_size >> halvings, model.blocks * (halvings + 1)
        layers = [scaled(nn.Conv2d(shape.channels, maps[0], 1), 1), *stage(maps[0], model.blocks, blocks)]
        for before, after in zip(maps, maps[1:], strict=False):
            layers += [nn.AvgPool2d(2), scaled(nn.Conv2d(before, after, 1), 1)]
            layers += stage(after, model.blocks, blocks)
        # One weighted sum over the places of each map, as in arXiv:2501.05441's last layer.
        layers += [scaled(nn.Conv2d(maps[-1], maps[-1], base, groups=maps[-1]), 1), nn.Flatten()]
        self.layers = nn.Sequential(*layers)
        self.head = Projection(maps[-1], shape.classes)

    def forward(self, x_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        return self.head(self.layers(x_BCHW.to(self.head.linear.weight.dtype)), labels_B)


def stage(width: int, count: int, blocks: int) -> list[nn.Module]:
    """The blocks of one resolution; blocks: of the whole net."""
    return [Block(width, blocks) for _ in range(count)]


def scaled(layer: nn.Conv2d | nn.Linear, gain: float) -> nn.Module:
    """`layer` with weights that multiply the size of what passes by `gain`, and zero biases."""
    nn.init.normal_(layer.weight, std=gain / layer.weight[0].numel() ** 0.5)
    nn.init.zeros_(layer.bias)
    return layer
