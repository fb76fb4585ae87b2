"""Stage `prepare`: labelled rows of any source, each text once, split by a hash of the text, and a ledger of every row.

Rows lie in the order of that hash, so the first n of them are a fair draw.
"""

import hashlib
import json
from collections import Counter
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from pipeline.run.terminal import bar
from recipes.augmentation import reading
from recipes.augmentation.config import AugmentationConfig, Rows
from recipes.augmentation.reading import THIRDS, Line

SPLITS = TRAIN, HELD_OUT = ("train", "held_out")


def check(config: AugmentationConfig) -> None:
    """Raises UserError as reading.check."""
    reading.check(config.data)


def run(context: Context) -> dict[str, Any]:
    """Write SPLIT.jsonl, {"text", "label"} a line, classes.json and ledger.json.

    Raises:
        UserError: a row cannot be used and data.on_bad_row is error; fewer than two classes; an empty split.
    """
    from recipes.common.ledger import Record

    data, record = context.config.data, Record()
    columns = ("rows_in", *SPLITS, "beyond_the_limits", "class_not_in_training", "repeated", "skipped")
    counts = dict.fromkeys(columns, 0)
    kept: dict[str, tuple[str, float | str]] = {}  # as it is compared -> (text, class or property)
    chosen = list(_chosen(data, counts))
    for line in bar(chosen, "rows", context.terminal, len(chosen)):
        looked = _looked_at(line, data, record)
        if looked is None:
            counts["skipped"] += 1
        elif looked[0] in kept:
            counts["repeated"] += 1
        else:
            kept[looked[0]] = looked[1:]
    splits = _split(kept, data, counts)
    classes = _classes(splits, data, counts)
    for split, rows in splits.items():
        counts[split] = len(rows)
        if not rows:
            raise UserError(
                f"{split} is empty: {counts['rows_in']} rows in, {counts['skipped']} skipped\n"
                "expected: some to train on and some held out\nway out: more rows, or another data.held_out"
            )
        with open(context.out / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for text, label in rows:
                file.write(json.dumps({"text": text, "label": classes.index(str(label))}) + "\n")
    spent = sum(counts.values()) - counts["rows_in"]
    assert spent == counts["rows_in"], f"rows appeared or vanished: {counts}"
    write_json(context.out / "classes.json", classes)
    of = {split: Counter(label for _, label in rows) for split, rows in splits.items()}
    table = [{"class": name, **{split: of[split][name] for split in SPLITS}} for name in classes]
    listed = {"skipped": record.skipped} if record.skipped else {}
    write_json(context.out / "ledger.json", {"rows": [counts], "classes": table, **listed})
    licence = data.licence or reading.LICENCES.get(data.source)
    return {**counts, "classes": len(classes), "licence": licence}


def compared(text: str, data: Rows) -> str:
    """A text as it is held against others: without case, marks and spaces; of a molecule the canonical SMILES.

    Raises:
        BadRow: it is no molecule.
    """
    if data.kind == "words":
        return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())
    from rdkit import Chem

    from recipes.molecules.reading import molecule_of

    return Chem.MolToSmiles(molecule_of(text))


def rank(key: str) -> bytes:
    """The place of a row in the order of its hash."""
    return hashlib.blake2b(key.encode(), digest_size=8).digest()


def _chosen(data: Rows, counts: dict[str, int]) -> list[Line]:
    """Of MOSES, as many molecules as are wanted of both splits, by a hash: RDKit need not see the others."""
    found = list(reading.lines(data))
    counts["rows_in"] = len(found)
    if data.source != "moses" or data.max_rows is None:
        return found
    most = round((data.max_rows + data.max_held_out) * 1.5 / min(1 - data.held_out, 0.9))
    kept = sorted(found, key=lambda line: rank(line.text))[:most]
    counts["beyond_the_limits"] = len(found) - len(kept)
    return kept


def _looked_at(line: Line, data: Rows, record: Any) -> tuple[str, str, float | str] | None:
    """(as it is compared, text, class or property); None: skipped."""
    from pipeline.data.rows import BadRow
    from recipes.common.rows import Row

    try:
        if line.wrong:
            raise BadRow(line.wrong)
        key = compared(line.text, data)
        if not key:
            raise BadRow(f"{line.text[:60]!r} has neither letters nor digits\nexpected: a text")
        if line.label is not None:
            return key, key if data.kind == "molecules" else line.text.strip(), line.label
        from recipes.molecules.reading import molecule_of, properties_of

        return key, key, properties_of(molecule_of(key), (data.figure,))[data.figure]
    except BadRow as bad:
        record.skip_or_raise(Row(line.text, line.file, line.row, -1, False), bad, data.on_bad_row)
        return None


def _split(
    kept: dict[str, tuple[str, float | str]], data: Rows, counts: dict[str, int]
) -> dict[str, list[tuple[str, float | str]]]:
    """The rows of each split, at most as many as asked for, in the order of their hash."""
    from pipeline.data.sources import is_held_out

    found: dict[str, list[tuple[str, float | str]]] = {split: [] for split in SPLITS}
    for key in sorted(kept, key=rank):
        found[HELD_OUT if is_held_out(key, data.held_out) else TRAIN].append(kept[key])
    for split, most in ((TRAIN, data.max_rows), (HELD_OUT, data.max_held_out)):
        if most is not None and len(found[split]) > most:
            counts["beyond_the_limits"] += len(found[split]) - most
            found[split] = found[split][:most]
    return found


def _classes(
    splits: dict[str, list[tuple[str, float | str]]], data: Rows, counts: dict[str, int]
) -> list[str]:
    """The names of the classes; a property becomes the third that it lies in, by the edges of training rows.

    Raises:
        UserError: fewer than two.
    """
    if data.source == "moses":
        import numpy as np

        values = [value for _, value in splits[TRAIN]]
        edges = np.quantile(values, (1 / 3, 2 / 3)) if values else [0.0, 0.0]
        for split, rows in splits.items():
            splits[split] = [(text, THIRDS[int(np.digitize(value, edges))]) for text, value in rows]
        return list(THIRDS)
    found = sorted({str(label) for _, label in splits[TRAIN]})
    if len(found) < 2:
        raise UserError(
            f"the training rows have {len(found)} classes\nexpected: two or more\n"
            "way out: another data.label_column"
        )
    known = [(text, label) for text, label in splits[HELD_OUT] if str(label) in found]
    counts["class_not_in_training"] = len(splits[HELD_OUT]) - len(known)
    splits[HELD_OUT] = known
    return found


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("prepare")
