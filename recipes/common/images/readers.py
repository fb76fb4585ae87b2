"""The pictures of every source as rows: a key that decides the split, a class, and the content when it is asked for."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.data.rows import BadRow
from pipeline.data.sources import is_held_out
from pipeline.run.errors import UserError
from recipes.common import debian
from recipes.common.images import fashion_mnist, tables
from recipes.common.images.config import Images
from recipes.common.images.digits import digits, stacked_digits
from recipes.common.images.rows import NO_LABEL, Content, Row, Source, path_of

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


def _folder(images: Images) -> Source:
    """Classes are the sub-folders, sorted; without any, or with data.label_column=null, there are no labels."""
    folder = path_of(images)
    if not folder.is_dir():
        raise UserError(f"data.path: {folder} is a file\nexpected: a folder of pictures for source folder")
    names = _class_folders(folder) if images.label_column is not None else []
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder))
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not pictures:
        raise UserError(
            f"data.path: no picture in {folder}\nexpected: files such as {', '.join(SUFFIXES[:6])}; "
            f"it holds {len(files)} other files"
        )
    labels = {name: label for label, name in enumerate(names)}
    rows = [_picture_row(path, folder, labels, images.held_out) for path in pictures]
    empty = set(range(len(names))) - {row.label for row in rows}
    if empty:
        raise UserError(
            f"data.path: no picture in the class folder {folder / names[min(empty)]}\n"
            "expected: pictures in every sub-folder\nway out: fill it or remove it"
        )
    return Source(tuple(names), rows, _file_contents, len(files) - len(pictures))


def _class_folders(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not _hidden(child, folder))


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _picture_row(path: Path, folder: Path, labels: dict[str, int], held_out: float) -> Row:
    relative = path.relative_to(folder)
    wrong = ""
    if labels and len(relative.parts) == 1:
        wrong = "it lies beside the class folders\nexpected: every picture in the folder of its class"
    label = labels.get(relative.parts[0], NO_LABEL)
    key = relative.as_posix()
    return Row(key, str(path), None, label, is_held_out(key, held_out), wrong)


def _file_contents(wanted: list[Row]) -> Iterator[Content]:
    for row in wanted:
        try:
            with open(row.file, "rb") as file:
                yield file.read()
        except OSError as error:
            yield BadRow(f"{os.strerror(error.errno or 0)}\nexpected: a file that can be read")
