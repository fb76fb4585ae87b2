"""Pictures by seed from a trained net, by what a reader calls the way they were drawn.

B pictures, C channels, S pixels a side.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.common import noise
from recipes.common.chunks import in_chunks
from recipes.common.images.dataset import PreparedImages
from recipes.vae.config import VaeConfig
from recipes.vae.ladder import Ladder
from recipes.vae.nets import load_net
from recipes.vae.vq import VectorQuantised

Sampler = Callable[[list[int], list[int]], np.ndarray]

CHUNK = 32  # pictures drawn at a time
RECONSTRUCTED = 256  # held-out pictures that a VQ-VAE's sampler shows, over and over


def weight_files(config: VaeConfig) -> dict[str, str]:
    """Safetensors of a `train` artifact by name, the one to be used first."""
    shadow = {"EMA": "vae_ema.safetensors"} if config.train.ema_decay else {}
    return {**shadow, "last step": "vae.safetensors"}


def load_samplers(config: VaeConfig, prepared: Path, trained: Path) -> dict[str, Sampler]:
    """Draws by the best weights; of a VQ-VAE, which has no prior, reconstructions of held-out pictures.

    A draw of the model is a picture of drawn pixels; the mean of the pixels' distribution has no pixel noise.
    """
    name, file = next(iter(weight_files(config).items()))
    net = load_net(trained, file)
    if isinstance(net, VectorQuantised):
        held_out = PreparedImages.open(prepared, "held_out")
        return {f"{name}, reconstructions": code_sampler(net, held_out_codes(net, held_out))}
    return {f"{name}, mean pixels": ladder_sampler(net), f"{name}, drawn pixels": ladder_sampler(net, True)}


def sampler_of(net: Ladder | VectorQuantised, held_out: PreparedImages) -> Sampler:
    """(seeds, labels) -> uint8 (B, S, S, C)."""
    if isinstance(net, VectorQuantised):
        return code_sampler(net, held_out_codes(net, held_out))
    return ladder_sampler(net)


def ladder_sampler(net: Ladder, drawn_pixels: bool = False) -> Sampler:
    """Latents from the prior by seed; then the mean of each pixel's distribution, or a draw from it by seed too."""

    def draw(seeds: list[int], labels: list[int]) -> Tensor:
        latents = torch.from_numpy(np.stack([latents_of(seed, net.latents) for seed in seeds]))
        numbers = net.decode(latents.to(net.top.device), torch.tensor(labels, device=net.top.device))
        if not drawn_pixels:
            return to_images(net.likelihood.mean(numbers))
        shape = (2, net.channels, net.image_size, net.image_size)
        coins = torch.from_numpy(np.stack([noise.uniform(seed, "pixels", 0, shape) for seed in seeds]))
        return to_images(net.likelihood.sample(numbers, coins.to(numbers.device)))

    return partial(in_chunks, draw, size=CHUNK)


def code_sampler(net: VectorQuantised, codes_NRR: Tensor) -> Sampler:
    """Picture i is decoded from the codes of held-out picture seeds[i] (modulo how many are kept), mean pixels."""

    def draw(seeds: list[int], labels: list[int]) -> Tensor:
        numbers = net.decode(codes_NRR[[seed % len(codes_NRR) for seed in seeds]])
        return to_images(net.likelihood.mean(numbers))

    return partial(in_chunks, draw, size=CHUNK)


@torch.no_grad()
def held_out_codes(net: VectorQuantised, held_out: PreparedImages) -> Tensor:
    """The codes of the first RECONSTRUCTED held-out pictures, int64 (N, R, R)."""
    images = torch.from_numpy(np.array(held_out.images[:RECONSTRUCTED])).to(net.codebook.device)
    return torch.cat([net.codes_of(chunk) for chunk in images.split(CHUNK)])


def latents_of(seed: int, latents: int) -> np.ndarray:
    """The standard normal latents of sample number `seed`, fp32 (latents,)."""
    return noise.normal(seed, "latents", 0, (latents,))


def to_images(pixels_BCSS: Tensor) -> Tensor:
    """Pixels 0 to 255 in fp32 -> uint8 (B, S, S, C)."""
    return pixels_BCSS.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
