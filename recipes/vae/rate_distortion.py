"""Lossy coding: rounded latents as really coded bytes against the quality of what they decode to, beside JPEG and WebP.

A step width rounds every latent of every group to its multiples, from the top group down, each group given the rounded
ones above. Each latent's integers are coded under a normal distribution fitted to that latent on training pictures, a
part of the model as its weights are.

B pictures, S pixels a side, C channels, N latents of a picture, K integers of a table.
"""

import io
import json
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recipes.common.images.pixels import to_unit
from recipes.common.images.sheet import encoded, sheet
from recipes.common.rans import Message, pop_table, push_table, table
from recipes.vae.blocks import to_resolution
from recipes.vae.drawing import to_images
from recipes.vae.ladder import Ladder
from recipes.vae.reconstruction import psnr

LANES = 64  # states of the coder; each costs four bytes of the whole
REACH = 8.0  # the largest rounded latent, in prior standard deviations; beyond it latents are cut off
FLOOR = 0.05  # of a latent's fitted standard deviation, in steps: a latent that never moved may move once
BATCH = 50  # pictures a forward
QUALITIES = (1, 5, 10, 20, 35, 50, 75, 95)


@dataclass(frozen=True)
class Point:
    """One place on a curve: mean bytes a picture and the mean over pictures of their PSNR, dB."""

    codec: str
    setting: float
    bytes_a_picture: float
    decibels: float

    def as_json(self) -> dict[str, float | str]:
        return dict(vars(self))


@dataclass(frozen=True)
class LatentModel:
    """What is known of each latent before coding, each fp64 (N,): its mean and standard deviation in training."""

    mean: np.ndarray
    std: np.ndarray

    def cumulative(self, step: float, place: slice) -> np.ndarray:
        """Tables of some latents' integers, int64 (n, K + 1); integer k stands at place k + K // 2."""
        reach = math.ceil(REACH / step)
        edges = (np.arange(-reach, reach + 2) - 0.5) * step
        std = np.maximum(self.std[place, None], FLOOR * step)
        below = torch.special.ndtr(torch.from_numpy((edges - self.mean[place, None]) / std)).numpy()
        below[:, 0], below[:, -1] = 0.0, 1.0
        return table(np.diff(below, axis=1))


def fitted(net: Ladder, images_BSSC: np.ndarray, labels_B: np.ndarray) -> LatentModel:
    """Moments of the posterior means of training pictures."""
    means = _latents(net, images_BSSC, labels_B, step=0.0)
    return LatentModel(means.mean(axis=0, dtype=np.float64), means.std(axis=0, dtype=np.float64))


def curve(
    net: Ladder, known: LatentModel, images_BSSC: np.ndarray, labels_B: np.ndarray, steps: tuple[float, ...]
) -> list[Point]:
    """A point a step width; what is decoded is decoded from the bytes that are counted.

    Raises:
        RuntimeError: the bytes hold other integers than those that were coded.
    """
    points = []
    for step in steps:
        rounded = _latents(net, images_BSSC, labels_B, step)
        content = coded(rounded, labels_B, known, step, _classes(net))
        integers, labels = decoded(content, known, step, len(images_BSSC), _classes(net))
        if not (np.array_equal(integers, _integers(rounded, step)) and np.array_equal(labels, labels_B)):
            raise RuntimeError(f"latents rounded to {step} came back changed")
        shown = _decode(net, integers * step, labels)
        decibels = float(psnr(images_BSSC, shown).mean())
        points.append(Point("VAE", step, len(content) / len(images_BSSC), decibels))
    return points


def coded(
    rounded_BN: np.ndarray, labels_B: np.ndarray, known: LatentModel, step: float, classes: int
) -> bytes:
    """Rounded latents and classes of all pictures as one message."""
    integers = _integers(rounded_BN, step)
    message, reach = Message(LANES), math.ceil(REACH / step)
    for place in _places(integers.shape[1]):
        tables = np.tile(known.cumulative(step, place), (len(integers), 1))
        push_table(message, integers[:, place].reshape(-1) + reach, tables)
    if classes:
        push_table(message, labels_B, table(np.ones(classes)))
    return message.to_bytes()


