"""Stage `attributes`: the value that every picture has of every attribute, as labels of the net.

Shapes: N pictures, A attributes.
"""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.design.asked import (
    ANY,
    FILE,
    Attribute,
    NoSuchRequest,
    attributes_of,
    check_request,
    digits_of,
    label_of,
    labels_in,
    number_of,
    request_of,
)

if TYPE_CHECKING:
    import numpy as np

    from recipes.common.images.dataset import PreparedImages
    from recipes.design.config import Attributes

SPLITS = ("train", "held_out")
MOST_VALUES = 200  # of an attribute of a table: a column of names or sentences has more
MOST_LABELS = 100_000  # a row of the embedding each, once it is exported


@dataclass(frozen=True)
class Known:
    """What a published `attributes` artifact says.

    measures: attributes that are measured, with the two values between their thirds, or none for a colour; counts:
    training pictures of each label that occurs, the commonest first; classes: how many, 0 without.
    """

    attributes: tuple[Attribute, ...]
    measures: dict[str, tuple[float, ...]]
    counts: dict[int, int]
    classes: int

    @classmethod
    def open(cls, directory: Path) -> "Known":
        found = json.loads((directory / FILE).read_text("utf-8"))
        measures = {one["name"]: tuple(one["edges"]) for one in found["attributes"] if "edges" in one}
        return cls(attributes_of(directory), measures, dict(map(tuple, found["counts"])), found["classes"])

    @property
    def null(self) -> int:
        """The label of a request that leaves everything open."""
        return label_of(self.attributes, "")

    def measured(self, name: str, images: "np.ndarray") -> "np.ndarray":
        """The digit of each picture, int64 (N,), by the edges that training pictures gave."""
        import numpy as np

        from recipes.design.measures import measured

        values, edges = measured(name, images), self.measures[name]
        return 1 + (np.digitize(values, edges) if edges else values.astype(np.int64))


def labels_of(directory: Path, split: str) -> "np.ndarray":
    """The label of every picture of a split, int64 (N,)."""
    import numpy as np

    return np.load(directory / f"{split}.labels.npy")


def check(config: Any) -> None:
    """Refuse what the settings and the table alone say.

    Raises:
        UserError: colours of grey pictures, two attributes of one name, nothing to ask for, a table that does not fit,
            a request of the page that names what is not known.
    """
    from recipes.common.images.prepare import why_unlabelled

    settings: Attributes = config.attributes
    columns = _columns(config)
    check_requests(config, _foreseen(settings, columns))
    if "colour" in settings.measured and config.data.channels == 1:
        raise UserError(
            "attributes.measured: colour, and data.channels is 1: grey pictures have none\n"
            "way out: data.channels=3, or attributes.measured without it"
        )
    unlabelled = why_unlabelled(config.data)
    names = [*([] if unlabelled else [settings.classes]), *settings.measured, *columns]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(
            f"attributes: {twice[0]!r} is the name of two attributes\nway out: another name for one of them"
        )
    if not names:
        raise UserError(
            f"attributes: nothing can be asked for: {unlabelled}, nothing is measured, there is no table\n"
            "way out: attributes.measured=[tone, size]"
        )


def check_requests(config: Any, known: Mapping[str, Sequence[str]]) -> None:
    """Raises UserError for a request of the page that names what is not in `known`."""
    for request in config.sample.requests:
        try:
            check_request(known, request)
        except NoSuchRequest as error:
            raise UserError(f"sample.requests: {error}") from None


def _columns(config: Any) -> dict[str, Sequence[str]]:
    """The attributes that the table gives, with their values; none without one."""
    if not config.attributes.table:
        return {}
    columns, rows = _read_table(config.attributes, config.data.source)
    return {column: [ANY, *sorted({row[column] for row in rows.values()})] for column in columns}


