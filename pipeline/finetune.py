"""The fine-tuning stage: supervised training on conversations, of every weight or of adapters that are then merged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.lm.brought import vocabulary_of
from pipeline.lm.config import LanguageModelConfig, Tuning
from pipeline.run.launch import check_launch, read_launch
from pipeline.run.stage import Context, directory_of

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
    if config.model.architecture and config.tokenizer:
        from pipeline.lm.model import build_config, check_trainable

        positions = config.pretrain.sequence_length
        settings = build_config(config.model, vocabulary_of(config.tokenizer), {}, positions)
        check_trainable(settings, config.model.attention, config.finetune)


def estimate(config: LanguageModelConfig) -> Size | None:
    """What this stage holds and does; None while pretrained weights are not here yet."""
    return size_before(config, config.finetune)


def size_before(config: LanguageModelConfig, training: Tuning) -> Size | None:
    """The same of any training that begins with the recipe's model."""
    from pipeline.lm.attention import chosen_for
    from pipeline.lm.model import build_config, config_of
    from pipeline.lm.recipe import size_of

    base = directory_of(config, "base") / "model"
    if config.model.pretrained and not base.is_dir():
        return None
    fresh = config.pretrain and config.tokenizer and not config.model.pretrained
    settings = (
        build_config(config.model, vocabulary_of(config.tokenizer), {}, config.pretrain.sequence_length)
        if fresh
        else config_of(base)
    )
    attention = chosen_for(training, config.model.attention, settings)
    launch = read_launch(config.run)
    return size_of(settings, training, training.sequence_length, training.lora, launch, attention)


def run(context: Context) -> dict[str, Any]:
    """Train, then write `model/` (merged, fp32) and, with adapters, `adapter/`."""
    from pipeline.data.shards import Shard, tokenizer_digest
    from pipeline.lm.model import config_of
    from pipeline.lm.recipe import LanguageModel
    from pipeline.lm.rows import rows_of, said_of
    from pipeline.lm.tuning.distillation import teacher_maker
    from pipeline.lm.ulysses import sharing_of
    from pipeline.train.engine import start_runtime, stop_runtime
    from pipeline.train.fit import fit, held_out_means

    config, training = context.config, context.config.finetune
    runtime = start_runtime(config.run.threads, training.sequence_parallel_size)
    base = context.inputs["pretrain" if config.pretrain else "base"] / "model"
    digest = tokenizer_digest(base)
    shards = tuple(
        Shard.open(context.inputs["tokenize"], f"conversations.{s}", digest) for s in ("train", "held_out")
    )
    settings = config_of(base)
    train, held = rows_of(training, settings, shards)
    if runtime.is_main and (said := said_of(train, settings)):
        context.terminal.write(f"finetune: {said}\n")
    training = training.over(train.length)
    recipe = LanguageModel(
        training=training,
        build=lambda: built(context, base, training),
        train=train,
        held=held,
        sequence_length=train.mean_length,
        packed=train.packed,
        noise=training.neftune_noise_alpha,
        sharing=sharing_of(runtime),
        teacher=teacher_maker(training, config.model.attention, base),
    )
    trainer = fit(recipe, context, runtime)
    metrics = held_out_means(trainer, 0, trainer.updates)
    weights = trainer.weights("model", ema=bool(training.ema_decay))
    if runtime.is_main:
        trained = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
        metrics["trained_parameters"] = sum(tensor.numel() for tensor in trained.values())
        write_tuned(context, base, training, trained)
    stop_runtime()
    done = {"steps": trainer.updates, "samples": trainer.updates * training.train_batch_size}
    return metrics | done


def built(context: Context, base: Path, training: Tuning, attention: str | None = None) -> Any:
    """The weights to start from; with adapters, a peft model whose only trainable weights are theirs.

    attention: where not what the recipe and the machine choose.
    """
    from pipeline.lm.attention import chosen_for
    from pipeline.lm.model import check_trainable, config_of, load_model
    from pipeline.lm.tuning.freezing import freeze
    from pipeline.lm.tuning.lora import add_adapters
    from pipeline.lm.vocabulary import added_ids

    asked, settings = context.config.model.attention, config_of(base)
    check_trainable(settings, asked, training)
    model = load_model(base, attention=attention or chosen_for(training, asked, settings))
    if training.lora is None:
        freeze(model, training.freeze)
        return model
    return add_adapters(model, training.lora, added_ids(base.parent) if base.parent.name == "base" else None)


def write_tuned(context: Context, base: Path, training: Tuning, trained: dict[str, Any]) -> None:
    """Write `model/` and, with adapters, `adapter/`: the weights in `base` with what was trained."""
    from pipeline.lm.model import load_tokenizer, load_weights, save_model
    from pipeline.lm.tuning.lora import save_adapter

    model = built(context, base, training)
    load_weights(model, trained)
    if training.lora:
        save_adapter(model, context.out / "adapter", base)
        model = model.merge_and_unload()
    save_model(model, load_tokenizer(base), context.out / "model", base)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("finetune")
