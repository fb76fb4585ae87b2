"""The pictures of every source as rows: a key that decides the split, a class, and the content when it is asked for."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recipes.common import debian, told
from recipes.common.folders import folder_source
from recipes.common.images import emoji, fashion_mnist, openclipart, tables
from recipes.common.images.config import Captioned, Images
from recipes.common.images.digits import digits, stacked_digits
from recipes.common.images.scenes import scenes
from recipes.common.rows import Row, Source, path_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


def open_source(images: Images) -> Source:
    """Every row of the source; contents are read later.

    Raises:
        UserError: nothing at the path, no picture in it, an empty class, or a table without the columns asked for.
    """
    opened = {
        "digits": digits,
        "stacked_digits": stacked_digits,
        "fashion_mnist": _fashion_mnist,
        "openclipart": _openclipart,
        "scenes": scenes,
        "emoji": emoji.emoji,
        "folder": _folder,
        "parquet": tables.parquet,
        "datasets": tables.dataset,
    }
    return opened[images.source](images)


def _fashion_mnist(images: Images) -> Source:
    """The package's own split; 32 pixels a side: two rows of black around, as nets that halve five times want it."""
    directory = debian.find(fashion_mnist.PACKAGE, images.path) or debian.download(fashion_mnist.PACKAGE)
    found = {split: fashion_mnist.read(directory, split) for split in fashion_mnist.PREFIXES}
    rows = [
        _fashion_row(directory, split, number, int(label))
        for split, (_, labels) in found.items()
        for number, label in enumerate(labels)
    ]
    around = 2 if images.image_size == 32 else 0

    def read(wanted: list[Row]) -> Iterator[np.ndarray]:
        for row in wanted:
            pixels = found["held_out" if row.held_out else "train"][0][row.row]
            yield np.pad(pixels, ((around, around), (around, around), (0, 0))) if around else pixels

    return Source(fashion_mnist.CLASSES, rows, read)


def _fashion_row(directory: Path, split: str, number: int, label: int) -> Row:
    last = len(fashion_mnist.CLASSES) - 1
    wrong = "" if label <= last else f"label {label}\nexpected: 0 to {last}"
    file = f"{fashion_mnist.PREFIXES[split]}-{fashion_mnist.LABELS if wrong else fashion_mnist.IMAGES}"
    return Row(f"{split}:{number}", str(directory / file), number, label, split == "held_out", wrong)


def _openclipart(images: Images) -> Source:
    package = openclipart.PACKAGE
    directory = debian.find(package, images.path) or debian.download(package)
    return openclipart.openclipart(directory, images, SUFFIXES)


def _folder(images: Images) -> Source:
    """Classes are the sub-folders, unless data.label_column is null; of captioned pictures the captions."""
    if isinstance(images, Captioned):
        return told.folder(path_of(images), images, SUFFIXES)
    return folder_source(
        path_of(images), SUFFIXES, "picture", images.label_column is not None, images.held_out
    )
