"""Emoji with their names: Twitter's drawings, as the npm package emoji-datasource-twitter ships them, 64 x 64."""

import json
from collections.abc import Iterator
from pathlib import Path

from pipeline.data.sources import is_held_out
from recipes.common import npm
from recipes.common.folders import file_contents
from recipes.common.images.config import Images
from recipes.common.npm import Package
from recipes.common.rows import Row, Source

PICTURES = "img/twitter/64"
CLASSES = ()  # names are captions, and known once the package is read
PACKAGE = Package(
    title="emoji",
    name="emoji-datasource-twitter",
    version="16.0.0",
    sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    megabytes=62,
    holds=("emoji.json", PICTURES),
)
SKINS = {
    "1F3FB": "light",
    "1F3FC": "medium-light",
    "1F3FD": "medium",
    "1F3FE": "medium-dark",
    "1F3FF": "dark",
}


def emoji(images: Images) -> Source:
    """Every picture with its name in small letters; all skins of an emoji are held out together."""
    directory = npm.find(PACKAGE, images.path) or npm.download(PACKAGE)
    found = list(_named(json.loads((directory / "emoji.json").read_text("utf-8"))))
    captions = sorted({caption for caption, _, _ in found})
    labels = {caption: label for label, caption in enumerate(captions)}
    rows = [
        Row(
            file,
            str(Path(directory) / PICTURES / file),
            None,
            labels[caption],
            is_held_out(name, images.held_out),
        )
        for caption, name, file in found
    ]
    return Source(tuple(captions), rows, file_contents)


def _named(listed: list[dict]) -> Iterator[tuple[str, str, str]]:
    """(caption, the emoji's name without a skin, the picture's file) of all that Twitter has drawn."""
    for one in listed:
        name = " ".join(one["name"].lower().replace(":", " :").split())
        if one["has_img_twitter"]:
            yield name, name, one["image"]
        for codes, other in one.get("skin_variations", {}).items():
            if other["has_img_twitter"]:
                skins = " and ".join(dict.fromkeys(SKINS[code] for code in codes.split("-")))
                yield f"{name}, {skins} skin", name, other["image"]
