"""Pictures by seed, pixel by pixel: a part of the published file.

Each pixel costs one column of each layer, for what came before is kept.

B pictures, C channels, S pixels a side.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from recipes.common.chunks import in_chunks
from recipes.common.noise import uniform
from recipes.pixelcnn.net import PixelNet

Sampler = Callable[[list[int], list[int]], np.ndarray]

CHUNK = 50  # pictures drawn at a time


def sampler_of(net: PixelNet) -> Sampler:
    """(seeds, labels) -> uint8 (B, S, S, C)."""
    return partial(in_chunks, partial(_draw, net), size=CHUNK)


def _draw(net: PixelNet, seeds: list[int], labels: list[int]) -> Tensor:
    device = next(net.parameters()).device
    return to_images(net, drawn(net, torch.tensor(labels, device=device), coins_of(net, seeds).to(device)))


def coins_of(net: PixelNet, seeds: list[int]) -> Tensor:
    """The uniform numbers that decide the pixels of each seed, fp32 (B, S, S, C)."""
    shape = (net.image_size, net.image_size, net.channels)
    return torch.from_numpy(np.stack([uniform(seed, "pixels", 0, shape) for seed in seeds]))


def completed(
    net: PixelNet, images_BSSC: Tensor, labels: list[int], seeds: list[int], known: int
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
    net: PixelNet, labels_B: Tensor, coins_BSSC: Tensor, given_BSSC: Tensor | None = None, known: int = 0
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
    columns = net.columns(labels_B)
    for row in range(size):
        columns.begin(row, pixels_BSSC)
        for column in range(size):
            numbers_BP = columns.numbers(column, pixels_BSSC)
            if row * size + column >= known:
                coins = coins_BSSC[:, row, column]
                pixels_BSSC[:, row, column] = net.likelihood.draw(numbers_BP, coins)
    return pixels_BSSC


def to_images(net: PixelNet, pixels_BSSC: Tensor) -> Tensor:
    """Levels -> uint8 (B, S, S, C), the darkest 0 and the lightest 255."""
    return (pixels_BSSC * 255 // (net.likelihood.levels - 1)).to(torch.uint8)
