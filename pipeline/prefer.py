"""Stage `prefer`: preference tuning on judged answers, of every weight or of adapters that are then merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.lm.config import LanguageModelConfig
from pipeline.lm.tuning.rows import SPLITS, rows
from pipeline.lm.tuning.weights import built, check_tuning, finished, model_before, size_before
from pipeline.run.launch import check_launch
from pipeline.run.stage import Context

if TYPE_CHECKING:
    from pipeline.run.memory import Size


def check(config: LanguageModelConfig) -> None:
    """Refuse what cannot be trained: batches, launcher, positions, adapter targets. No weight is made.

    Raises:
        UserError: naming the key and the way out.
    """
    assert config.prefer is not None, "the stage exists only where its section does"
    check_launch(config.run, config.prefer, (1, 2, 3), config.prefer)
    check_tuning(config, config.prefer)


def estimate(config: LanguageModelConfig) -> Size | None:
    """What this stage holds and does; None while pretrained weights are not here yet."""
    return size_before(config, config.prefer)


def run(context: Context) -> dict[str, Any]:
    """Train, then write `model/` (merged, fp32) and, with adapters, `adapter/`.

    Returns:
        held-out means; `alarm_both_fall` where the model now gives both sides of a pair less probability than before.

    Raises:
        UserError: as pipeline.lm.tuning.rows.rows.
    """
    from pipeline.lm.tuning.preference import PreferenceModel
    from pipeline.train.engine import start_runtime, stop_runtime
    from pipeline.train.fit import fit

    config, training = context.config, context.config.prefer
    runtime = start_runtime(config.run.threads, timeout=config.run.timeout)
    base = model_before(context.inputs)
    reference = {
        split: np.load(context.inputs["reference"] / f"{split}.npy") if training.referenced else None
        for split in SPLITS
    }
    train = rows(context, base, "train", training.seed, reference["train"])
    held = rows(context, base, "held_out", None, reference["held_out"])
    training = training.over(train.length)
    recipe = PreferenceModel(
        training=training,
        build=lambda: built(context, base, training),
        train=train,
        held=held,
        sequence_length=train.mean_length,
        packed=train.packed,
        noise=training.neftune_noise_alpha,
    )
    trainer = fit(recipe, context, runtime)
    metrics = finished(trainer, context, base, training, held.shard)
    if runtime.is_main:
        metrics |= {"units": len(train.lengths)} | _alarm(metrics, training.referenced, context)
    stop_runtime()
    return metrics


def _alarm(metrics: dict[str, Any], referenced: bool, context: Context) -> dict[str, int]:
    """How preference tuning usually goes wrong: the margin grows, and what is wanted becomes unlikely too."""
    falls = [metrics.get(f"eval_reward_{side}", 0.0) < 0 for side in ("chosen", "rejected")]
    if not (referenced and all(falls)):
        return {}
    context.terminal.write(
        "warning: alarm: held-out chosen answers have become less likely too, not the rejected ones alone\n"
        "  a smaller learning rate, a larger beta, or loss_type cpo or orpo, which hold on to the chosen answer\n"
    )
    return {"alarm_both_fall": 1}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("prefer")
