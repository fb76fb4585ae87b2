"""Dictionaries in the format of dictd, which Debian ships many in: NAME.index, and NAME.dict or NAME.dict.dz.

A line of the index is `headword<TAB>offset<TAB>length`, in digits of base 64 (dictfmt(1)); .dz is gzip that dictd can
seek in, and any gzip reader reads.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.run.errors import UserError

ENDINGS = (".index", ".dict", ".dict.dz")
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
VALUES = {digit: value for value, digit in enumerate(DIGITS)}
OF_THE_DATABASE = ("00database", "00-database")  # entries about the dictionary itself


class Entry(NamedTuple):
    """One article; `headword` is the first under which the index has it."""

    headword: str
    offset: int
    content: bytes


def entries(index: Path) -> Iterator[Entry]:
    """Every article once, in the order of the text.

    Raises:
        UserError: a line of the index is none, or the text is missing or shorter than the index says.
    """
    text = _text_of(index)
    found: dict[tuple[int, int], str] = {}
    lines = index.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            headword, offset, length = line.split("\t")[:3]
            place = _number(offset), _number(length)
        except (ValueError, KeyError):
            raise UserError(f"{index}:{number}: {line!r:.60} is no line of a dictd index") from None
        if not headword.startswith(OF_THE_DATABASE):
            found.setdefault(place, headword)
    for (offset, length), headword in sorted(found.items()):
        if offset + length > len(text):
            raise UserError(f"{index}: {headword!r} lies beyond the end of the dictionary's text")
        yield Entry(headword, offset, text[offset : offset + length])


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + VALUES[digit]
    return value


def _text_of(index: Path) -> bytes:
    for ending in (".dict.dz", ".dict"):
        if (path := index.with_suffix(ending)).is_file():
            return gzip.decompress(path.read_bytes()) if ending == ".dict.dz" else path.read_bytes()
    raise UserError(f"{index}: no {index.stem}.dict.dz or {index.stem}.dict beside it")
