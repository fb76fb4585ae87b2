"""Bounds on the log-likelihood of pictures, one number a picture, with noise that follows from the picture's place.

N pictures, H rows, W columns, C channels.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from recipes.common import noise
from recipes.vae.ladder import Bound, Ladder

BATCH = 100  # pictures a forward
Chunk = tuple[Tensor, Tensor, range]


@torch.no_grad()
def elbo(net: Ladder, images_NHWC: np.ndarray, labels_N: np.ndarray, seed: int) -> Bound:
    """The terms of each picture's bound, one draw of the latents each, nats."""
    found = [
        net(images, labels, _noise(net, seed, "elbo", places))
        for images, labels, places in _chunks(images_NHWC, labels_N)
    ]
    return Bound(*[torch.cat(parts) for parts in zip(*found, strict=True)])


@torch.no_grad()
def importance_bound(
    net: Ladder, images_NHWC: np.ndarray, labels_N: np.ndarray, draws: int, seed: int
) -> Tensor:
    """arXiv:1509.00519, equation 8: log of the mean of `draws` importance weights, nats (N,)."""
    found = []
    for images, labels, places in _chunks(images_NHWC, labels_N):
        weights = [
            net.log_weight(images, labels, _noise(net, seed, f"importance/{draw}", places))
            for draw in range(draws)
        ]
        found.append(torch.logsumexp(torch.stack(weights).double(), dim=0) - math.log(draws))
    return torch.cat(found)


def marginal(
    net: Ladder, images_NHWC: np.ndarray, classes: list[int], seed: int, bound_of: Callable[..., Bound] = elbo
) -> Tensor:
    """The bound where the class is not told: log of the mean of exp(bound) over `classes`, nats (N,)."""
    given = classes or [0]
    found = [bound_of(net, images_NHWC, np.full(len(images_NHWC), label), seed) for label in given]
    return torch.logsumexp(torch.stack([value_of(bound).double() for bound in found]), dim=0) - math.log(
        len(given)
    )


def value_of(bound: Bound) -> Tensor:
    """The evidence lower bound of each picture, nats (N,)."""
    return bound.log_prob - bound.kl.sum(dim=1)


def _chunks(images_NHWC: np.ndarray, labels_N: np.ndarray) -> Iterator[Chunk]:
    for first in range(0, len(images_NHWC), BATCH):
        images = torch.from_numpy(np.array(images_NHWC[first : first + BATCH]))
        labels = torch.from_numpy(np.array(labels_N[first : first + BATCH]))
        yield images, labels, range(first, first + len(images))


def _noise(net: Ladder, seed: int, purpose: str, places: range) -> Tensor:
    return torch.from_numpy(
        np.stack([noise.normal(seed, purpose, place, (net.latents,)) for place in places])
    )
