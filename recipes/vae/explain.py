"""`headwater explain`: what single latents do to a picture.

Shapes: B pictures, N latents.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.run.errors import UserError
from recipes.common.traversals import DIRECTIONS, STEPS, Direction, opened, write_page
from recipes.vae.config import VaeConfig
from recipes.vae.drawing import CHUNK, latents_of, to_images
from recipes.vae.ladder import Ladder
from recipes.vae.nets import load_net
from recipes.vae.sampler import weight_files

SEED = 0  # of the picture that is changed


def write_explained(config: VaeConfig, name: str, out: Path) -> str:
    """Write the page: the latents that change picture SEED of class `name` most, one at a time.

    Raises:
        UserError: as traversals.opened; a VQ-VAE, whose codes are no directions.
    """
    trained, label = opened(config.run.output_dir, name, out)
    net = load_net(trained, next(iter(weight_files(config).values())))
    if not isinstance(net, Ladder):
        raise UserError("a VQ-VAE has codes in place of latents: none of them is a direction")
    places, moved = strongest(net, label)
    directions = [
        Direction(f"latent {place}: {change:.1f} of 255 a pixel", along(net, label, int(place)))
        for place, change in zip(places, moved, strict=True)
    ]
    told = (
        f"Sample {SEED}, one of its {net.latents} latents changed at a time, in standard deviations of the prior: "
        "those that move pixels most between -3 and +3 stand first."
    )
    write_page(f"{trained.parent.name}: latents", told, directions, out)
    return f"{out}: {len(directions)} of {net.latents} latents"


@torch.no_grad()
def pictures_of(net: Ladder, latents_BN: np.ndarray, label: int) -> np.ndarray:
    """uint8 (B, S, S, C), mean pixels."""
    device, found = net.top.device, []
    for start in range(0, len(latents_BN), CHUNK):
        rows = torch.from_numpy(latents_BN[start : start + CHUNK]).to(device)
        labels = torch.full((len(rows),), label, device=device)
        found.append(to_images(net.likelihood.mean(net.decode(rows, labels))).cpu().numpy())
    return np.concatenate(found)


def strongest(net: Ladder, label: int) -> tuple[Any, Any]:
    """(places of the latents that move pixels most, mean absolute change of a pixel), the strongest first."""
    middle_N = latents_of(SEED, net.latents)
    ends = []
    for end in (STEPS[0], STEPS[-1]):
        rows_NN = np.repeat(middle_N[None], net.latents, axis=0)
        np.fill_diagonal(rows_NN, end)
        ends.append(pictures_of(net, rows_NN, label).astype(np.float32))
    moved_N = np.abs(ends[1] - ends[0]).mean(axis=(1, 2, 3))
    order = np.argsort(-moved_N, kind="stable")[:DIRECTIONS]
    return order, moved_N[order]


def along(net: Ladder, label: int, place: int) -> np.ndarray:
    """Picture SEED with one latent at each of STEPS."""
    rows = np.repeat(latents_of(SEED, net.latents)[None], len(STEPS), axis=0)
    rows[:, place] = STEPS
    return pictures_of(net, rows, label)
