"""Pictures in tables: parquet files and `datasets`, whose image column holds encoded bytes, or {"bytes", "path"}."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.rows import BadRow
from pipeline.data.sources import is_held_out
from pipeline.run.errors import UserError, nearest
from recipes.common.images.config import Images
from recipes.common.rows import NO_LABEL, Content, Row, Source, path_of

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset
    from pyarrow.parquet import ParquetFile

BATCH = 64  # rows of pictures in memory at a time
Place = tuple[str, str, int]  # (key, file, row) of a row


def parquet(images: Images) -> Source:
    """The rows of a file, or of all *.parquet below a folder. Raises UserError as open_source."""
    files = _files(path_of(images))
    tables = [(key, path, _open(path, images)) for key, path in files]
    places, labels = [], []
    for key, path, table in tables:
        places += [(f"{key}:{row}", str(path), row) for row in range(table.metadata.num_rows)]
        if images.label_column is not None:
            labels += table.read(columns=[images.label_column])[images.label_column].to_pylist()
    names = _names_in(tables[0][2].schema_arrow, images.label_column)
    opened = {str(path): table for _, path, table in tables}

    def read(wanted: list[Row]) -> Iterator[Content]:
        for path, rows in _by_file(wanted).items():
            yield from _cells(opened[path], images.image_column, rows)

    return _source(images, places, labels, names, read)


def dataset(images: Images) -> Source:
    """A local folder (also one that save_to_disk wrote) or a name on the Hub, read whole, pictures not decoded."""
    import datasets

    loaded = _load(images)
    columns = [column for column in (images.image_column, images.label_column) if column is not None]
    for column in columns:
        _require(column, loaded.column_names, images, str(images.path))
    if isinstance(loaded.features[images.image_column], datasets.Image):
        loaded = loaded.cast_column(images.image_column, datasets.Image(decode=False))
    places = [(f"{images.split}:{row}", str(images.path), row) for row in range(len(loaded))]
    labels, names = [], None
    if images.label_column is not None:
        _require_kind(loaded.data.schema.field(images.label_column), images, str(images.path))
        labels = list(loaded[images.label_column])
        feature = loaded.features[images.label_column]
        names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    pictures = loaded.select_columns([images.image_column])

    def read(wanted: list[Row]) -> Iterator[Content]:
        for row in wanted:
            yield _encoded(pictures[row.row][images.image_column], paths_are_ours=True)

    return _source(images, places, labels, names, read)


def check_dataset(images: Images) -> bool:
    """Whether the dataset lies in a local folder, so that it can be looked at before anything runs.

    Raises:
        UserError: the path is missing, or can be neither a folder nor a name on the Hub.
    """
    path = os.path.expanduser(images.path or "")
    if os.path.isdir(path):
        return True
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path):
        raise UserError(
            f"data.path = {images.path!r} is neither a folder nor a name on the Hub\n"
            "expected: a local folder, or a name such as owner/dataset"
        )
    return False


def _source(
    images: Images, places: list[Place], labels: list[Any], names: list[str] | None, read: Any
) -> Source:
    if not places:
        raise UserError(f"data.path: no row in {images.path}\nexpected: a picture a row")
    if images.label_column is None:
        rows = [Row(*place, NO_LABEL, is_held_out(place[0], images.held_out)) for place in places]
        return Source((), rows, read)
    known = _values(labels, names)
    allowed = f"0 to {len(known) - 1}" if names is not None else ALLOWED[images.column_setting]
    rows = [_row(place, value, known, allowed, images) for place, value in zip(places, labels, strict=True)]
    return Source(tuple(map(str, known)) if names is None else tuple(names), rows, read)


def _values(labels: list[Any], names: list[str] | None) -> dict[Any, int]:
    """What a row may say -> its label: the place in `names`; without them, each value in use is a class, sorted."""
    if names is not None:
        return {label: label for label in range(len(names))}
    used = {label for label in labels if not _is_none(label)}
    return {value: label for label, value in enumerate(sorted(used))}


ALLOWED = {"label_column": "an integer that is not negative, or a text", "caption_column": "a text"}


def _is_none(label: Any) -> bool:
    """Whether a cell says nothing: it is empty, or blank, or a negative number."""
    return label is None or (label.isspace() or not label if isinstance(label, str) else label < 0)


def _row(place: Place, value: Any, known: dict[Any, int], allowed: str, images: Images) -> Row:
    what = images.column_setting.removesuffix("_column")
    said = f"no {what}" if value is None or not str(value).strip() else f"{what} {value}"
    wrong = "" if value in known else f"{said} in column {images.label_column!r}\nexpected: {allowed}"
    return Row(*place, known.get(value, NO_LABEL), is_held_out(place[0], images.held_out), wrong)


def _files(path: Path) -> list[tuple[str, Path]]:
    if path.is_file():
        return [(path.name, path)]
    found = sorted(path.glob("**/*.parquet"))
    if not found:
        raise UserError(f"data.path: no *.parquet in {path}\nexpected: a parquet file, or a folder of them")
    return [(file.relative_to(path).as_posix(), file) for file in found]


def _open(path: Path, images: Images) -> "ParquetFile":
    import pyarrow
    from pyarrow import parquet as arrow

    try:
        table = arrow.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a parquet file: {str(error)[:200]}") from None
    schema = table.schema_arrow
    _require(images.image_column, schema.names, images, str(path))
    if images.label_column is not None:
        _require(images.label_column, schema.names, images, str(path))
        _require_kind(schema.field(images.label_column), images, str(path))
    return table


def _require(column: str, columns: Sequence[str], images: Images, file: str) -> None:
    if column not in columns:
        setting = "image_column" if column == images.image_column else images.column_setting
        unlabelled = ", or null for pictures without labels" if setting == "label_column" else ""
        raise UserError(
            f"{file} has no column {column!r}\n{nearest(column, columns)[:300]}\n"
            f"way out: data.{setting}=NAME{unlabelled}"
        )


def _require_kind(field: "pyarrow.Field", images: Images, file: str) -> None:
    """Classes are integers or text: a float may be a measurement, and NaN is no class. Captions are text."""
    from pyarrow import types

    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    numbers = types.is_integer(kind) and images.column_setting == "label_column"
    if not (numbers or types.is_string(kind) or types.is_large_string(kind)):
        unlabelled = (
            ", or null for pictures without labels" if images.column_setting == "label_column" else ""
        )
        raise UserError(
            f"{file}: column {field.name!r} holds {kind}\nexpected: {images.labels_are}\n"
            f"way out: data.{images.column_setting}=NAME{unlabelled}"
        )


def _names_in(schema: "pyarrow.Schema", column: str | None) -> list[str] | None:
    """The class names that `datasets` left in a parquet file, where it wrote it."""
    written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return written.get("info", {}).get("features", {}).get(column, {}).get("names")


def _by_file(wanted: list[Row]) -> dict[str, list[Row]]:
    """The rows of each file; a source's rows come file by file."""
    found: dict[str, list[Row]] = {}
    for row in wanted:
        found.setdefault(row.file, []).append(row)
    return found


