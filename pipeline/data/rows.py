"""The files of a source: which they are, what kind each is, and their bytes as UTF-8, whatever holds them."""

import bz2
import codecs
import glob
import gzip
import io
import lzma
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.data import dictd, packages, stdlib
from pipeline.data.config import ChatSource, CorpusSource, Preferences, Prompts, Tables
from pipeline.run.errors import UserError, nearest
from pipeline.run.remote import is_url, matching, opened, place_of, told

Source = CorpusSource | ChatSource | Preferences | Prompts

ENDINGS = {
    "jsonl": (".jsonl", ".ndjson"),
    "json": (".json",),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet",),
}
SQUEEZED = (".gz", ".bz2", ".xz", ".zst")
MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig"}
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


class BadRow(Exception):
    """Why a row cannot be used; `line` where a whole file's bad line is known."""

    def __init__(self, reason: str, line: int | None = None):
        super().__init__(reason)
        self.line = line


def name_of(source: Tables) -> str:
    """The section of the recipe that `source` is."""
    return source.section


def path_of(source: Tables) -> Path:
    """The path of a source that needs one.

    Raises:
        UserError: it is not given, or nothing is there (the nearest name beside it is named).
    """
    if source.path is None:
        raise UserError(
            f"{name_of(source)}.path is missing\nexpected: where to find the data of source {source.source}"
        )
    if is_url(source.path):
        if source.source not in ("text", "auto", *ENDINGS):
            raise UserError(
                f"{name_of(source)}.path: source {source.source} is read from files here, not from {source.path}\n"
                "expected: a path; by URL come text, jsonl, json, csv and parquet"
            )
        return place_of(source.path, f"{name_of(source)}.path")
    path = Path(source.path).expanduser()
    if path.exists() or glob.has_magic(str(path)):
        return path
    if source.source == "wordnet":
        raise UserError(f"{name_of(source)}.path: nothing at {path}\n{stdlib.WORDNET_HELP}")
    siblings = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest(path.name, siblings)[:300] if siblings else f"the folder {path.parent} is missing or empty"
    raise UserError(f"{name_of(source)}.path: nothing at {path}\n{hint}")


def files_of(source: Tables) -> list[tuple[str, Path]]:
    """(key, file) of a source made of files, sorted by key: the path below the folder that was given.

    Raises:
        UserError: as path_of; no file matches; a file must not be read.
    """
    if source.source.startswith("stdlib"):
        if source.path is not None:
            raise UserError(f"{name_of(source)}.path = {source.path!r}: source {source.source} takes no path")
        return stdlib.module_files()
    if source.source == "packages":
        return packages.files(source)
    path = path_of(source)
    pattern = source.pattern if isinstance(source, CorpusSource) and source.source == "text" else "**/*"
    base, hits = _matching(path, pattern, name_of(source))
    found = sorted(
        (str(hit).removeprefix(str(base)).lstrip("/") if is_url(str(hit)) else hit.relative_to(base).as_posix(), hit)
        for hit in hits
        if hit == path or source.source == "text" or _is_wanted(source, hit)
    )
    if not found:
        kind = pattern if source.source == "text" else f"**/*.{source.source}".replace(".auto", "")
        wanted = path if glob.has_magic(str(path)) else f"{kind} in {path}"
        raise UserError(f"{name_of(source)}: no file matches {wanted}\n{_holds(base)}")
    for _, file in found:
        if isinstance(file, Path) and not os.access(file, os.R_OK):
            raise UserError(f"{name_of(source)}: no permission to read {file}")
    return found


def _is_wanted(source: Tables, file: Path) -> bool:
    if source.source == "dictd":
        return file.name.endswith(dictd.ENDINGS)
    kind = kind_of(file)
    return kind is not None and source.source in ("auto", kind)


def kind_of(file: Path) -> str | None:
    """The kind of table that a file's name ends in, before the ending of what squeezed it; None: another."""
    name = file.name.lower()
    for ending in SQUEEZED:
        name = name.removesuffix(ending)
    return next((kind for kind, endings in ENDINGS.items() if name.endswith(endings)), None)


