"""Openclipart as Debian ships it: pictures in the public domain, a folder a theme."""

from dataclasses import replace
from pathlib import Path

from recipes.common.debian import Package
from recipes.common.folders import folder_source
from recipes.common.images.config import Images
from recipes.common.rows import Source

# Left out: `shapes`, a fifth of all and mostly flags and borders; `unsorted`; themes of fewer than 50 pictures.
CLASSES = (
    *("animals", "buildings", "computer", "education", "food", "geography", "office", "people", "plants"),
    *("recreation", "signs_and_symbols", "special", "tools", "transportation"),
)
PACKAGE = Package(
    title="openclipart",
    name="openclipart-png",
    version="1:0.18+dfsg-19",
    sha256="f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    megabytes=131,
    place=Path("usr/share/openclipart/png"),
    holds=CLASSES,
    way_out="way out: data.path=DIRECTORY that holds its folders animals, food and so on",
)


def openclipart(directory: Path, images: Images, suffixes: tuple[str, ...]) -> Source:
    """Every picture of CLASSES; the class is the theme, folders in it make no difference."""
    found = folder_source(directory, suffixes, "picture", True, images.held_out)
    labels = {found.classes.index(theme): label for label, theme in enumerate(CLASSES)}
    rows = [replace(row, label=labels[row.label]) for row in found.rows if row.label in labels]
    return Source(CLASSES, rows, found.read, found.other_files + len(found.rows) - len(rows))
