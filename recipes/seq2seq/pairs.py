"""Pairs of every source, split and without what would leak from training into what is held out."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data import sources, tables
from pipeline.data.rows import BadRow, path_of
from pipeline.run.errors import UserError
from recipes.common import debian
from recipes.seq2seq import sword, trans_de_en
from recipes.seq2seq.config import Pairs

PACKAGES = {"trans_de_en": (trans_de_en.PACKAGE,), "sword_en_es": (sword.ENGLISH, sword.SPANISH)}
LICENCES = {"trans_de_en": trans_de_en.LICENCE, "sword_en_es": sword.LICENCE}


@dataclass(frozen=True, slots=True)
class Pair:
    """key: where it comes from; whole: it may be held out, which a single word may not."""

    key: str
    source: str
    target: str
    whole: bool = True


@dataclass
class PairLedger:
    """Where every pair went. `as_json` holds it to that.

    untold: entries of a word list whose sides cannot be told apart; equal: both sides the same; repeated: the very pair
    was there before; held_out_overlap: a side of it is held out, so that training may not see it; held_out_repeated: a
    side of it is held out already, once is enough; skipped: cannot be used, and listed.
    """

    pairs_in: int = 0
    train: int = 0
    held_out: int = 0
    untold: int = 0
    equal: int = 0
    repeated: int = 0
    held_out_overlap: int = 0
    held_out_repeated: int = 0
    skipped: int = 0
    listed: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The fields, if in = all that became of them.

        Raises:
            AssertionError: pairs appeared or vanished. That is a defect of ours, not of the user's data.
        """
        found = asdict(self)
        listed = found.pop("listed")
        spent = sum(found.values()) - self.pairs_in
        assert self.pairs_in == spent, f"{self.pairs_in} pairs in, but {spent} accounted for: {found}"
        return {"pairs": [found], **({"skipped": listed} if listed else {})}


def read(data: Pairs, ledger: PairLedger) -> Iterator[Pair]:
    """Every usable pair, in the source's order.

    Raises:
        UserError: the source cannot be read, or a pair cannot be used and data.on_bad_row is error.
    """
    for number, (file, line, pair) in enumerate(_rows(data)):
        if number == data.max_pairs:
            return
        ledger.pairs_in += 1
        try:
            if isinstance(pair, BadRow):
                raise pair
            if data.source == "trans_de_en" and not pair.source:
                ledger.untold += 1
                continue
            yield _usable(pair, data.equal_sides)
        except BadRow as bad:
            _skip_or_raise(data, ledger, file, line, bad)


def split(data: Pairs, ledger: PairLedger) -> tuple[list[Pair], list[Pair]]:
    """(training pairs, held-out pairs); no side of a held-out pair is in a training pair.

    Raises:
        UserError: as `read`, or a split is left without pairs.
    """
    seen: set[tuple[str, str]] = set()
    train: list[Pair] = []
    held_out: list[Pair] = []
    sides: tuple[set[str], set[str]] = (set(), set())
    for pair in read(data, ledger):
        left, right = normal(pair.source), normal(pair.target)
        if left == right and data.equal_sides != "keep":
            ledger.equal += 1
        elif (left, right) in seen:
            ledger.repeated += 1
        elif pair.whole and sources.is_held_out(left, data.held_out):
            if left in sides[0] or right in sides[1]:
                ledger.held_out_repeated += 1
                continue
            sides[0].add(left)
            sides[1].add(right)
            held_out.append(pair)
        else:
            seen.add((left, right))
            train.append(pair)
            continue
        seen.add((left, right))
    kept = [
        pair for pair in train if normal(pair.source) not in sides[0] and normal(pair.target) not in sides[1]
    ]
    ledger.held_out_overlap = len(train) - len(kept)
    ledger.train, ledger.held_out = len(kept), len(held_out)
    for name, found in (("train", kept), ("held_out", held_out)):
        if not found:
            raise UserError(
                f"{name} is empty: {ledger.pairs_in} pairs in\nexpected: some to train on and some held out\n"
                f"way out: more pairs, or another data.held_out than {data.held_out}"
            )
    return kept, held_out


