"""Stage `prepare`: pieces of any source as words, training pieces in other keys and tempos too, and a ledger."""

import json
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from pipeline.run.terminal import bar
from recipes.music import pieces
from recipes.music.config import Music, MusicConfig

if TYPE_CHECKING:
    from symusic import Score

SPLITS = ("train", "held_out")


def check(config: MusicConfig) -> None:
    """Raises UserError as pieces.check."""
    pieces.check(config.data)


def run(context: Context) -> dict[str, Any]:
    """Write SPLIT.jsonl, {"key", "text", "copy"} a line, copy 0 the piece as it is; melodies.json and ledger.json.

    melodies: of each training piece, as semitones from note to note.

    Raises:
        UserError: a piece cannot be used and data.on_bad_row is error; a split is left without pieces.
    """
    from pipeline.data.rows import BadRow
    from recipes.common.ledger import Record
    from recipes.common.rows import Row
    from recipes.music.words import words_of

    data, record = context.config.data, Record()
    counts = dict.fromkeys(("pieces_in", *SPLITS, "repeated", "skipped"), 0)
    melodies: list[list[int]] = []
    seen: set[str] = set()
    copies = 0
    with (
        open(context.out / "train.jsonl", "w", encoding="utf-8") as train,
        open(context.out / "held_out.jsonl", "w", encoding="utf-8") as held_out,
    ):
        found = bar(pieces.pieces(data), "pieces", context.terminal, len(pieces.files(data)))
        for key, path, score in found:
            counts["pieces_in"] += 1
            if isinstance(score, BadRow):
                counts["skipped"] += 1
                record.skip_or_raise(Row(key, str(path), None, -1, False), score, data.on_bad_row)
                continue
            text = " ".join(words_of(score, data))
            if text in seen:
                counts["repeated"] += 1
                continue
            seen.add(text)
            held = is_held_out(score, data)
            counts["held_out" if held else "train"] += 1
            (held_out if held else train).write(_line(key, text, 0))
            if not held:
                melodies.append(pieces.intervals(pieces.melody(score)))
                for number, copy in enumerate(copies_of(key, score, data), 1):
                    train.write(_line(key, copy, number))
                    copies += 1
    for split in SPLITS:
        if not counts[split]:
            raise UserError(
                f"{split} is empty: {counts['pieces_in']} pieces in, {counts['skipped']} skipped\n"
                "expected: some to train on and some held out\n"
                f"way out: more pieces, or another data.held_out than {data.held_out}"
            )
    spent = sum(counts.values()) - counts["pieces_in"]
    assert spent == counts["pieces_in"], f"pieces appeared or vanished: {counts}"
    write_json(context.out / "melodies.json", melodies)
    listed = {"skipped": record.skipped} if record.skipped else {}
    write_json(context.out / "ledger.json", {"pieces": [counts], **listed})
    licence = data.licence or pieces.LICENCES.get(data.source)
    return {**counts, "copies": copies, "licence": licence}


def is_held_out(score: "Score", data: Music) -> bool:
    """By the opening of the melody: settings of one tune are on one side."""
    from pipeline.data.sources import is_held_out as drawn

    return drawn(pieces.opening(score), data.held_out)


def copies_of(key: str, score: "Score", data: Music) -> list[str]:
    """The piece in other keys and tempos, some with bars to be filled in; a function of the seed and the key."""
    import numpy as np

    from pipeline.train.seeds import derived_seed
    from recipes.music.words import bars_of, to_fill, words_of

    random = np.random.default_rng(derived_seed(data.seed, key))
    moves = [move for move in range(-data.transpose, data.transpose + 1) if move]
    found = []
    for move in random.permutation(moves)[: data.copies].tolist():
        tempo = (1 + data.tempo_change) ** random.uniform(-1, 1)
        words = words_of(pieces.changed(score, move, tempo), data)
        bars = bars_of(words)
        if random.random() < data.infill and len(bars) > 2:
            length = int(random.integers(1, max(2, len(bars) // 2)))
            first = int(random.integers(0, len(bars) - length + 1))
            words = to_fill(bars, first, first + length)
        found.append(" ".join(words))
    return found


def _line(key: str, text: str, copy: int) -> str:
    return json.dumps({"key": key, "text": text, "copy": copy}, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("prepare")
