"""Pictures through the net and back: mean pixels of a decoder, and the scores of a VQ-VAE.

N pictures, H rows, W columns, C channels, R resolution of a grid of codes.
"""

import math

import numpy as np
import torch
from torch import Tensor

from pipeline.run.results import Score
from pipeline.scores.intervals import bootstrap_interval
from recipes.vae.drawing import to_images
from recipes.vae.ladder import Ladder
from recipes.vae.vq import VectorQuantised, perplexity

BATCH = 100  # pictures a forward


@torch.no_grad()
def reconstructed(net: Ladder | VectorQuantised, images_NHWC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Mean pixels decoded from the posterior's mean, or from codes: uint8 (N, H, W, C)."""
    found = []
    for first in range(0, len(images_NHWC), BATCH):
        images = torch.from_numpy(np.array(images_NHWC[first : first + BATCH]))
        labels = torch.from_numpy(np.array(labels_N[first : first + BATCH]))
        found.append(to_images(net.likelihood.mean(_numbers(net, images, labels))))
    return torch.cat(found).numpy()


def _numbers(net: Ladder | VectorQuantised, images: Tensor, labels: Tensor) -> Tensor:
    if isinstance(net, VectorQuantised):
        return net.decode(net.codes_of(images))
    return net.infer(images, labels, torch.zeros(len(images), net.latents))[0]


def psnr(one_NHWC: np.ndarray, other_NHWC: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each picture, dB (N,); equal pictures count as half a level off everywhere."""
    squares = (one_NHWC.astype(np.float64) - other_NHWC).reshape(len(one_NHWC), -1) ** 2
    return 10 * np.log10(255**2 / np.maximum(squares.mean(axis=1), 0.25))


def vq_scores(
    name: str, net: VectorQuantised, images_NHWC: np.ndarray, resamples: int, seed: int
) -> list[Score]:
    """Reconstruction beside the mean picture's, the code's size, and the codebook's use."""
    labels, count = np.zeros(len(images_NHWC), np.int64), len(images_NHWC)
    decibels = psnr(images_NHWC, reconstructed(net, images_NHWC, labels))
    mean = np.broadcast_to(images_NHWC.mean(axis=0), images_NHWC.shape)
    baseline = psnr(images_NHWC, mean)
    interval, mean_interval = (
        bootstrap_interval(values, np.ones(count), resamples, seed) for values in (decibels, baseline)
    )
    counts = torch.bincount(_codes(net, images_NHWC), minlength=len(net.codebook))
    codes, rate = len(net.codebook), net.resolution**2 * math.log2(len(net.codebook)) / images_NHWC[0].size
    shown = (
        "PSNR of each picture against its mean pixels, mean over held-out pictures; 95% bootstrap interval"
    )
    used = f"codes chosen at least once over {count} held-out pictures of {net.resolution**2} codes each"
    size = "codes of equal length, no entropy coding"
    effective = "exp of the entropy of how often each code is chosen"
    rows = [
        ("reconstruction", name, float(decibels.mean()), interval, "dB", shown, "higher"),
        ("reconstruction", "the mean picture", float(baseline.mean()), mean_interval, "dB", shown, "higher"),
        ("size of the code", name, rate, None, "bits/dim", size, "lower"),
        ("codes used", name, int((counts > 0).sum()), None, f"of {codes}", used, "higher"),
        ("perplexity of the codes", name, perplexity(counts), None, f"of {codes}", effective, "higher"),
    ]
    return [Score(*row[:5], count, *row[5:]) for row in rows]


@torch.no_grad()
def _codes(net: VectorQuantised, images_NHWC: np.ndarray) -> Tensor:
    parts = torch.from_numpy(np.array(images_NHWC)).split(BATCH)
    return torch.cat([net.codes_of(part) for part in parts]).flatten()
