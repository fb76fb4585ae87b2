"""Grids of pictures as one PNG."""

import math
from pathlib import Path

import numpy as np

GAP = 1  # pixels between two pictures
PAPER = 128


def sheet(pictures: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Pictures uint8 (N, H, W, C), row by row, on one uint8 (rows, columns, C) page; as square as can be by default."""
    count, height, width, channels = pictures.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    page = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), PAPER, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (index // columns) * (height + GAP), (index % columns) * (width + GAP)
        page[top : top + height, left : left + width] = picture
    return page


def save_sheet(pictures: np.ndarray, path: Path, columns: int | None = None) -> None:
    """Write `sheet(pictures)` as a PNG."""
    from PIL import Image

    page = sheet(pictures, columns)
    Image.fromarray(page[..., 0] if page.shape[-1] == 1 else page).save(path)