def decoded(
    content: bytes, known: LatentModel, step: float, count: int, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Integers int64 (B, N) and labels int64 (B,): the inverse of coded."""
    message, reach = Message.from_bytes(content, LANES), math.ceil(REACH / step)
    labels = pop_table(message, count, table(np.ones(classes))) if classes else np.full(count, -1)
    parts = []
    for place in reversed(_places(len(known.mean))):
        tables = np.tile(known.cumulative(step, place), (count, 1))
        parts.append(pop_table(message, len(tables), tables).reshape(count, -1) - reach)
    return np.concatenate(parts[::-1], axis=1), labels


def rivals(images_BSSC: np.ndarray) -> list[Point]:
    """JPEG and WebP at several qualities: a file a picture, and all pictures tiled into one file."""
    points = []
    for kind in ("JPEG", "WEBP"):
        for quality in QUALITIES:
            files = [_through(image, kind, quality) for image in images_BSSC]
            size = float(np.mean([size for size, _ in files]))
            shown = np.stack([back for _, back in files])
            points.append(
                Point(f"{kind}, a file each", quality, size, float(psnr(images_BSSC, shown).mean()))
            )
            size, page = _through(sheet(images_BSSC), kind, quality)
            shown = _cut(page, images_BSSC)
            size /= len(images_BSSC)
            points.append(Point(f"{kind}, one sheet", quality, size, float(psnr(images_BSSC, shown).mean())))
    return points


def _through(image_HWC: np.ndarray, kind: str, quality: int) -> tuple[int, np.ndarray]:
    """The bytes of a lossy file, and the picture that it holds."""
    from PIL import Image

    file = encoded(image_HWC, kind, quality=quality)
    back = np.asarray(Image.open(io.BytesIO(file)).convert("L" if image_HWC.shape[-1] == 1 else "RGB"))
    return len(file), back.reshape(image_HWC.shape)


def _cut(page_HWC: np.ndarray, images_BSSC: np.ndarray) -> np.ndarray:
    """The pictures of a sheet that `sheet(images)` made."""
    side, columns = images_BSSC.shape[1], math.ceil(math.sqrt(len(images_BSSC)))
    corners = [divmod(place, columns) for place in range(len(images_BSSC))]
    pitch = side + 1
    return np.stack([page_HWC[row * pitch :][:side, column * pitch :][:, :side] for row, column in corners])


@torch.no_grad()
def _latents(net: Ladder, images_BSSC: np.ndarray, labels_B: np.ndarray, step: float) -> np.ndarray:
    """Posterior means given the groups above, rounded to multiples of `step` (0: not), fp32 (B, N)."""
    found = []
    for first in range(0, len(images_BSSC), BATCH):
        images = torch.from_numpy(np.array(images_BSSC[first : first + BATCH]))
        labels = torch.from_numpy(np.array(labels_B[first : first + BATCH]))
        found.append(_rounded_walk(net, images, labels, step))
    return torch.cat(found).numpy()


def _rounded_walk(net: Ladder, images_BSSC: Tensor, labels_B: Tensor, step: float) -> Tensor:
    features, h = net.encoder(to_unit(images_BSSC)), net.start(labels_B)
    parts = []
    for rung, resolution, _ in net.walk(torch.zeros(len(labels_B), net.latents)):
        h = to_resolution(h, resolution)
        mean, _ = rung.distribution(h, features[resolution])
        z = (mean / step).round() * step if step else mean
        z = z.clamp(-REACH, REACH) if not step else z.clamp(-_limit(step), _limit(step))
        parts.append(z.flatten(1))
        h = rung(h, z)
    return torch.cat(parts, dim=1)


def _limit(step: float) -> float:
    return math.ceil(REACH / step) * step


@torch.no_grad()
def _decode(net: Ladder, latents_BN: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    """Mean pixels, uint8 (B, S, S, C)."""
    latents, labels = torch.from_numpy(latents_BN.astype(np.float32)), torch.from_numpy(labels_B)
    pairs = zip(latents.split(BATCH), labels.split(BATCH), strict=True)
    return torch.cat([to_images(net.likelihood.mean(net.decode(*pair))) for pair in pairs]).numpy()


def _integers(rounded_BN: np.ndarray, step: float) -> np.ndarray:
    return np.rint(rounded_BN / step).astype(np.int64)


def _places(latents: int) -> list[slice]:
    """Latents whose tables are in memory together."""
    return [slice(first, min(first + 64, latents)) for first in range(0, latents, 64)]


def _classes(net: Ladder) -> int:
    return 0 if net.classes is None else net.classes.num_embeddings


def at_rate(points: list[Point], codec: str, bytes_a_picture: float) -> float | None:
    """A curve's decibels at a size, between its points linear in the logarithm of the size; None beyond its ends."""
    line = sorted((math.log2(p.bytes_a_picture), p.decibels) for p in points if p.codec == codec)
    sizes, decibels = zip(*line, strict=True)
    wanted = math.log2(bytes_a_picture)
    return float(np.interp(wanted, sizes, decibels)) if sizes[0] <= wanted <= sizes[-1] else None


def points_json(points: list[Point]) -> str:
    """One line a point."""
    return "[\n" + ",\n".join(json.dumps(point.as_json()) for point in points) + "\n]\n"
