"""A user's own folder of pictures or clips, a text each: in metadata.csv or metadata.jsonl, or in NAME.txt beside it.

To all that reads them, a text is a class.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from pipeline.data.sources import is_held_out
from pipeline.run.errors import UserError, nearest
from recipes.common.folders import file_contents
from recipes.common.rows import NO_LABEL, Row, Source

METADATA = ("metadata.csv", "metadata.jsonl")
FILE = "file_name"


class Told(Protocol):
    """A data section of files with texts.

    column_setting: the setting that names the column of texts, label_column: its value; caption: the text of every
    file, None where each has its own; noun, text_noun: what a file and its text are called.
    """

    column_setting: str
    caption: str | None
    noun: str
    text_noun: str
    held_out: float

    @property
    def label_column(self) -> str: ...


def folder(path: Path, data: Told, suffixes: tuple[str, ...]) -> Source:
    """Every file of these suffixes that has a text, or should have one.

    Raises:
        UserError: no folder, no such file, two metadata files, or one without the columns.
    """
    if not path.is_dir():
        raise UserError(f"data.path: {path} is a file\nexpected: a folder of {data.noun}s for source folder")
    listed = [path / name for name in METADATA if (path / name).is_file()]
    if len(listed) > 1:
        raise UserError(f"data.path: {path} has {METADATA[0]} and {METADATA[1]}\nexpected: one of them")
    files = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in suffixes and not file.name.startswith(".")
    )
    if data.caption:
        found = [_said(file, path, data.caption, "") for file in files]
    else:
        found = _listed(listed[0], data, files) if listed else _beside(path, data, files)
    if not found:
        raise UserError(
            f"data.path: no {data.noun} in {path}\nexpected: files such as {', '.join(suffixes[:6])}"
        )
    texts = sorted({text for _, text, _, _ in found if text})
    labels = {text: label for label, text in enumerate(texts)}
    rows = [
        Row(key, file, row, labels.get(text, NO_LABEL), is_held_out(key, data.held_out), wrong)
        for key, text, (file, row), wrong in found
    ]

    def read(wanted: list[Row]) -> Iterator[Any]:
        return file_contents(
            [Row(row.key, str(path / row.key), None, row.label, row.held_out) for row in wanted]
        )

    others = sum(file.is_file() for file in path.rglob("*")) - len(rows) * (1 if listed else 2) - len(listed)
    return Source(tuple(texts), rows, read, max(0, others))


Said = tuple[str, str, tuple[str, int | None], str]  # key, text, where it is said, what is wrong with it


def _beside(path: Path, data: Told, files: list[Path]) -> list[Said]:
    found = []
    for file in files:
        beside, wrong = file.with_suffix(".txt"), ""
        text = " ".join(beside.read_text("utf-8", errors="replace").split()) if beside.is_file() else ""
        if not text:
            why = "is empty" if beside.is_file() else "is not there"
            wrong = (
                f"{beside.name} {why}\nexpected: the {data.noun}'s {data.text_noun}\nway out: write it, or "
                f"{METADATA[0]} with the columns {FILE} and text"
            )
        found.append(_said(file, path, text, wrong))
    return found


def _said(file: Path, path: Path, text: str, wrong: str) -> Said:
    return file.relative_to(path).as_posix(), " ".join(text.split()), (str(file), None), wrong


def _listed(metadata: Path, data: Told, files: list[Path]) -> list[Said]:
    """The rows of a metadata file; a file that it leaves out is no row, and counted among other files."""
    there = {file.relative_to(metadata.parent).as_posix() for file in files}
    found: list[Said] = []
    seen: set[str] = set()
    for number, record in _records(metadata, data.noun):
        for column in (FILE, data.label_column):
            if column not in record:
                raise UserError(
                    f"{metadata} row {number}: no column {column!r}\n{nearest(column, list(record))[:300]}\n"
                    f"way out: data.{data.column_setting}=NAME; the column {FILE} names the {data.noun}"
                )
        key, text = record[FILE], record[data.label_column]
        wrong = _wrong(key, text, data, there, seen)
        seen.add(key if isinstance(key, str) else "")
        clean = " ".join(text.split()) if isinstance(text, str) else ""
        found.append((str(key), clean, (str(metadata), number), wrong))
    return found


def _wrong(key: Any, text: Any, data: Told, there: set[str], seen: set[str]) -> str:
    if not isinstance(text, str) or not text.strip():
        said = "empty" if text in (None, "") or isinstance(text, str) else f"a {type(text).__name__}"
        return f"its {data.text_noun} in {data.label_column!r} is {said}\nexpected: a text"
    if key not in there:
        hint = nearest(str(key), sorted(there))[:300] if there else f"the folder has no {data.noun}s"
        return f"it names the {data.noun} {key!r}, which is not there\n{hint}"
    if key in seen:
        return f"it names the {data.noun} {key!r}, as a row before does\nexpected: a row a {data.noun}"
    return ""


def _records(metadata: Path, noun: str) -> Iterator[tuple[int, dict[str, Any]]]:
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
            f"{metadata} cannot be read: {str(error)[:200]}\nexpected: UTF-8, a row a {noun}"
        ) from None
