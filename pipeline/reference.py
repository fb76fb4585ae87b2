"""Stage `reference`: the log-probability of every judged answer before preference tuning, once and for all.

Training then needs no second model in memory, and a resumed run compares with the very same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.lm.config import LanguageModelConfig
from pipeline.lm.tuning.rows import SPLITS, rows
from pipeline.lm.tuning.weights import before, model_before
from pipeline.run.stage import Context

if TYPE_CHECKING:
    from pipeline.data.shards import Shard


def check(config: LanguageModelConfig) -> None:
    """Nothing can be refused that preference tuning itself does not refuse."""


def run(context: Context) -> dict[str, Any]:
    """Write SPLIT.npy: fp32 [documents], the summed log-probability of each answer's tokens.

    Each answer is scored alone, in the precision that training computes in. Answers longer than a row of training are
    not scored: NaN.

    Returns:
        `SPLIT.answers` scored, `SPLIT.logp` their mean log-probability.

    Raises:
        UserError: as rows.
    """
    from pipeline.evaluate import on_device

    base = model_before(context.inputs)
    shards = {split: rows(context, base, split).shard for split in SPLITS}
    model = on_device(before(base, context.config.prefer))
    metrics: dict[str, Any] = {}
    for split, shard in shards.items():
        logps = logps_of(model, shard, context)
        np.save(context.out / f"{split}.npy", logps)
        scored = logps[~np.isnan(logps)]
        metrics |= {
            f"{split}.answers": len(scored),
            f"{split}.logp": float(scored.mean()) if len(scored) else 0.0,
        }
    return metrics


def logps_of(model: Any, shard: Shard, context: Context) -> np.ndarray:
    """fp32 [documents]; NaN of documents that are longer than a row."""
    from pipeline.data.packing import whole_document
    from pipeline.scores.likelihood import nll_sums

    settings = context.config.prefer
    kept = np.flatnonzero(shard.lengths <= settings.sequence_length)
    items = [whole_document(shard, document) for document in kept]
    logps = np.full(shard.documents, np.nan, np.float32)
    if items:
        size = settings.per_device_eval_batch_size
        logps[kept] = -nll_sums(model, items, size, bool(settings.bf16), context.terminal)
    return logps


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("reference")
