"""Stage `reward_model`: a decoder with one number for a head learns from pairs which answer is worth more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.lm.config import LanguageModelConfig
from pipeline.lm.tuning.rows import rows
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
    assert config.reward_model is not None, "the stage exists only where its section does"
    check_launch(config.run, config.reward_model, (1, 2, 3), config.reward_model)
    check_tuning(config, config.reward_model)


def estimate(config: LanguageModelConfig) -> Size | None:
    """What this stage holds and does; None while pretrained weights are not here yet."""
    return size_before(config, config.reward_model)


def run(context: Context) -> dict[str, Any]:
    """Train, then write `model/`, a sequence classifier of one class (merged, fp32), and, with adapters, `adapter/`.

    Raises:
        UserError: as pipeline.lm.tuning.rows.rows.
    """
    from pipeline.lm.tuning.ranking import RankingModel
    from pipeline.train.engine import start_runtime, stop_runtime
    from pipeline.train.fit import fit

    config, training = context.config, context.config.reward_model
    runtime = start_runtime(config.run.threads, timeout=config.run.timeout)
    base = model_before(context.inputs)
    train, held = rows(context, base, "train", training.seed), rows(context, base, "held_out")
    training = training.over(train.length)
    recipe = RankingModel(
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
    stop_runtime()
    return metrics | {"units": len(train.lengths)}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("reward_model")
