"""Pictures from a generator by seed: what sheets, alarms, scores and exports all draw with."""

import numpy as np
import torch
from torch import Tensor, nn

from recipes.common.chunks import in_chunks
from recipes.common.images.pixels import to_pixels
from recipes.common.noise import normal

CHUNK = 64


def drawn(generator: nn.Module, seeds: list[int], labels: list[int]) -> np.ndarray:
    """uint8 (B, H, W, C); picture i depends on seeds[i] and labels[i] alone, bit for bit."""
    device, size = next(generator.parameters()).device, generator.start.latent_size

    def draw(seeds: list[int], labels: list[int]) -> Tensor:
        latents = np.stack([latent_of(seed, size) for seed in seeds])
        places = torch.tensor(labels, device=device)
        return to_pixels(generator(torch.from_numpy(latents).to(device), places))

    return in_chunks(draw, seeds, labels, size=CHUNK)


def latent_of(seed: int, size: int) -> np.ndarray:
    """The latent (size,) of picture number `seed`, fp32."""
    return normal(seed, "latent", 0, (size,))
