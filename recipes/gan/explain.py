"""`headwater explain`: directions of the latent that change most of what a generator's first layer says.

Shapes: B pictures, L latent numbers, F numbers of the first layer, K directions.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.run.errors import UserError
from recipes.common.images.pixels import to_pixels
from recipes.common.traversals import DIRECTIONS, STEPS, Direction, opened, write_page
from recipes.gan.config import GanConfig, RingConfig
from recipes.gan.drawing import latent_of

SEED = 0  # of the picture that is changed
LATENTS = 2000  # that the directions are found from


def write_explained(config: GanConfig, name: str, out: Path) -> str:
    """Write the page: picture SEED of class `name` along the principal directions (arXiv:2004.02546).

    Raises:
        UserError: as traversals.opened; the ring, which has no pictures.
    """
    if isinstance(config, RingConfig):
        raise UserError(
            "the ring has points in place of pictures: there is nothing to draw along a direction"
        )
    trained, label = opened(config.run.output_dir, name, out)
    generator = load_generator(config, trained)
    directions_KL, shares = principal(generator, label)
    rows = [
        Direction(f"direction {place + 1}: {share:.1%} of the variance", along(generator, label, one_L))
        for place, (one_L, share) in enumerate(zip(directions_KL, shares, strict=True))
    ]
    told = (
        f"Sample {SEED}, moved along directions of the latent: principal components of what the first layer says of "
        f"{LATENTS:,} latents (GANSpace), traced back to the latent by least squares; in their standard deviations."
    )
    write_page(f"{trained.parent.name}: directions", told, rows, out)
    return f"{out}: {len(rows)} directions, {sum(shares):.0%} of the variance of the first layer"


def load_generator(config: GanConfig, trained: Path) -> nn.Module:
    """With the EMA's weights where there are some, on the CPU."""
    from safetensors.torch import load_file

    from recipes.common.training import NETS
    from recipes.gan.pairs import build_generator, described

    generator = build_generator(*described(json.loads((trained / NETS).read_text("utf-8"))))
    name = "generator_ema" if config.train.ema_decay else "generator"
    generator.load_state_dict(load_file(trained / f"{name}.safetensors"))
    return generator.eval().requires_grad_(False)


@torch.no_grad()
def principal(generator: nn.Module, label: int) -> tuple[np.ndarray, list[float]]:
    """(directions fp32 (K, L), each as far as one standard deviation of its component; their shares of the variance).

    What is looked at is the first layer's output: principal components of the latent itself are any directions, for it
    is alike in all of them.
    """
    size = generator.start.latent_size
    latents_BL = np.stack([latent_of(seed, size) for seed in range(LATENTS)])
    labels_B = torch.full((LATENTS,), label)
    said_BF = generator.start(torch.from_numpy(latents_BL), labels_B).flatten(1).numpy()
    said_BF = said_BF - said_BF.mean(axis=0)
    _, sizes, axes_KF = np.linalg.svd(said_BF, full_matrices=False)
    count = min(DIRECTIONS, size, len(axes_KF))
    scores_BK = said_BF @ axes_KF[:count].T
    scores_BK /= scores_BK.std(axis=0) + 1e-12
    directions_KL = np.linalg.lstsq(scores_BK, latents_BL - latents_BL.mean(axis=0), rcond=None)[0]
    shares = (sizes**2 / (sizes**2).sum())[:count]
    return directions_KL.astype(np.float32), shares.tolist()


@torch.no_grad()
def along(generator: nn.Module, label: int, direction_L: np.ndarray) -> np.ndarray:
    """Picture SEED moved by each of STEPS, uint8 (len(STEPS), H, W, C)."""
    middle_L = latent_of(SEED, generator.start.latent_size)
    rows = middle_L + np.array(STEPS, np.float32)[:, None] * direction_L
    labels = torch.full((len(rows),), label)
    return to_pixels(generator(torch.from_numpy(rows), labels)).numpy()