def open_plain(path: Path) -> BinaryIO:
    """The file's bytes, unpacked where its name says that it is squeezed."""
    if not isinstance(path, Path):
        return opened(path)
    openers = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstandard}
    return openers.get(path.suffix.lower(), open)(path, "rb")  # type: ignore[operator]


def _zstandard(path: Path, mode: str) -> BinaryIO:
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))  # type: ignore[arg-type]


def read_whole(path: Any) -> bytes:
    """The bytes of a file elsewhere, as they are."""
    with told(path, "path"):
        return path.read_bytes()


def unpacked(path: Path) -> bytes:
    with open_plain(path) as opened:
        return opened.read()


def open_utf8(path: Path) -> BinaryIO:
    """The same without a byte-order mark; UTF-16 that has one as UTF-8."""
    plain = open_plain(path)
    begin = plain.peek(3)  # type: ignore[attr-defined]
    encoding = next((name for mark, name in MARKS.items() if begin.startswith(mark)), None)
    if encoding == "utf-8-sig":
        plain.read(len(codecs.BOM_UTF8))
    if encoding != "utf-16":
        return plain
    with plain:
        return io.BytesIO(unmarked(plain.read()))


def _matching(path: Path, pattern: str, section: str) -> tuple[Path, list[Path]]:
    """(folder that keys are relative to, files): a file, all of a folder that fit `pattern`, or those of a glob."""
    if not isinstance(path, Path):
        return matching(path, pattern, f"{section}.path")
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        return path, [hit for hit in path.glob(pattern) if hit.is_file()]
    fixed = re.split(r"[*?\[]", str(path), maxsplit=1)[0]
    hits = map(Path, glob.glob(str(path), recursive=True))
    return Path(os.path.dirname(fixed)), [hit for hit in hits if hit.is_file()]


def _holds(folder: Path | str) -> str:
    if is_url(str(folder)):
        return f"{folder} holds no such file"
    files = (path for path in islice(folder.rglob("*"), FILES_LOOKED_AT) if path.is_file())
    suffixes = Counter(path.suffix or "no suffix" for path in files).most_common(4)
    held = ", ".join(f"{suffix} ({count})" for suffix, count in suffixes)
    return f"the folder {folder} holds: {held or 'no file'}"


def unmarked(content: bytes) -> bytes:
    """A file's bytes without a byte-order mark; UTF-16 that has one as UTF-8."""
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
    try:
        return content.decode(encoding).encode() if encoding else content
    except UnicodeDecodeError:
        return content  # whoever reads it as UTF-8 says where it is not


def file_rows(source: Source) -> Iterator[Row]:
    """One row a file: its bytes."""
    for key, path in files_of(source):
        content = path.read_bytes() if isinstance(path, Path) else read_whole(path)
        yield Row(key, str(path), None, unmarked(content))


def dictionary_rows(source: Source) -> Iterator[Row]:
    """One row an article of each dictionary: its bytes."""
    for key, path in files_of(source):
        if path.suffix == ".index":
            for entry in dictd.entries(path):
                yield Row(f"{key}/{entry.headword}::{entry.offset}", str(path), None, entry.content)


def wordnet_rows(chat: ChatSource) -> Iterator[Row]:
    """One row a word and sense, sorted by word: a pair."""
    path = path_of(chat)
    for pair in stdlib.definition_pairs(path):
        yield Row(pair.name, str(path), None, pair)


def require_unicode(text: str) -> None:
    """JSON can spell half of a surrogate pair, which is no text and cannot be encoded.

    Raises:
        BadRow: here.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow(f"{text[error.start]!r} is half of a surrogate pair\nexpected: valid Unicode") from None


def brief(value: Any) -> str:
    """A value for a message."""
    return "an empty text" if isinstance(value, str) and not value.strip() else f"{value!r:.60}"
