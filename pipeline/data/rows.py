"""The rows of a source: which files it is made of, and one reader for each kind of file."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.data import stdlib
from pipeline.data.config import Chat, Corpus
from pipeline.run.errors import UserError, nearest

Source = Corpus | Chat

FILES_LOOKED_AT = 10_000  # to say what a folder holds where nothing in it matches


@dataclass(frozen=True)
class Row:
    """What a reader hands to a parser: the bytes of a file or line, a table's {column: value}, or a ready pair.

    line: of the file, counted from 1; a table's row, counted from 0; none for a whole file.
    """

    key: str
    file: str
    line: int | None
    value: Any


def name_of(source: Source) -> str:
    """The section of the recipe that `source` is."""
    return "corpus" if isinstance(source, Corpus) else "chat"


def path_of(source: Source) -> Path:
    """The path of a source that needs one.

    Raises:
        UserError: it is not given, or nothing is there (the nearest name beside it is named).
    """
    if source.path is None:
        raise UserError(
            f"{name_of(source)}.path is missing\nexpected: where to find the data of source {source.source}"
        )
    path = Path(source.path).expanduser()
    if path.exists() or glob.has_magic(str(path)):
        return path
    if source.source == "wordnet":
        raise UserError(f"{name_of(source)}.path: nothing at {path}\n{stdlib.WORDNET_HELP}")
    siblings = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest(path.name, siblings)[:300] if siblings else f"the folder {path.parent} is missing or empty"
    raise UserError(f"{name_of(source)}.path: nothing at {path}\n{hint}")


def files_of(source: Source) -> list[tuple[str, Path]]:
    """(key, file) of a source made of files, sorted by key: the path below the folder that was given.

    Raises:
        UserError: as path_of; no file matches; a file must not be read.
    """
    if source.source.startswith("stdlib"):
        if source.path is not None:
            raise UserError(f"{name_of(source)}.path = {source.path!r}: source {source.source} takes no path")
        return stdlib.module_files()
    path = path_of(source)
    pattern = source.pattern if source.source == "text" else f"**/*.{source.source}"
    base, hits = _matching(path, pattern)
    found = sorted((hit.relative_to(base).as_posix(), hit) for hit in hits if hit.is_file())
    if not found:
        wanted = path if glob.has_magic(str(path)) else f"{pattern} in {path}"
        raise UserError(f"{name_of(source)}: no file matches {wanted}\n{_holds(base)}")
    for _, file in found:
        if not os.access(file, os.R_OK):
            raise UserError(f"{name_of(source)}: no permission to read {file}")
    return found


def _matching(path: Path, pattern: str) -> tuple[Path, list[Path]]:
    """(folder that keys are relative to, paths): a file, all of a folder that fits `pattern`, or a glob."""
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        return path, list(path.glob(pattern))
    fixed = re.split(r"[*?\[]", str(path), maxsplit=1)[0]
    return Path(os.path.dirname(fixed)), [Path(hit) for hit in glob.glob(str(path), recursive=True)]


def _holds(folder: Path) -> str:
    files = (path for path in islice(folder.rglob("*"), FILES_LOOKED_AT) if path.is_file())
    suffixes = Counter(path.suffix or "no suffix" for path in files).most_common(4)
    held = ", ".join(f"{suffix} ({count})" for suffix, count in suffixes)
    return f"the folder {folder} holds: {held or 'no file'}"


def file_rows(source: Source) -> Iterator[Row]:
    """One row a file: its bytes."""
    for key, path in files_of(source):
        yield Row(key, str(path), None, path.read_bytes())


def line_rows(source: Source) -> Iterator[Row]:
    """One row a line, under the key `file:line`: its bytes. An empty file is one empty row."""
    for key, path in files_of(source):
        if path.stat().st_size == 0:
            yield Row(key, str(path), None, b"")
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                yield Row(f"{key}:{number}", str(path), number, line)


def parquet_rows(source: Source) -> Iterator[Row]:
    """One row a row, under the key `file:row`: {column: value}.

    Raises:
        UserError: as files_of; a file is not parquet, or lacks the column.
    """
    import pyarrow
    from pyarrow import parquet

    column = column_of(source)
    for key, path in files_of(source):
        try:
            table = parquet.ParquetFile(path)
        except pyarrow.ArrowInvalid as error:
            raise UserError(f"{path} is not a parquet file: {str(error)[:200]}") from None
        _require_column(source, table.schema_arrow.names, str(path))
        batches = (batch[column].to_pylist() for batch in table.iter_batches(columns=[column]))
        for number, value in enumerate(value for batch in batches for value in batch):
            yield Row(f"{key}:{number}", str(path), number, {column: value})


def dataset_rows(source: Source) -> Iterator[Row]:
    """One row a row of a `datasets` split, under the key `split:row`: {column: value}.

    Raises:
        UserError: the dataset cannot be loaded, or lacks the split or the column.
    """
    loaded = _load_dataset(source)
    _require_column(source, loaded.column_names, str(source.path))
    for number, value in enumerate(loaded.select_columns([column_of(source)])):
        yield Row(f"{source.split}:{number}", str(source.path), number, value)


def wordnet_rows(chat: Chat) -> Iterator[Row]:
    """One row a word and sense, sorted by word: a pair."""
    path = path_of(chat)
    for pair in stdlib.definition_pairs(path):
        yield Row(pair.name, str(path), None, pair)


def column_of(source: Source) -> str:
    """The column that is read of a table."""
    return source.text_column if isinstance(source, Corpus) else source.messages_column


def _require_column(source: Source, columns: list[str], file: str) -> None:
    if column_of(source) not in columns:
        setting = "text_column" if isinstance(source, Corpus) else "messages_column"
        raise UserError(
            f"{file} has no column {column_of(source)!r}\n{nearest(column_of(source), columns)[:300]}\n"
            f"way out: {name_of(source)}.{setting}=NAME"
        )


def _load_dataset(source: Source) -> Any:
    """A local folder (also one that save_to_disk wrote) or a Hub name; datasets 5 runs no code of a dataset's own."""
    import datasets

    datasets.disable_progress_bars()
    path = dataset_name(source)
    try:
        if not any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return datasets.load_dataset(path, split=source.split)
        saved = datasets.load_from_disk(path)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(
            f"{name_of(source)}: cannot load split {source.split!r} of the dataset {path}\n{why}"
        ) from None
    if isinstance(saved, datasets.Dataset):
        return saved
    if source.split not in saved:
        raise UserError(
            f"{name_of(source)}.split: {path} has no split {source.split!r}\n{nearest(source.split, saved)}"
        )
    return saved[source.split]


def check_dataset(source: Source) -> None:
    """Refuse what is no dataset's name; and, where the Hub is switched off, a name whose data are not here.

    Raises:
        UserError: as dataset_name; HF_HUB_OFFLINE is set and the dataset is not in the cache.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE

    path = dataset_name(source)
    if not HF_HUB_OFFLINE or os.path.isdir(path):
        return
    import datasets

    try:
        datasets.load_dataset_builder(path)
    except (OSError, ValueError, datasets.exceptions.DatasetsError):
        raise UserError(
            f"{name_of(source)}.path: the dataset {path} is not on this machine, and HF_HUB_OFFLINE is set\n"
            f"way out: unset HF_HUB_OFFLINE, or {name_of(source)}.path=FOLDER"
        ) from None


def dataset_name(source: Source) -> str:
    """The local folder or Hub name of a `datasets` source.

    Raises:
        UserError: the path is missing, or can be neither.
    """
    path = os.path.expanduser(source.path or "")
    if not os.path.isdir(path) and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path):
        raise UserError(
            f"{name_of(source)}.path = {source.path!r} is neither a folder nor a name on the Hub\n"
            "expected: a local folder, or a name such as owner/dataset"
        )
    return path
