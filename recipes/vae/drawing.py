"""Pictures by seed from a net: a part of the published file.

B pictures, C channels, S pixels a side, N pictures whose codes are kept, R positions a side.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from recipes.common.chunks import in_chunks
from recipes.common.noise import normal, uniform
from recipes.vae.ladder import Ladder
from recipes.vae.vq import VectorQuantised

Sampler = Callable[[list[int], list[int]], np.ndarray]

CHUNK = 32  # pictures drawn at a time


def ladder_sampler(net: Ladder, drawn_pixels: bool = False) -> Sampler:
    """Latents from the prior by seed; then the mean of each pixel's distribution, or a draw from it by seed too."""

    def draw(seeds: list[int], labels: list[int]) -> Tensor:
        latents = torch.from_numpy(np.stack([latents_of(seed, net.latents) for seed in seeds]))
        numbers = net.decode(latents.to(net.top.device), torch.tensor(labels, device=net.top.device))
        if not drawn_pixels:
            return to_images(net.likelihood.mean(numbers))
        shape = (2, net.channels, net.image_size, net.image_size)
        coins = torch.from_numpy(np.stack([uniform(seed, "pixels", 0, shape) for seed in seeds]))
        return to_images(net.likelihood.sample(numbers, coins.to(numbers.device)))

    return partial(in_chunks, draw, size=CHUNK)


def code_sampler(net: VectorQuantised, codes_NRR: Tensor) -> Sampler:
    """Picture i is decoded from the codes of held-out picture seeds[i] (modulo how many are kept), mean pixels."""

    def draw(seeds: list[int], labels: list[int]) -> Tensor:
        numbers = net.decode(codes_NRR[[seed % len(codes_NRR) for seed in seeds]])
        return to_images(net.likelihood.mean(numbers))

    return partial(in_chunks, draw, size=CHUNK)


def latents_of(seed: int, latents: int) -> np.ndarray:
    """The standard normal latents of sample number `seed`, fp32 (latents,)."""
    return normal(seed, "latents", 0, (latents,))


def to_images(pixels_BCSS: Tensor) -> Tensor:
    """Pixels 0 to 255 in fp32 -> uint8 (B, S, S, C)."""
    return pixels_BCSS.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
