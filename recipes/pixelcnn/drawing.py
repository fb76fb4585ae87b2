"""Pictures by seed, pixel by pixel: a part of the published file.

Each pixel costs one column of each layer, for what came before is kept.

B pictures, C channels, F feature maps, K reach of a kernel, S pixels a side.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.common.chunks import in_chunks
from recipes.common.noise import uniform
from recipes.pixelcnn.gated import GatedPixelCnn, Layer, gated

Sampler = Callable[[list[int], list[int]], np.ndarray]
Numbers = Callable[[int, int], Tensor]

CHUNK = 50  # pictures drawn at a time


def sampler_of(net: GatedPixelCnn) -> Sampler:
    """(seeds, labels) -> uint8 (B, S, S, C)."""
    return partial(in_chunks, partial(_draw, net), size=CHUNK)


def _draw(net: GatedPixelCnn, seeds: list[int], labels: list[int]) -> Tensor:
    device = next(net.parameters()).device
    return to_images(net, drawn(net, torch.tensor(labels, device=device), coins_of(net, seeds).to(device)))


def coins_of(net: GatedPixelCnn, seeds: list[int]) -> Tensor:
    """The uniform numbers that decide the pixels of each seed, fp32 (B, S, S, C)."""
    shape = (net.image_size, net.image_size, net.channels)
    return torch.from_numpy(np.stack([uniform(seed, "pixels", 0, shape) for seed in seeds]))


def completed(
    net: GatedPixelCnn, images_BSSC: Tensor, labels: list[int], seeds: list[int], known: int
) -> np.ndarray:
    """uint8 (B, S, S, C): pictures of which the first `known` pixels, in order, are kept and the rest are drawn."""
    device = next(net.parameters()).device

    def draw(seeds: list[int], places: list[int]) -> Tensor:
        given = net.likelihood.quantised(images_BSSC[places].to(device))
        labels_B = torch.tensor([labels[place] for place in places], device=device)
        return to_images(net, drawn(net, labels_B, coins_of(net, seeds).to(device), given, known))

    return in_chunks(draw, seeds, list(range(len(seeds))), size=CHUNK)


@torch.no_grad()
def drawn(
    net: GatedPixelCnn, labels_B: Tensor, coins_BSSC: Tensor, given_BSSC: Tensor | None = None, known: int = 0
) -> Tensor:
    """Levels int64 (B, S, S, C), each pixel drawn given all before it.

    given_BSSC: levels of which the first `known` pixels, in order, are taken as they are.
    """
    size, count = net.image_size, len(labels_B)
    pixels_BSSC = torch.zeros(count, size, size, net.channels, dtype=torch.int64, device=labels_B.device)
    if given_BSSC is not None:
        pixels_BSSC.view(count, -1, net.channels)[:, :known] = given_BSSC.reshape(count, -1, net.channels)[
            :, :known
        ]
    columns = Columns(net, labels_B)
    for row in range(size):
        columns.begin(row, pixels_BSSC)
        for column in range(size):
            numbers_BP = columns.numbers(column, pixels_BSSC)
            if row * size + column >= known:
                coins = coins_BSSC[:, row, column]
                pixels_BSSC[:, row, column] = net.likelihood.draw(numbers_BP, coins)
    return pixels_BSSC


class Columns:
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
            self._inputs(pixels_BSSC[:, row - 1])
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
        here = self._inputs(pixels_BSSC[:, self.row, column - 1 : column])[:, :, 0] if column else None
        if here is None:
            here = torch.zeros_like(self.left[0][:, :, 0])
        for place, layer in enumerate(self.layers):
            row = self.left[place]
            row[:, :, column + reach] = here
            window = row[:, :, column : column + reach + 1].flatten(1)
            found = F.linear(window, layer.horizontal.weight.flatten(1), layer.horizontal.bias)
            found = (found + self.links[place][:, :, column])[:, :, None, None] + self.conditions[place][1]
            added = _at_one(layer.horizontal_out, gated(found)[:, :, 0, 0])
            here = here + added if place else added
        return _at_one(self.net.head, F.elu(_at_one(self.net.mix, F.elu(here))))

    def _inputs(self, pixels_BSC: Tensor) -> Tensor:
        """Pixels of a row as the first layer takes them: (B, C + 1, S)."""
        scaled = self.net.likelihood.scaled(pixels_BSC).transpose(1, 2)
        return F.pad(scaled, (0, 0, 0, 1), value=1.0)


def _at_one(convolution: torch.nn.Conv2d, features_BF: Tensor) -> Tensor:
    """A 1 x 1 convolution at one place."""
    return F.linear(features_BF, convolution.weight.flatten(1), convolution.bias)


def to_images(net: GatedPixelCnn, pixels_BSSC: Tensor) -> Tensor:
    """Levels -> uint8 (B, S, S, C), the darkest 0 and the lightest 255."""
    return (pixels_BSSC * 255 // (net.likelihood.levels - 1)).to(torch.uint8)