def _foreseen(settings: "Attributes", columns: dict[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """What can be asked for, by attribute, as far as settings and table say it; () for classes that pictures decide."""
    from recipes.design.measures import COLOURS, LEVELS

    values = LEVELS | {"colour": COLOURS}
    return {settings.classes: (), **{name: (ANY, *values[name]) for name in settings.measured}, **columns}


def run(context: Context) -> dict[str, Any]:
    """Write attributes.json, and SPLIT.labels.npy (int64 N).

    Raises:
        UserError: more combinations of values than a net can have a row for; a request of the page that names a class
            which is not there.
    """
    import numpy as np

    from recipes.common.images.dataset import PreparedImages

    settings, prepared = context.config.attributes, context.inputs["prepare"]
    splits = {split: PreparedImages.open(prepared, split) for split in SPLITS}
    found = [*_class(settings, splits), *_measured(settings, splits), *_table(context, prepared)]
    attributes = tuple(Attribute(one["name"], tuple(one["values"])) for one, _ in found)
    if labels_in(attributes) > MOST_LABELS:
        raise UserError(
            f"attributes: {labels_in(attributes):,} combinations of values\nexpected: {MOST_LABELS:,} at most\n"
            "way out: fewer attributes"
        )
    check_requests(context.config, {one.name: one.values for one in attributes})  # classes are known only now
    for split in SPLITS:
        np.save(
            context.out / f"{split}.labels.npy", number_of(attributes, [digits[split] for _, digits in found])
        )
    counts = Counter(labels_of(context.out, "train").tolist()).most_common()
    described = {
        "attributes": [one for one, _ in found],
        "classes": len(splits["train"].classes),
        "counts": counts,
    }
    write_json(context.out / FILE, described)
    write_json(context.out / "ledger.json", {"attributes": _shares(attributes, counts)})
    return {"attributes": len(attributes), "combinations": len(counts), "possible": labels_in(attributes)}


Found = list[tuple[dict[str, Any], dict[str, "np.ndarray"]]]  # (what attributes.json says, split -> digits)


def _class(settings: "Attributes", splits: dict[str, "PreparedImages"]) -> Found:
    """The class comes first and `any` behind its values, so that a class and all else open is the class's own label."""
    classes = splits["train"].classes
    if not classes:
        return []
    values = [name.replace(",", " ") for name in classes]
    if ANY in values:
        raise UserError(f"attributes: a class is called {ANY!r}, which asks for none\nway out: another name")
    digits = {split: images.labels for split, images in splits.items()}
    return [({"name": settings.classes, "values": [*values, ANY]}, digits)]


def _measured(settings: "Attributes", splits: dict[str, "PreparedImages"]) -> Found:
    import numpy as np

    from recipes.design.measures import COLOURS, LEVELS, measured, thirds

    found: Found = []
    for name in settings.measured:
        values = {split: measured(name, images.images) for split, images in splits.items()}
        if name == "colour":
            digits = {split: 1 + numbers.astype(np.int64) for split, numbers in values.items()}
            found.append(({"name": name, "values": [ANY, *COLOURS], "edges": []}, digits))
            continue
        edges = thirds(values["train"])
        digits = {split: 1 + np.digitize(numbers, edges) for split, numbers in values.items()}
        found.append(({"name": name, "values": [ANY, *LEVELS[name]], "edges": edges}, digits))
    return found


def _table(context: Context, prepared: Path) -> Found:
    import numpy as np

    settings = context.config.attributes
    if settings.table is None:
        return []
    columns, rows = _read_table(settings, context.config.data.source)
    keys = {split: json.loads((prepared / f"{split}.keys.json").read_text("utf-8")) for split in SPLITS}
    without = sum(key not in rows for split in SPLITS for key in keys[split])
    if without:
        context.terminal.write(f"attributes: {without:,} pictures have no row in the table: open\n")
    found: Found = []
    for column in columns:
        values = {split: [rows.get(key, {}).get(column, "") for key in keys[split]] for split in SPLITS}
        known = [ANY, *sorted({value for value in values["train"] if value})]
        if len(known) == 1:
            raise UserError(
                f"attributes.table: {settings.table}: column {column!r} is empty for every training picture"
            )
        places = {value: digit for digit, value in enumerate(known)} | {"": 0}
        digits = {
            split: np.array([places.get(value, 0) for value in values[split]], np.int64) for split in SPLITS
        }
        found.append(({"name": column, "values": known}, digits))
    return found


def _read_table(settings: "Attributes", source: str) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The columns that are attributes, and each picture's values by its path in the folder.

    Raises:
        UserError: another source than a folder, no such file, no column `file`, a picture twice, a value that is none.
    """
    path = Path(settings.table or "").expanduser()
    if source != "folder":
        raise UserError(
            f"attributes.table names the files of a folder, and data.source is {source}\n"
            "way out: data.source=folder, or no table"
        )
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            columns = [name for name in table.fieldnames or () if name != "file"]
            rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"attributes.table: cannot read {path}: {error}") from None
    if not table.fieldnames or "file" not in table.fieldnames or not columns:
        raise UserError(
            f"attributes.table: {path} has the columns {', '.join(table.fieldnames or ())}\n"
            "expected: `file`, and one for each attribute"
        )
    values: dict[str, dict[str, str]] = {}
    for line, row in enumerate(rows, start=2):
        key = (row["file"] or "").strip()
        if None in row or None in row.values() or not key or key in values:
            why = "is there twice" if key in values else f"has not {len(columns) + 1} cells"
            raise UserError(f"attributes.table: {path}, line {line}: {key or 'no file'!r} {why}")
        values[key] = {column: row[column].strip().replace(",", " ") for column in columns}
        if ANY in values[key].values():
            raise UserError(
                f"attributes.table: {path}, line {line}: the value {ANY!r}\n"
                "expected: nothing, where it is not known"
            )
    for column in columns:
        count = len({row[column] for row in values.values()})
        if count > MOST_VALUES:
            raise UserError(
                f"attributes.table: {path}: column {column!r} has {count:,} values\nexpected: {MOST_VALUES} at most"
            )
    return columns, values


def _shares(attributes: tuple[Attribute, ...], counts: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """A row a value: how many training pictures have it."""
    totals: Counter[tuple[int, int]] = Counter()
    for label, count in counts:
        for place, digit in enumerate(digits_of(attributes, label)):
            totals[place, digit] += count
    return [
        {"attribute": attribute.name, "value": value, "train": totals[place, digit]}
        for place, attribute in enumerate(attributes)
        for digit, value in enumerate(attribute.values)
        if totals[place, digit] or value != ANY
    ]


def commonest(known: Known, each: int) -> list[str]:
    """The `each` commonest requests of every class, class by class; of pictures without classes, the commonest ten."""
    first: dict[int, list[int]] = {}
    for label in known.counts:
        first.setdefault(label % (known.classes + 1) if known.classes else 0, []).append(label)
    kept = [label for group in sorted(first) for label in first[group][: each if known.classes else 10]]
    return [request_of(known.attributes, label) for label in kept]


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("attributes")
