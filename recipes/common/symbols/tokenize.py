"""Stage `tokenize`: the vocabulary of the training documents, and every document as ids."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.common.stages import family_module

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPLITS = ("train", "held_out")
BATCH = 4096  # documents encoded at a time


def check(config: Any) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write tokenizer/, the shards documents.train and documents.held_out, SPLIT.kept.json and ledger.json.

    kept: of each document of the shard, its line in the stage prepare's SPLIT.jsonl.

    Raises:
        UserError: no held-out document is written in the words of the training documents.
    """
    from pipeline.data.ledger import Ledger
    from pipeline.data.shards import Shard, tokenizer_digest
    from recipes.common.symbols.tokenizer import tokenizer_of

    config, prepared, folder = context.config, context.inputs["prepare"], context.out / "tokenizer"
    family = family_module(config, "words")
    tokenizer = tokenizer_of(family.words(config, texts(prepared, "train")), family.PATTERN)
    tokenizer.save_pretrained(folder)
    digest, ledgers, metrics = tokenizer_digest(folder), [], {"vocabulary_size": len(tokenizer)}
    for split in SPLITS:
        kept, unknown, tokens = _write(context.out, split, tokenizer, digest, texts(prepared, split))
        if not kept:
            raise UserError(
                f"{split} is empty: {unknown} documents have words that no training document has\n"
                "way out: more data, or another data.held_out"
            )
        write_json(context.out / f"{split}.kept.json", kept)
        shard = Shard.open(context.out, f"documents.{split}", digest)
        ledgers.append(Ledger(shard.name, tokens_in=tokens, kept=shard.tokens_total).as_json())
        metrics |= {f"{split}.documents": len(kept), f"{split}.tokens": tokens, f"{split}.unknown": unknown}
    write_json(context.out / "ledger.json", {"tokens": ledgers})
    return metrics


def texts(prepared: Path, split: str) -> Iterator[str]:
    """The documents of a split, in the order of its lines."""
    return (record["text"] for record in records(prepared, split))


def records(prepared: Path, split: str) -> Iterator[dict[str, Any]]:
    """The lines of the stage prepare's SPLIT.jsonl."""
    with open(prepared / f"{split}.jsonl", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _write(
    out: Path, split: str, tokenizer: "PreTrainedTokenizerFast", digest: str, documents: Iterator[str]
) -> tuple[list[int], int, int]:
    """(lines kept, documents left out for a word that is unknown, tokens written)."""
    import numpy as np

    from pipeline.data.shards import ShardWriter

    bos, eos, unknown = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id
    kept: list[int] = []
    line = tokens = 0
    with ShardWriter(out, f"documents.{split}", len(tokenizer), digest) as writer:
        while batch := list(islice(documents, BATCH)):
            encoded = tokenizer.backend_tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            rows, sizes = [], []
            for number, (text, found) in enumerate(zip(batch, encoded, strict=True)):
                ids = np.array([bos, *found.ids, eos], np.int64)
                if (ids != unknown).all():
                    kept.append(line + number)
                    rows.append(ids)
                    sizes.append(len(text.encode()))
            line += len(batch)
            if rows:
                lengths = np.array([len(ids) for ids in rows])
                writer.add(np.concatenate(rows), lengths, np.array(sizes))
                tokens += int(lengths.sum())
    return kept, line - len(kept), tokens


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("tokenize")
