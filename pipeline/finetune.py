"""The fine-tuning stage: supervised training on conversations, of every weight or of adapters that are then merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.lm.config import LanguageModelConfig
from pipeline.lm.tuning.weights import built, check_tuning, finished, size_before
from pipeline.run.launch import check_launch
from pipeline.run.stage import Context

if TYPE_CHECKING:
    from pipeline.run.memory import Size


def check(config: LanguageModelConfig) -> None:
    """Refuse what cannot be trained: batches, launcher, positions, adapter targets. No weight is made.

    Raises:
        UserError: naming the key and the way out.
    """
    assert config.finetune is not None, "the stage exists only where its section does"
    check_launch(config.run, config.finetune, (1, 2, 3), config.finetune)
    if config.finetune.teacher:
        from pipeline.lm.tuning.distillation import check_teacher

        check_teacher(config.finetune, "finetune")
    check_tuning(config, config.finetune)


def estimate(config: LanguageModelConfig) -> Size | None:
    """What this stage holds and does; None while pretrained weights are not here yet."""
    return size_before(config, config.finetune)


def run(context: Context) -> dict[str, Any]:
    """Train, then write `model/` (merged, fp32) and, with adapters, `adapter/`."""
    from pipeline.data.shards import Shard, tokenizer_digest
    from pipeline.lm.model import config_of
    from pipeline.lm.rows import rows_of, said_of, say_mixture
    from pipeline.lm.tuning.distillation import recipe_of
    from pipeline.lm.ulysses import sharing_of
    from pipeline.train.engine import start_runtime, stop_runtime
    from pipeline.train.fit import fit

    config, training = context.config, context.config.finetune
    runtime = start_runtime(config.run.threads, training.sequence_parallel_size, timeout=config.run.timeout)
    base = context.inputs["pretrain" if config.pretrain else "base"] / "model"
    digest = tokenizer_digest(base)
    shards = tuple(
        Shard.open(context.inputs["tokenize"], f"conversations.{s}", digest) for s in ("train", "held_out")
    )
    settings = config_of(base)
    train, held = rows_of(training, settings, shards)
    if runtime.is_main and (said := said_of(train, settings)):
        context.terminal.write(f"finetune: {said}\n")
    read = say_mixture(train, training, shards[0], context.terminal) if runtime.is_main else {}
    training = training.over(train.length)
    recipe = recipe_of(
        training,
        config.model.attention,
        base,
        build=lambda: built(context, base, training),
        train=train,
        held=held,
        sequence_length=train.mean_length,
        packed=train.packed,
        noise=training.neftune_noise_alpha,
        sharing=sharing_of(runtime),
    )
    trainer = fit(recipe, context, runtime)
    metrics = finished(trainer, context, base, training, held.shard)
    stop_runtime()
    return metrics | read


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("finetune")
