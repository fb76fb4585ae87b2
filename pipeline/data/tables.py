"""The rows of tables: JSON lines, JSON arrays, CSV, Parquet, and what `datasets` loads."""

import lzma
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.data.config import Tables
from pipeline.data.formats import KNOWN
from pipeline.data.rows import (
    SQUEEZED,
    Row,
    brief,
    files_of,
    kind_of,
    name_of,
    open_plain,
    open_utf8,
    unpacked,
)
from pipeline.run.errors import UserError, nearest
from pipeline.run.remote import is_url, told


def table_rows(source: Tables) -> Iterator[Row]:
    """The rows of each file by its kind: of JSON lines the bytes of a line, of others {column: value}.

    The key is `file:line` for JSON lines, counted from 1, else `file:row`, counted from 0.

    Raises:
        UserError: as files_of; a file is not of its kind, or a table lacks the column that is read.
    """
    if is_dataset(source):
        yield from _dataset_rows(source)
        return
    for key, path in files_of(source):
        kind = kind_of(path) if source.source == "auto" else source.source
        if kind not in READERS:
            raise UserError(
                f"{path}: what kind of table this is cannot be told from its name\n"
                f"way out: {name_of(source)}.source=jsonl, json, csv or parquet"
            )
        if not isinstance(path, Path):
            with told(path, f"{name_of(source)}.path"):
                yield from READERS[kind](source, key, path)
            continue
        try:
            yield from READERS[kind](source, key, path)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            if path.suffix.lower() not in SQUEEZED:
                raise
            raise UserError(
                f"{path} cannot be unpacked: {' '.join(str(error).split())[:120]}\n"
                f"expected: what its ending {path.suffix} says, whole"
            ) from None


def is_dataset(source: Tables) -> bool:
    """Whether a section names a dataset: it says so, or its path is no file here but a name that the Hub may have."""
    if source.source != "auto" or source.path is None:
        return source.source == "datasets"
    if is_url(source.path):
        return False
    path = Path(source.path).expanduser()
    if path.is_dir():
        return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    return not path.exists() and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source.path) is not None


def _line_rows(source: Tables, key: str, path: Path) -> Iterator[Row]:
    """One row a line. An empty file is one empty row."""
    number = 0
    with open_utf8(path) as lines:
        for number, line in enumerate(lines, 1):
            yield Row(f"{key}:{number}", str(path), number, line)
    if not number:
        yield Row(key, str(path), None, b"")


def _array_rows(source: Tables, key: str, path: Path) -> Iterator[Row]:
    """One row an object of an array, which is read whole."""
    import json

    try:
        with open_utf8(path) as opened:
            values = json.load(opened)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}\nexpected: an array of objects") from None
    if not isinstance(values, list):
        raise UserError(
            f"{path} holds {brief(values)}\nexpected: an array of objects\n"
            f"way out: {name_of(source)}.source=jsonl, if each line is an object"
        )
    for number, value in enumerate(values):
        yield Row(f"{key}:{number}", str(path), number, value)


def _csv_rows(source: Tables, key: str, path: Path) -> Iterator[Row]:
    """One row a record, under the names of the first line; what is empty is not there."""
    import csv
    import io
    import sys

    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open_utf8(path) as opened, io.TextIOWrapper(opened, "utf-8", newline="") as text:
        delimiter = "\t" if ".tsv" in path.name.lower() else ","
        records = csv.DictReader(text, delimiter=delimiter, strict=True)
        try:
            _require_column(source, list(records.fieldnames or ()), str(path))
            for number, record in enumerate(records):
                yield Row(f"{key}:{number}", str(path), records.line_num, _of_one_length(record))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}:{records.line_num + 1} is not CSV: {error}\nexpected: UTF-8, quoted as RFC 4180 says"
            ) from None


def _of_one_length(record: dict[Any, Any]) -> Any:
    """A record, or, where it has another length than the first line, the list of what it holds: no row."""
    if None in record or None in record.values():
        return [*(value for name, value in record.items() if name is not None), *record.get(None, ())]
    return {name: value for name, value in record.items() if value != ""}


def _parquet_rows(source: Tables, key: str, path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        squeezed = path.suffix.lower() in SQUEEZED  # a table's footer is read first: it is unpacked whole
        plain = path if isinstance(path, Path) else open_plain(path)
        table = parquet.ParquetFile(pyarrow.BufferReader(unpacked(path)) if squeezed else plain)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is not a parquet file: {str(error)[:200]}") from None
    _require_column(source, table.schema_arrow.names, str(path))
    columns = _read(source, table.schema_arrow.names)
    number = 0
    for batch in table.iter_batches(columns=columns):
        for value in batch.to_pylist():
            yield Row(f"{key}:{number}", str(path), number, _without_nulls(value))
            number += 1


READERS = {"jsonl": _line_rows, "json": _array_rows, "csv": _csv_rows, "parquet": _parquet_rows}


def _dataset_rows(source: Tables) -> Iterator[Row]:
    """One row a row of a `datasets` split, under the key `split:row`: {column: value}.

    Raises:
        UserError: the dataset cannot be loaded, or lacks the split or the column.
    """
    loaded = _load_dataset(source)
    _require_column(source, loaded.column_names, str(source.path))
    for number, value in enumerate(loaded.select_columns(_read(source, loaded.column_names))):
        yield Row(f"{source.split}:{number}", str(source.path), number, _without_nulls(value))


def _without_nulls(value: Any) -> Any:
    """Arrow gives every struct of a column the fields of all of them; those that a row lacks are null.

    A null at the top stays: there it is a column of the row.
    """
    return {name: _pruned(inner) for name, inner in value.items()}


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _pruned(inner) for name, inner in value.items() if inner is not None}
    return [_pruned(inner) for inner in value] if isinstance(value, list) else value


def _read(source: Tables, columns: Iterable[str]) -> list[str]:
    """Those of the columns that the section reads."""
    named = source.named_columns.values()
    if source.only_named:
        return list(named)
    usual = getattr(source, "usual_columns", KNOWN)
    return [name for name in columns if name in named or name in usual] or list(columns)


def _require_column(source: Tables, columns: list[str], file: str) -> None:
    for setting, column in source.named_columns.items():
        if column not in columns:
            raise UserError(
                f"{file} has no column {column!r}\n{nearest(column, columns)[:300]}\n"
                f"way out: {name_of(source)}.{setting}=NAME"
            )


def _load_dataset(source: Tables) -> Any:
    """A local folder (also one that save_to_disk wrote) or a Hub name; datasets 5 runs no code of a dataset's own."""
    import datasets

    datasets.disable_progress_bars()
    path = dataset_name(source)
    try:
        if not any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return datasets.load_dataset(path, split=source.split)
        saved = datasets.load_from_disk(path)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
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


def check_dataset(source: Tables) -> None:
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


def dataset_name(source: Tables) -> str:
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
