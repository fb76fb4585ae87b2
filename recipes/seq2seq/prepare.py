"""Stage `prepare`: pairs of any source, split, as JSON lines, and a ledger of every pair."""

import json
from typing import Any

from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.seq2seq import pairs
from recipes.seq2seq.config import Seq2SeqConfig

SPLITS = ("train", "held_out")


def check(config: Seq2SeqConfig) -> None:
    """Raises UserError as pairs.check."""
    pairs.check(config.data)


def run(context: Context) -> dict[str, Any]:
    """Write SPLIT.jsonl, {"key", "source", "target"} a line, and ledger.json.

    Raises:
        UserError: as pairs.split.
    """
    data, ledger = context.config.data, pairs.PairLedger()
    for split, found in zip(SPLITS, pairs.split(data, ledger), strict=True):
        with open(context.out / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for pair in found:
                line = {"key": pair.key, "source": pair.source, "target": pair.target}
                times = data.sentence_repeats if data.words and pair.whole and split == "train" else 1
                file.write((json.dumps(line, ensure_ascii=False) + "\n") * times)
    write_json(context.out / "ledger.json", ledger.as_json())
    licence = pairs.licence_of(data)
    return {"train": ledger.train, "held_out": ledger.held_out, "skipped": ledger.skipped, "licence": licence}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("prepare")
