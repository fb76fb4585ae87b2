"""Pictures by seed and label from the generators of a published `train` artifact."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.gan.config import ImageConfig

if TYPE_CHECKING:
    import numpy as np

Sampler = Callable[[list[int], list[int]], "np.ndarray"]  # (seeds, labels) -> uint8 (B, H, W, C)


def load_samplers(config: ImageConfig, prepared: Path, trained: Path) -> dict[str, Sampler]:
    """`GAN, EMA` where there is one, then `GAN, last step`; fp32, on the GPU where there is one."""
    from recipes.common.training import NETS

    description = json.loads((trained / NETS).read_text())
    names = {"GAN, EMA": "generator_ema"} if config.train.ema_decay else {}
    return {
        name: sampler_of(description, trained / f"{file}.safetensors")
        for name, file in {**names, "GAN, last step": "generator"}.items()
    }


def sampler_of(description: dict[str, Any], weights: Path) -> Sampler:
    """description: what nets.json says; weights: of the generator, as safetensors."""
    import torch
    from safetensors.torch import load_file

    from recipes.gan.drawing import drawn
    from recipes.gan.pairs import build_generator, described

    generator = build_generator(*described(description))
    generator.load_state_dict(load_file(weights))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator.eval().requires_grad_(False).to(device)
    return partial(drawn, generator)
