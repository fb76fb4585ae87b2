"""Sheets beside the samples: reconstructions, interpolations between pictures, traversals of single latents.

B pictures, N latents of a picture, S pixels a side, C channels.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.common import noise
from recipes.common.images.dataset import PreparedImages
from recipes.common.images.sheet import save_sheet
from recipes.vae.drawing import CHUNK, to_images
from recipes.vae.ladder import Ladder
from recipes.vae.reconstruction import reconstructed
from recipes.vae.vq import VectorQuantised

PAIRS, STEPS = 10, 9  # rows and columns of the interpolations
LATENTS, REACH = 10, 3.0  # rows of the traversals, and how far they go, in prior standard deviations
RECONSTRUCTIONS = 40


def reconstructions(
    net: Ladder | VectorQuantised, images_BSSC: np.ndarray, labels_B: np.ndarray, path: Path
) -> None:
    """Columns of ten: a row of pictures, and under it what comes back from their latents' means, or their codes."""
    back = reconstructed(net, images_BSSC, labels_B)
    rows = [
        rows for first in range(0, len(back), 10) for rows in (images_BSSC[first:][:10], back[first:][:10])
    ]
    save_sheet(np.concatenate(rows), path, columns=10)


@torch.no_grad()
def interpolations(net: Ladder, images_BSSC: np.ndarray, labels_B: np.ndarray, path: Path) -> None:
    """Row i: from picture 2i to picture 2i + 1 along the great circle between their latents; the ends as they are.

    Linear interpolation would leave the shell on which standard normal latents of many dimensions lie. What the decoder
    knows of the class goes over in a straight line.
    """
    z_BN = posterior_means(net, images_BSSC, labels_B)
    starts_B = net.start(torch.from_numpy(labels_B))
    rows = []
    for left in range(0, 2 * (len(images_BSSC) // 2), 2):
        shares = torch.linspace(0, 1, STEPS)
        along = torch.stack([great_circle(z_BN[left], z_BN[left + 1], float(share)) for share in shares])
        start = torch.stack([torch.lerp(starts_B[left], starts_B[left + 1], share) for share in shares])
        shown = to_images(net.likelihood.mean(net.descend(start, along))).numpy()
        rows += [images_BSSC[left : left + 1], shown, images_BSSC[left + 1 : left + 2]]
    save_sheet(np.concatenate(rows), path, columns=STEPS + 2)


@torch.no_grad()
def traversals(net: Ladder, images_BSSC: np.ndarray, labels_B: np.ndarray, path: Path) -> None:
    """Row i: one latent of picture 0 goes from -3 to 3 while the others stay: most KL first, of the top group."""
    image, label = images_BSSC[:1], labels_B[:1]
    _, posteriors = net.infer(
        torch.from_numpy(images_BSSC), torch.from_numpy(labels_B), _zeros(net, labels_B)
    )
    order = posteriors[0].kl().flatten(1).mean(dim=0).argsort(descending=True)
    z_N = posterior_means(net, image, label)[0]
    rows = []
    for place in order[:LATENTS].tolist():
        moved = z_N.repeat(STEPS, 1)
        moved[:, place] = torch.linspace(-REACH, REACH, STEPS)
        numbers = net.decode(moved, torch.from_numpy(label).repeat(STEPS))
        rows.append(to_images(net.likelihood.mean(numbers)).numpy())
    save_sheet(np.concatenate(rows), path, columns=STEPS)


@torch.no_grad()
def group_draws(net: Ladder, label: int, seed: int, path: Path) -> None:
    """Row i: groups up to i stay as in one draw and those below are drawn anew, ten times: what each group decides."""
    rows = []
    for kept in range(len(net.groups)):
        latents = torch.from_numpy(
            np.stack([noise.normal(seed, "fresh", place, (net.latents,)) for place in range(10)])
        )
        fixed = sum(channels * resolution**2 for resolution, channels in net.groups[: kept + 1])
        latents[:, :fixed] = torch.from_numpy(noise.normal(seed, "kept", 0, (net.latents,)))[:fixed]
        numbers = net.decode(latents, torch.full((10,), label))
        rows.append(to_images(net.likelihood.mean(numbers)).numpy())
    save_sheet(np.concatenate(rows), path, columns=10)


@torch.no_grad()
def posterior_means(net: Ladder, images_BSSC: np.ndarray, labels_B: np.ndarray) -> Tensor:
    """The posterior's mean of each group given the means above it, (B, N)."""
    images, labels = torch.from_numpy(np.array(images_BSSC)), torch.from_numpy(np.array(labels_B))
    _, posteriors = net.infer(images, labels, _zeros(net, labels_B))
    return torch.cat([posterior.mean.flatten(1) for posterior in posteriors], dim=1)


def great_circle(one_N: Tensor, other_N: Tensor, share: float) -> Tensor:
    """The point `share` of the way along the arc between two directions, its length between theirs."""
    cosine = torch.nn.functional.cosine_similarity(one_N, other_N, dim=0).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if float(angle.sin()) < 1e-4:  # the same or the opposite direction: no arc to follow
        return torch.lerp(one_N, other_N, share)
    return (torch.sin((1 - share) * angle) * one_N + torch.sin(share * angle) * other_N) / torch.sin(angle)


def _zeros(net: Ladder, labels_B: np.ndarray) -> Tensor:
    return torch.zeros(len(labels_B), net.latents)


def write_sheets(net: Ladder | VectorQuantised, held_out: PreparedImages, seed: int, out: Path) -> None:
    """Every sheet that this kind of net has, from the first held-out pictures."""
    images, labels = np.array(held_out.images[:RECONSTRUCTIONS]), held_out.labels[:RECONSTRUCTIONS]
    reconstructions(net, images, labels, out / "reconstructions.png")
    if isinstance(net, VectorQuantised):
        return
    interpolations(net, images[: 2 * PAIRS], labels[: 2 * PAIRS], out / "interpolations.png")
    traversals(net, images[:CHUNK], labels[:CHUNK], out / "traversals.png")
    if len(net.groups) > 1:
        group_draws(net, max(0, int(labels[0])), seed, out / "groups.png")
