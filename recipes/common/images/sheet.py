"""Grids of pictures as one PNG."""

import io
import math
from pathlib import Path

import numpy as np

GAP = 1  # pixels between two pictures
PAPER = 128

SMALLEST = {"PNG": {"optimize": True}, "WEBP": {"lossless": True, "quality": 100, "method": 6}}


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
    path.write_bytes(encoded(sheet(pictures, columns), "PNG"))


def encoded(picture_HWC: np.ndarray, kind: str, **options: object) -> bytes:
    """One picture uint8 (H, W, C) as a file of this kind; options: Pillow's of the format."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture_HWC[..., 0] if picture_HWC.shape[-1] == 1 else picture_HWC).save(
        buffer, kind, **options
    )
    return buffer.getvalue()


def file_sizes(images_NHWC: np.ndarray, kind: str) -> np.ndarray:
    """Bytes of each picture as a file of its own, without loss and as small as Pillow makes it; kind: PNG or WEBP."""
    return np.array([len(encoded(picture, kind, **SMALLEST[kind])) for picture in images_NHWC])
