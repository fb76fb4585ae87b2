"""Pairs of trans-de-en: Frank Richter's German-English word list, whole sentences among its examples.

A line is `German :: English`, each with entries between ` | ` that belong together by place, each entry with variants
between `; ` of which the first is taken. Remarks in {}, [] and () are left out.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from recipes.common.debian import Package

PACKAGE = Package(
    title="trans-de-en",
    name="trans-de-en",
    version="1.9-6",
    sha256="45f6b4cf1c434776fba6811d7bc522efabb5425c43ba8afd0e289bf9e2e53df4",
    megabytes=6,
    place=Path("usr/share/trans"),
    holds=("de-en",),
    way_out="way out: data.path=DIRECTORY that holds its file de-en",
)
LICENCE = "GPL-2.0-or-later"
REMARKS = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|\([^()]*\)|/[^/ ]+/|<[^<>]*>")
SENTENCE = re.compile(r"[.!?]$")
WORDS = 3  # of a sentence, at least, on both sides


def pairs(directory: Path) -> Iterator[tuple[int, str, str, bool]]:
    """(line of the file, German, English, whether both are whole sentences).

    Both sides are "" where they cannot be told: entries that are not as many on either side, or are remarks alone.
    """
    with open(directory / "de-en", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            german, split, english = line.strip().partition(" :: ")
            if not split or line.startswith("#"):
                continue
            sides = [[_first(entry) for entry in side.split(" | ")] for side in (german, english)]
            if len(sides[0]) != len(sides[1]):
                yield number, "", "", False  # which belongs to which is not known
                continue
            for left, right in zip(*sides, strict=True):
                if left and right:
                    yield number, left, right, _is_sentence(left) and _is_sentence(right)
                else:
                    yield number, "", "", False


def _first(entry: str) -> str:
    """The first variant of an entry without its remarks."""
    plain = REMARKS.sub(" ", REMARKS.sub(" ", entry))
    return re.sub(r" +([,.!?])", r"\1", " ".join(plain.split("; ")[0].split()))


def _is_sentence(text: str) -> bool:
    return len(text.split()) >= WORDS and SENTENCE.search(text) is not None and text[0].isupper()
