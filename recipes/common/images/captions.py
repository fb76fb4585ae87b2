"""A user's own folder of pictures with captions: in metadata.csv or metadata.jsonl, or beside each in NAME.txt."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.data.sources import is_held_out
from pipeline.run.errors import UserError, nearest
from recipes.common.folders import file_contents
from recipes.common.images.config import Captioned
from recipes.common.rows import NO_LABEL, Row, Source

METADATA = ("metadata.csv", "metadata.jsonl")
FILE = "file_name"


def folder(path: Path, images: Captioned, suffixes: tuple[str, ...]) -> Source:
    """Every picture that has a caption, or should have one.

    Raises:
        UserError: no folder, no picture, two metadata files, or one without the columns.
    """
    if not path.is_dir():
        raise UserError(f"data.path: {path} is a file\nexpected: a folder of pictures for source folder")
    listed = [path / name for name in METADATA if (path / name).is_file()]
    if len(listed) > 1:
        raise UserError(f"data.path: {path} has {METADATA[0]} and {METADATA[1]}\nexpected: one of them")
    pictures = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in suffixes and not file.name.startswith(".")
    )
    if images.caption:
        told = [_told(picture, path, images.caption, "") for picture in pictures]
    else:
        told = _listed(listed[0], images, pictures) if listed else _beside(path, pictures)
    if not told:
        raise UserError(f"data.path: no picture in {path}\nexpected: files such as {', '.join(suffixes[:6])}")
    captions = sorted({caption for _, caption, _, _ in told if caption})
    labels = {caption: label for label, caption in enumerate(captions)}
    rows = [
        Row(key, file, row, labels.get(caption, NO_LABEL), is_held_out(key, images.held_out), wrong)
        for key, caption, (file, row), wrong in told
    ]

    def read(wanted: list[Row]) -> Iterator[Any]:
        return file_contents(
            [Row(row.key, str(path / row.key), None, row.label, row.held_out) for row in wanted]
        )

    others = sum(file.is_file() for file in path.rglob("*")) - len(rows) * (1 if listed else 2) - len(listed)
    return Source(tuple(captions), rows, read, max(0, others))


Told = list[
    tuple[str, str, tuple[str, int | None], str]
]  # key, caption, where it is said, what is wrong with it


def _beside(path: Path, pictures: list[Path]) -> Told:
    found: Told = []
    for picture in pictures:
        text, wrong = picture.with_suffix(".txt"), ""
        caption = " ".join(text.read_text("utf-8", errors="replace").split()) if text.is_file() else ""
        if not caption:
            said = "is empty" if text.is_file() else "is not there"
            wrong = (
                f"{text.name} {said}\nexpected: the picture's caption\nway out: write it, or {METADATA[0]} with the "
                f"columns {FILE} and text"
            )
        found.append(_told(picture, path, caption, wrong))
    return found


def _told(
    picture: Path, path: Path, caption: str, wrong: str
) -> tuple[str, str, tuple[str, int | None], str]:
    return picture.relative_to(path).as_posix(), " ".join(caption.split()), (str(picture), None), wrong


def _listed(metadata: Path, images: Captioned, pictures: list[Path]) -> Told:
    """The rows of a metadata file; a picture that it leaves out is no row, and counted among other files."""
    there = {picture.relative_to(metadata.parent).as_posix() for picture in pictures}
    found: Told = []
    seen: set[str] = set()
    for number, record in _records(metadata):
        for column in (FILE, images.caption_column):
            if column not in record:
                raise UserError(
                    f"{metadata} row {number}: no column {column!r}\n{nearest(column, list(record))[:300]}\n"
                    f"way out: data.caption_column=NAME; the column {FILE} names the picture"
                )
        key, caption = record[FILE], record[images.caption_column]
        wrong = _wrong(key, caption, images.caption_column, there, seen)
        seen.add(key if isinstance(key, str) else "")
        text = " ".join(caption.split()) if isinstance(caption, str) else ""
        found.append((str(key), text, (str(metadata), number), wrong))
    return found


def _wrong(key: Any, caption: Any, column: str, there: set[str], seen: set[str]) -> str:
    if not isinstance(caption, str) or not caption.strip():
        said = "empty" if caption in (None, "") or isinstance(caption, str) else f"a {type(caption).__name__}"
        return f"its caption in {column!r} is {said}\nexpected: a text"
    if key not in there:
        hint = nearest(str(key), sorted(there))[:300] if there else "the folder has no pictures"
        return f"it names the picture {key!r}, which is not there\n{hint}"
    if key in seen:
        return f"it names the picture {key!r}, as a row before does\nexpected: a row a picture"
    return ""


def _records(metadata: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row from 0, columns) of a metadata file. Raises UserError: it is no CSV or JSON Lines in UTF-8."""
    try:
        with open(metadata, encoding="utf-8-sig", newline="") as file:
            if metadata.suffix == ".csv":
                yield from enumerate(csv.DictReader(file))
                return
            for number, line in enumerate(file):
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError(f"row {number} is a {type(record).__name__}")
                yield number, record
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{metadata} cannot be read: {str(error)[:200]}\nexpected: UTF-8, a row a picture"
        ) from None
