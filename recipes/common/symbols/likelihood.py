"""How likely held-out documents are to the model, beside what counting foretells: scores with intervals."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.run.results import Score
from pipeline.run.stage import Context
from recipes.common.symbols.ngram import NGram

if TYPE_CHECKING:
    from recipes.common.symbols.model import Decoder

COUNTED = 2_000_000  # training tokens that baselines count at most
# Fitted on training documents: -log p of one more, and in words how.
Baseline = tuple[Callable[[np.ndarray], float], str]


def likelihood(
    decoder: Decoder,
    context: Context,
    documents: int | None,
    unit: str,
    units: Callable[[dict[str, Any]], int],
    others: Callable[[list[np.ndarray]], dict[str, Baseline]] = lambda learnt: {},
) -> list[Score]:
    """`nats per UNIT` of the first held-out documents, by the model, an n-gram model and the family's own baselines.

    Args:
        documents: at most; None: all. units: of a line of the stage prepare's held_out.jsonl, such as its notes.
        others: baselines by name, of the training documents.
    """
    from pipeline.data.shards import Shard
    from pipeline.scores.intervals import bootstrap_interval
    from recipes.common.symbols.tokenize import records

    config, made, settings = context.config, context.inputs["tokenize"], context.config.evaluate
    held, train = (Shard.open(made, f"documents.{split}") for split in ("held_out", "train"))
    count = min(documents or held.documents, held.documents)
    kept = json.loads((made / "held_out.kept.json").read_text())[:count]
    lines = list(records(context.inputs["prepare"], "held_out"))
    sizes = np.array([units(lines[line]) for line in kept])
    learnt = _learnt(train)
    seen, order = sum(map(len, learnt)), settings.ngram_order
    ngram = NGram(learnt, order, len(decoder.tokenizer))
    counted = f"Witten-Bell smoothing, counted on {seen:,} training words"
    baselines = {f"{order}-gram": (ngram.nats, counted), **others(learnt)}
    window = config.train.sequence_length
    context.terminal.write(f"evaluate: likelihood of {count:,} documents\n")
    found = {"model": (decoder.nats(held, np.arange(count), window), f"windows of {window} words, fp32")}
    for name, (nats, said) in baselines.items():
        found[name] = (np.array([nats(held.document(number)) for number in range(count)]), said)
    return [
        Score(
            f"nats per {unit}",
            name,
            float(nats.sum() / sizes.sum()),
            bootstrap_interval(nats, sizes, settings.resamples, settings.seed),
            f"nats/{unit}",
            count,
            f"-log p, the end included, over {unit}s; {said}; 95% bootstrap interval over documents",
            "lower",
        )
        for name, (nats, said) in found.items()
    ]


def _learnt(train: Any) -> list[np.ndarray]:
    """The first training documents, of COUNTED tokens or a little more."""
    found, tokens = [], 0
    for number in range(train.documents):
        found.append(train.document(number))
        tokens += len(found[-1])
        if tokens > COUNTED:
            break
    return found