def _cells(table: "ParquetFile", column: str, wanted: list[Row]) -> Iterator[Content]:
    """The pictures of rows in ascending order; row groups without one of them are not read."""
    rows = iter(wanted)
    row, start = next(rows), 0
    for group in range(table.num_row_groups):
        end = start + table.metadata.row_group(group).num_rows
        if row is not None and row.row < end:
            for batch in table.iter_batches(BATCH, row_groups=[group], columns=[column]):
                while row is not None and row.row < start + len(batch):
                    yield _encoded(batch[0][row.row - start].as_py(), paths_are_ours=False)
                    row = next(rows, None)
                start += len(batch)
        start = end


def _encoded(value: Any, paths_are_ours: bool) -> Content:
    """The bytes of a cell. paths_are_ours: a path was written by `datasets` here, not by whoever made the table."""
    held = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(held, bytes):
        return held
    path = value.get("path") if isinstance(value, dict) else None
    if paths_are_ours and path is not None and os.path.isfile(path):
        return Path(path).read_bytes()
    return BadRow(
        f"the cell holds {type(held).__name__}\nexpected: an encoded picture, or {{'bytes', 'path'}}"
    )


def _load(images: Images) -> "Dataset":
    import datasets

    datasets.disable_progress_bars()
    check_dataset(images)
    path = os.path.expanduser(str(images.path))
    try:
        if not any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return datasets.load_dataset(path, split=images.split)
        saved = datasets.load_from_disk(path)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(f"data: cannot load split {images.split!r} of the dataset {path}\n{why}") from None
    if isinstance(saved, datasets.Dataset):
        return saved
    if images.split not in saved:
        raise UserError(f"data.split: {path} has no split {images.split!r}\n{nearest(images.split, saved)}")
    return saved[images.split]
