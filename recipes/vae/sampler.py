"""Pictures by seed from a trained net, by what a reader calls the way they were drawn.

B pictures, C channels, S pixels a side.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.common.images.dataset import PreparedImages
from recipes.vae.config import VaeConfig
from recipes.vae.drawing import CHUNK, Sampler, code_sampler, ladder_sampler
from recipes.vae.ladder import Ladder
from recipes.vae.nets import load_net
from recipes.vae.vq import VectorQuantised

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


@torch.no_grad()
def held_out_codes(net: VectorQuantised, held_out: PreparedImages) -> Tensor:
    """The codes of the first RECONSTRUCTED held-out pictures, int64 (N, R, R)."""
    images = torch.from_numpy(np.array(held_out.images[:RECONSTRUCTED])).to(net.codebook.device)
    return torch.cat([net.codes_of(chunk) for chunk in images.split(CHUNK)])
