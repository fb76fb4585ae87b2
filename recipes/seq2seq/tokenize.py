"""Stage `tokenize`: the tokenizers of both sides, and the ids of every pair."""

import json
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.stage import Context
from recipes.seq2seq.config import Seq2SeqConfig
from recipes.seq2seq.prepare import SPLITS

LINES = 10_000  # encoded at a time


def check(config: Seq2SeqConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write tokenizer/{source,target}/, and SPLIT.SIDE.ids.npy (uint32) with SPLIT.SIDE.offsets.npy (int64).

    Raises:
        UserError: the pairs do not support the vocabulary; a token that nothing has; a pretrained model's tokenizer.
    """
    from recipes.seq2seq import vocabulary

    config, out, prepared = context.config, context.out, context.inputs["prepare"]
    if config.tokenizer:
        context.terminal.write(f"tokenize: {config.tokenizer.vocabulary_size:,} pieces\n")
        vocabulary.train_both(sides_of(prepared, "train"), config.tokenizer, out / "tokenizer")
    else:
        vocabulary.bring(config.model.pretrained, out / "tokenizer")
    tokenizers = vocabulary.load(out / "tokenizer")
    counts: dict[str, Any] = {}
    for split in SPLITS:
        for side, texts, tokenizer in zip(
            vocabulary.SIDES, sides_of(prepared, split), tokenizers, strict=True
        ):
            tokens = _write(texts, tokenizer, side, out / f"{split}.{side}")
            counts[f"{split}_{side}_tokens"] = tokens
            if split == "held_out":
                counts[f"{side}_bytes_per_token"] = sum(len(text.encode()) for text in texts) / tokens
    return counts


def sides_of(prepared: Path, split: str) -> tuple[list[str], list[str]]:
    """(sources, targets)."""
    with open(prepared / f"{split}.jsonl", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [row["source"] for row in rows], [row["target"] for row in rows]


def _write(texts: list[str], tokenizer: Any, side: str, path: Path) -> int:
    """The ids of texts, each with its end; how many."""
    import numpy as np

    parts: list[np.ndarray] = []
    lengths: list[int] = []
    key = "text_target" if side == "target" else "text"  # where one tokenizer has both languages
    for start in range(0, len(texts), LINES):
        found = tokenizer(**{key: texts[start : start + LINES]}, return_attention_mask=False)["input_ids"]
        lengths += map(len, found)
        parts.append(np.fromiter((token for row in found for token in row), np.uint32))
    ids = np.concatenate(parts)
    if tokenizer.unk_token_id is not None and (ids == tokenizer.unk_token_id).any():
        row = int(
            np.searchsorted(np.cumsum(lengths), np.flatnonzero(ids == tokenizer.unk_token_id)[0], "right")
        )
        raise UserError(
            f"the tokenizer has no token for a part of {texts[row][:80]!r}\n"
            "expected: one that falls back to bytes\nway out: another model.pretrained, or other pairs"
        )
    np.save(f"{path}.ids.npy", ids)
    np.save(f"{path}.offsets.npy", np.cumsum([0, *lengths]))
    return len(ids)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("tokenize")
