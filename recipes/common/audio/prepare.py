"""Stage `prepare`: the clips of any source to memory-mapped samples of one rate, and a ledger of every clip.

Clips lie in the order of a hash of their keys, so that the first n of them are a fair draw.
"""

import importlib.util
from collections import Counter
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from pipeline.run.terminal import bar
from recipes.common.audio.config import Audio, Transcribed
from recipes.common.order import rank

if TYPE_CHECKING:
    import numpy as np

    from recipes.common.audio.ledger import ClipLedger
    from recipes.common.ledger import Record
    from recipes.common.rows import Content, Row, Source

SPLITS = ("train", "held_out")
LIBRARIES = ("soundfile", "scipy")
FIRST_ROWS = 8  # decoded before anything runs, spread over the source


def check(config: Any) -> None:
    """Refuse what a cheap look can: libraries, paths, languages, class folders, a few clips.

    Raises:
        UserError: it names the setting or the file, and the way out.
    """
    from recipes.common import debian
    from recipes.common.audio.packages import PACKAGES
    from recipes.common.audio.readers import open_source
    from recipes.common.ledger import Record

    audio: Audio = config.data
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"clips need {name}\nway out: pip install 'headwater[audio]'")
    package = PACKAGES.get(audio.source)
    if package and debian.find(package, audio.path) is None:
        return debian.check_download(package)
    source = open_source(audio)
    rows = source.rows[:: max(1, len(source.rows) // FIRST_ROWS)][:FIRST_ROWS]
    for row, content in zip(rows, source.read(rows), strict=True):
        _usable(row, content, audio, Record())


def run(context: Context) -> dict[str, Any]:
    """Write SPLIT.samples.npy (int16), SPLIT.offsets.npy, SPLIT.labels.npy (int64), SPLIT.keys.json, and the ledger.

    Returns:
        `train` and `held_out` (clips), their seconds, `classes`, `skipped`, the `fingerprint` of what was read, the
        `licence`.

    Raises:
        UserError: a clip cannot be used and data.on_bad_row is error; a split is left without clips.
    """
    from recipes.common import debian
    from recipes.common.audio.packages import PACKAGES
    from recipes.common.audio.readers import open_source
    from recipes.common.ledger import Record

    audio: Audio = context.config.data
    package = PACKAGES.get(audio.source)
    if package and debian.find(package, audio.path) is None:
        context.terminal.write(f"prepare: downloading {package.name}, {package.megabytes} MB\n")
    source, record = open_source(audio), Record()
    ledgers, counts = [], {}
    for split in SPLITS:
        rows, ledger = choose(source, audio, split)
        kept = _write(split, rows, source, context, record, ledger)
        _require_some(ledger, record, audio)
        ledgers.append(ledger)
        counts[split] = Counter(row.label for row in kept)
    write_json(context.out / "classes.json", source.classes)
    classes = (
        () if isinstance(audio, Transcribed) else source.classes
    )  # a table of all transcripts tells nothing
    tables = _ledger(source, classes, [each.as_json() for each in ledgers], counts, record)
    write_json(context.out / "ledger.json", tables)
    seconds = {f"{each.name}_seconds": round(each.samples / audio.sample_rate, 1) for each in ledgers}
    return {
        **{each.name: each.kept for each in ledgers},
        **seconds,
        "classes": len(source.classes),
        "skipped": len(record.skipped),
        "fingerprint": record.fingerprint,
        "licence": licence_of(audio),
    }


def licence_of(audio: Audio) -> str | None:
    """SPDX identifier of the clips, where it is given or known."""
    from recipes.common.audio.packages import LICENCES

    return audio.licence or LICENCES.get(audio.source)


def choose(source: "Source", audio: Audio, split: str) -> tuple[list["Row"], "ClipLedger"]:
    """The rows of a split that are to be read, in the order of rank, and its ledger so far."""
    from recipes.common.audio.ledger import ClipLedger

    rows = sorted((row for row in source.rows if row.held_out == (split == "held_out")), key=rank)
    kept = rows[: audio.max_clips]
    return kept, ClipLedger(split, clips_in=len(rows), beyond_max_clips=len(rows) - len(kept))


def _write(
    split: str,
    rows: list["Row"],
    source: "Source",
    context: Context,
    record: "Record",
    ledger: "ClipLedger",
) -> list["Row"]:
    """The arrays of a split; returns the rows that are in them. Clips are in memory one at a time."""
    import numpy as np

    audio, out = context.config.data, context.out
    kept: list[Row] = []
    offsets = [0]
    spool = out / f"{split}.spool"
    with open(spool, "wb") as file:
        for row, content in bar(
            zip(rows, source.read(rows), strict=True), split, context.terminal, len(rows)
        ):
            record.see(row, content)
            samples = _usable(row, content, audio, record)
            if samples is not None:
                file.write(samples.tobytes())
                kept.append(row)
                offsets.append(offsets[-1] + len(samples))
    ledger.kept, ledger.skipped, ledger.samples = len(kept), len(rows) - len(kept), offsets[-1]
    if kept:
        read = np.memmap(spool, np.int16, "r")
        written = np.lib.format.open_memmap(out / f"{split}.samples.npy", "w+", np.int16, read.shape)
        written[:] = read
        written.flush()
        np.save(out / f"{split}.offsets.npy", np.array(offsets, np.int64))
        np.save(out / f"{split}.labels.npy", np.array([row.label for row in kept], np.int64))
        write_json(out / f"{split}.keys.json", [row.key for row in kept])
    spool.unlink()
    return kept


def _usable(row: "Row", content: "Content", audio: Audio, record: "Record") -> "np.ndarray | None":
    """The clip's samples; None where it is skipped."""
    from pipeline.data.rows import BadRow
    from recipes.common.audio.decode import decoded

    try:
        if row.wrong:
            raise BadRow(row.wrong)
        if isinstance(content, BadRow):
            raise content
        assert isinstance(content, bytes), "clips are files"
        return decoded(content, row.file, audio, record.notes)
    except BadRow as bad:
        record.skip_or_raise(row, bad, audio.on_bad_row)
        return None


def _ledger(
    source: "Source",
    classes: tuple[str, ...],
    ledgers: list[dict[str, Any]],
    counts: dict[str, Counter[int]],
    record: "Record",
) -> dict[str, Any]:
    """Balances, clips of each class, conversions, and what was skipped; only tables that have a row."""
    table = [
        {"name": name, **{split: counts[split][label] for split in SPLITS}}
        for label, name in enumerate(classes)
    ]
    notes = record.notes + Counter(other_files=source.other_files)
    found = {"clips": ledgers, "classes": table, "conversions": dict(notes), "skipped": record.skipped}
    return {name: table for name, table in found.items() if table}


def _require_some(ledger: "ClipLedger", record: "Record", audio: Audio) -> None:
    if not ledger.kept:
        why = f"; the first that was skipped: {record.skipped[0]}" if record.skipped else ""
        raise UserError(
            f"{ledger.name} is empty: {ledger.clips_in} clips in, {ledger.skipped} skipped{why[:600]}\n"
            "expected: some to train on and some held out\n"
            f"way out: more clips, or another data.held_out than {audio.held_out}"
        )


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("prepare")
