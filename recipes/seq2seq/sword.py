"""Verses of two public-domain Bibles that Debian ships as Sword modules, joined by book, chapter and verse."""

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.run.errors import UserError
from recipes.common.debian import Package

ENGLISH = Package(
    title="the World English Bible",
    name="sword-text-web",
    version="426.0-1",
    sha256="930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1",
    megabytes=4,
    place=Path("usr/share/sword"),
    holds=("mods.d/engWEB2015eb.conf",),
    way_out="way out: data.path=DIRECTORY that holds the modules engWEB2015eb and spaRV1909eb",
)
SPANISH = replace(
    ENGLISH,
    title="the Reina-Valera of 1909",
    name="sword-text-sparv",
    version="2.60-1",
    sha256="5c87f9b2bc97457e8a872f5bae7ea7ce59cb3de1dcee73e4d4740451863694cf",
    megabytes=3,
    holds=("mods.d/spaRV1909eb.conf",),
)
LICENCE = "CC-PDDC"  # SPDX's identifier of a dedication to the public domain


def pairs(english: Path, spanish: Path) -> Iterator[tuple[str, str, str]]:
    """(book chapter:verse, English, Spanish) of each verse that both have.

    Raises:
        UserError: pysword, which reads the modules, is missing.
    """
    ours, theirs = (
        _verses(place, module) for place, module in ((english, "engWEB2015eb"), (spanish, "spaRV1909eb"))
    )
    for name, text in ours.items():
        if text and theirs.get(name):
            yield name, text, theirs[name]


def _verses(place: Path, module: str) -> dict[str, str]:
    try:
        from pysword.modules import SwordModules
    except ImportError:
        raise UserError(
            "Sword modules are read with pysword\nway out: pip install 'headwater[translation]'"
        ) from None
    modules = SwordModules(str(place))
    modules.parse_modules()
    bible = modules.get_bible_from_module(module)
    found = {}
    for book in (book for part in bible.get_structure().get_books().values() for book in part):
        for chapter in range(1, book.num_chapters + 1):
            for verse in range(1, book.chapter_lengths[chapter - 1] + 1):
                raw = bible.get(books=[book.name], chapters=[chapter], verses=[verse], clean=False)
                found[f"{book.name} {chapter}:{verse}"] = plain(raw)
    return found


def plain(raw: str) -> str:
    """A verse without its marks and notes; the library's own cleaning glues the words around a note together."""
    text = re.sub(r"<[^>]*>", "", re.sub(r"<note\b.*?</note>", " ", raw, flags=re.S))
    return re.sub(r" ([,.;:!?])", r"\1", " ".join(html.unescape(text).split()))
