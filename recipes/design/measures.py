"""What is measured of a picture: tone, size, shape, detail and colour of what is not paper.

Paper is the median colour of the picture's border. Shapes: N pictures, H rows, W columns, C channels.
"""

from collections.abc import Callable

import numpy as np

APART = 24  # of 255: a pixel that differs from paper by more, in any channel, is part of what is shown
GREY_CHROMA = 32  # of 255: below this mean difference of the largest and smallest channel a picture is grey
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "grey")
HUE_STARTS = (345, 15, 45, 70, 170, 260)  # degrees at which red to purple begin
LEVELS = {
    "tone": ("dark", "medium", "light"),
    "size": ("small", "medium", "large"),
    "shape": ("narrow", "even", "wide"),
    "detail": ("plain", "textured", "busy"),
}
CHUNK = 2000  # pictures in memory at a time, as numbers


def measured(name: str, images_NHWC: np.ndarray) -> np.ndarray:
    """One number a picture, fp64 (N,); of `colour`, the place in COLOURS. images: uint8."""
    parts = [MEASURES[name](images_NHWC[at : at + CHUNK]) for at in range(0, len(images_NHWC), CHUNK)]
    return np.concatenate(parts)


def thirds(values: np.ndarray) -> tuple[float, float]:
    """The values below which a third and two thirds lie."""
    low, high = np.quantile(values, (1 / 3, 2 / 3))
    return float(low), float(high)


def shown(images_NHWC: np.ndarray) -> np.ndarray:
    """Which pixels are not paper, bool (N, H, W)."""
    pixels = images_NHWC.astype(np.int16)
    border = np.concatenate(
        [pixels[:, 0], pixels[:, -1], pixels[:, 1:-1, 0], pixels[:, 1:-1, -1]], axis=1
    )  # (N, 2 H + 2 W - 4, C)
    paper = np.median(border, axis=1)[:, None, None]
    return (np.abs(pixels - paper) > APART).any(axis=-1)


def _tone(images: np.ndarray) -> np.ndarray:
    return _mean_over(images.mean(axis=-1), shown(images))


def _size(images: np.ndarray) -> np.ndarray:
    return shown(images).mean(axis=(1, 2))


def _shape(images: np.ndarray) -> np.ndarray:
    """Width over height of the box around what is shown; 1 where nothing is."""
    there = shown(images)
    width, height = _span(there.any(axis=1)), _span(there.any(axis=2))
    return np.where(height > 0, width / np.maximum(height, 1), 1.0)


def _span(there: np.ndarray) -> np.ndarray:
    """From the first to the last place that is there, int (N,); 0 where none is."""
    first, behind = there.argmax(axis=1), there.shape[1] - there[:, ::-1].argmax(axis=1)
    return np.where(there.any(axis=1), behind - first, 0)


def _detail(images: np.ndarray) -> np.ndarray:
    """Mean difference of neighbours that are both shown, so that the outline does not count."""
    grey, there = images.mean(axis=-1), shown(images)
    across, down = np.abs(np.diff(grey, axis=2)), np.abs(np.diff(grey, axis=1))
    beside, below = there[:, :, 1:] & there[:, :, :-1], there[:, 1:] & there[:, :-1]
    total = (across * beside).sum(axis=(1, 2)) + (down * below).sum(axis=(1, 2))
    return total / np.maximum(beside.sum(axis=(1, 2)) + below.sum(axis=(1, 2)), 1)


def _colour(images: np.ndarray) -> np.ndarray:
    """The hue with the most colour in it, or grey where there is little colour at all."""
    pixels, there = images.astype(np.float64), shown(images)
    largest, smallest = pixels.max(axis=-1), pixels.min(axis=-1)
    chroma = largest - smallest
    red, green, blue = np.moveaxis(pixels, -1, 0)
    safe = np.maximum(chroma, 1)
    sixth = np.where(
        largest == red,
        (green - blue) / safe % 6,
        np.where(largest == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    band = (np.searchsorted(HUE_STARTS[1:], 60 * sixth, side="right")) % len(HUE_STARTS)
    band = np.where(60 * sixth >= HUE_STARTS[0], 0, band)
    weights = [(chroma * there * (band == place)).sum(axis=(1, 2)) for place in range(len(HUE_STARTS))]
    return np.where(_mean_over(chroma, there) < GREY_CHROMA, len(COLOURS) - 1, np.argmax(weights, axis=0))


def _mean_over(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    return (values * there).sum(axis=(1, 2)) / np.maximum(there.sum(axis=(1, 2)), 1)


MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tone": _tone,
    "size": _size,
    "shape": _shape,
    "detail": _detail,
    "colour": _colour,
}