def normal(text: str) -> str:
    """By which two sides are the same: letters' case and white space do not count."""
    return " ".join(text.casefold().split())


def licence_of(data: Pairs) -> str | None:
    """SPDX identifier of the pairs, where it is given or known."""
    return data.licence or LICENCES.get(data.source)


def files_of(data: Pairs) -> dict[str, Path]:
    """The user's own files; the named sources are pinned by their packages."""
    from pipeline.data.rows import files_of as files
    from pipeline.run.outside import files_below

    if data.source in PACKAGES:
        path = Path(data.path).expanduser() if data.path else None
        return files_below(path) if path and path.exists() else {}
    if tables.is_dataset(data):
        path = Path(data.path or "").expanduser()
        return files_below(path) if path.exists() else {}
    return dict(files(data))


def check(data: Pairs) -> None:
    """Raises UserError where a package, a path or a column is missing, or the first pairs cannot be used."""
    if data.source in PACKAGES:
        missing = [package for package in PACKAGES[data.source] if debian.find(package, data.path) is None]
        for package in missing:
            debian.check_download(package)
        if missing:
            return
    elif tables.is_dataset(data):
        tables.check_dataset(data)
        return
    else:
        path_of(data)
    for number, _ in enumerate(read(data, PairLedger())):
        if number == 20:
            break


def _rows(data: Pairs) -> Iterator[tuple[str, int | None, Pair | BadRow]]:
    """(file, line, pair or why there is none)."""
    for file, line, pair in (_named if data.source in PACKAGES else _tables)(data):
        if isinstance(pair, Pair) and data.swap:
            pair = Pair(pair.key, pair.target, pair.source, pair.whole)
        yield file, line, pair


def _named(data: Pairs) -> Iterator[tuple[str, int | None, Pair]]:
    places = [
        debian.find(package, data.path) or debian.download(package) for package in PACKAGES[data.source]
    ]
    if data.source == "sword_en_es":
        for name, english, spanish in sword.pairs(*places):
            yield str(places[0]), None, Pair(name, english, spanish)
        return
    file = str(places[0] / "de-en")
    for line, german, english, whole in trans_de_en.pairs(places[0]):
        if whole or data.words or not german:
            yield file, line, Pair(f"de-en:{line}", german, english, whole)


def _tables(data: Pairs) -> Iterator[tuple[str, int | None, Pair | BadRow]]:
    for row in tables.table_rows(data):
        try:
            columns = sources.columns_of(data, row)
            sides = [columns[name] for name in (data.source_column, data.target_column)]
            yield row.file, row.line, Pair(row.key, *sides)
        except BadRow as bad:
            yield row.file, row.line, bad


def _usable(pair: Pair, equal_sides: str) -> Pair:
    for name, text in (("source", pair.source), ("target", pair.target)):
        if not isinstance(text, str):
            raise BadRow(f"the {name} side is no text\nexpected: two texts")
        if not text.strip():
            raise BadRow(f"the {name} side is empty\nexpected: two texts")
    if equal_sides == "error" and normal(pair.source) == normal(pair.target):
        raise BadRow("both sides are equal\nexpected: two texts, or data.equal_sides=drop or keep")
    return pair


def _skip_or_raise(data: Pairs, ledger: PairLedger, file: str, line: int | None, bad: BadRow) -> None:
    if data.on_bad_row == "skip":
        ledger.skipped += 1
        ledger.listed.append({"file": file, "row": line, "reason": str(bad).split("\n")[0]})
        return
    place = "" if line is None else f":{line}"
    raise UserError(
        f"{file}{place}: {bad}\nway out: mend it, or data.on_bad_row=skip to leave such pairs out and count them"
    )
