"""A user's own folder of files as rows: a sub-folder a class, or none."""

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.data.rows import BadRow
from pipeline.data.sources import is_held_out
from pipeline.run.errors import UserError
from recipes.common.rows import NO_LABEL, Content, Row, Source


def folder_source(
    folder: Path, suffixes: tuple[str, ...], noun: str, labelled: bool, held_out: float
) -> Source:
    """Every file of these suffixes below `folder`; noun: what one is called.

    labelled: classes are the sub-folders, sorted; without any there are no labels.

    Raises:
        UserError: no folder, nothing in it, or nothing in the folder of a class.
    """
    if not folder.is_dir():
        raise UserError(f"data.path: {folder} is a file\nexpected: a folder of {noun}s for source folder")
    names = _class_folders(folder) if labelled else []
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder))
    wanted = [path for path in files if path.suffix.lower() in suffixes]
    if not wanted:
        raise UserError(
            f"data.path: no {noun} in {folder}\nexpected: files such as {', '.join(suffixes[:6])}; "
            f"it holds {len(files)} other files"
        )
    labels = {name: label for label, name in enumerate(names)}
    rows = [_row(path, folder, labels, noun, held_out) for path in wanted]
    empty = set(range(len(names))) - {row.label for row in rows}
    if empty:
        raise UserError(
            f"data.path: no {noun} in the class folder {folder / names[min(empty)]}\n"
            f"expected: {noun}s in every sub-folder\nway out: fill it or remove it"
        )
    return Source(tuple(names), rows, file_contents, len(files) - len(wanted))


def file_contents(wanted: list[Row]) -> Iterator[Content]:
    """The bytes of rows that are a file each."""
    for row in wanted:
        try:
            with open(row.file, "rb") as file:
                yield file.read()
        except OSError as error:
            yield BadRow(f"{os.strerror(error.errno or 0)}\nexpected: a file that can be read")


def _class_folders(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not _hidden(child, folder))


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _row(path: Path, folder: Path, labels: dict[str, int], noun: str, held_out: float) -> Row:
    relative = path.relative_to(folder)
    wrong = ""
    if labels and len(relative.parts) == 1:
        wrong = f"it lies beside the class folders\nexpected: every {noun} in the folder of its class"
    label = labels.get(relative.parts[0], NO_LABEL)
    key = relative.as_posix()
    return Row(key, str(path), None, label, is_held_out(key, held_out), wrong)
