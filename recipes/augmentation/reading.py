"""Labelled rows of any source: a text and its class."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data import sources, tables
from pipeline.data.rows import BadRow
from pipeline.data.stdlib import wordnet_files
from pipeline.run.errors import UserError, nearest
from pipeline.run.outside import Files, files_below
from recipes.augmentation.config import Rows
from recipes.common import debian, wheels
from recipes.molecules import reading as molecules

WORDNET = debian.Package(
    title="WordNet",
    name="wordnet-base",
    version="1:3.0-37",
    sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    megabytes=6,
    place=Path("usr/share/wordnet"),
    holds=("data.adj", "data.adv", "data.noun", "data.verb"),
    way_out="way out: data.path=DIRECTORY that holds its files data.*",
)
LICENCES = {"wordnet": "WordNet", **molecules.LICENCES}
# Lexicographers' files of nouns by number, from 3, lexnames(5).
NOUNS = tuple(
    "tops act animal artifact attribute body cognition communication event feeling food group location motive object "
    "person phenomenon plant possession process quantity relation shape state substance time".split()
)
FIRST_NOUNS = 3
THIRDS = ("low", "middle", "high")


@dataclass(frozen=True, slots=True)
class Line:
    """A row that nobody has looked at. label: None where a property decides it; wrong: why it cannot be used."""

    file: str
    row: int | None
    text: str
    label: str | None
    wrong: str = ""


def check(data: Rows) -> None:
    """Refuse a library, a package, a path, a column or a kind that is not there.

    Raises:
        UserError: naming it and the way out.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("augmentation needs scikit-learn\nway out: pip install 'headwater[image]'")
    if data.kind == "molecules" and importlib.util.find_spec("rdkit") is None:
        raise UserError("molecules need rdkit\nway out: pip install 'headwater[molecules]'")
    if data.source == "wordnet":
        for kind in data.kinds:
            if kind not in NOUNS:
                raise UserError(f"data.kinds: no kind {kind!r}\n{nearest(kind, NOUNS)[:300]}")
        debian.check_found(WORDNET, data.path)
    elif data.source == "moses":
        wheels.find(molecules.MOSES, data.path)
    elif tables.is_dataset(data):
        tables.check_dataset(data)
    else:
        _check_first(data)


def _check_first(data: Rows) -> None:
    for number, line in enumerate(lines(data)):
        if number == 20:
            return
        if line.wrong and data.on_bad_row == "error":
            raise UserError(f"{line.file} row {line.row}: {line.wrong}\n{molecules.WAY_OUT}")


def files_of(data: Rows) -> Files:
    """The user's own files; packages are pinned by their digests."""
    from pipeline.data.rows import files_of as files

    if data.source in ("wordnet", "moses") or tables.is_dataset(data):
        path = Path(data.path or "").expanduser()
        return files_below(path) if data.path and path.exists() else {}
    return dict(files(data))


def lines(data: Rows) -> Iterator[Line]:
    """Every row, in the source's order.

    Raises:
        UserError: the source cannot be read.
    """
    if data.source == "wordnet":
        yield from _definitions(data)
    elif data.source == "moses":
        for line in molecules.lines(_as_molecules(data)):
            if line.split == molecules.TRAIN:
                yield Line(line.file, line.row, line.smiles, None, line.wrong)
    else:
        yield from _rows(data)


def _as_molecules(data: Rows) -> Any:
    from recipes.molecules.config import Molecules

    return Molecules(source="moses", path=data.path)


def _definitions(data: Rows) -> Iterator[Line]:
    """Each noun's definition, without its examples: wndb(5), `offset file type ... | gloss`."""
    folder = debian.find(WORDNET, data.path) or debian.download(WORDNET)
    content = dict(wordnet_files(folder))["data.noun"].decode()
    for number, line in enumerate(content.splitlines(), 1):
        if line.startswith(" "):  # the licence
            continue
        head, _, gloss = line.partition(" | ")
        kind = NOUNS[int(head.split(" ")[1]) - FIRST_NOUNS]
        definition = gloss.partition('; "')[0].strip(" ;")
        if kind in data.kinds and definition:
            yield Line("data.noun", number, definition, kind)


def _rows(data: Rows) -> Iterator[Line]:
    for row in tables.table_rows(data):
        try:
            found = sources.columns_of(data, row)
        except BadRow as bad:
            yield Line(row.file, row.line, "", "", str(bad))
            continue
        text, label = found[data.text_column], found[data.label_column]
        if isinstance(label, (int, bool)):
            label = str(label)
        wrong = ""
        if not isinstance(text, str) or not text.strip():
            wrong = f"no text in column {data.text_column!r}\nexpected: a text, such as a sentence"
        elif not isinstance(label, str) or not label.strip() or "\n" in label:
            wrong = f"{label!r:.60} in column {data.label_column!r}\nexpected: a class, as a word or a number"
        yield Line(row.file, row.line, str(text), str(label).strip(), wrong)
