"""The pretraining stage: next-token training on packed documents, from scratch or from a pretrained directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.lm.brought import vocabulary_of
from pipeline.lm.config import LanguageModelConfig, Pretrain
from pipeline.run.launch import check_launch, read_launch
from pipeline.run.stage import Context, directory_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from pipeline.run.memory import Size


def check(config: LanguageModelConfig) -> None:
    """Refuse what cannot be trained: batches, launcher, architecture, positions. No weight is made.

    Raises:
        UserError: naming the key and the way out.
    """
    assert config.pretrain is not None, "the stage exists only where its section does"
    check_launch(config.run, config.pretrain, (1, 2, 3), config.pretrain)
    if config.pretrain.teacher:
        from pipeline.lm.tuning.distillation import check_teacher

        check_teacher(config.pretrain, "pretrain")
    if config.model.architecture and config.tokenizer:
        from pipeline.lm.model import check_trainable

        settings = _fresh_config(config, vocabulary_of(config.tokenizer), {})
        check_trainable(settings, config.model.attention, config.pretrain)


def estimate(config: LanguageModelConfig) -> Size | None:
    """What this stage holds and does; None while pretrained weights are not here yet."""
    from pipeline.lm.attention import chosen_for
    from pipeline.lm.model import config_of
    from pipeline.lm.recipe import size_of

    training, base = config.pretrain, directory_of(config, "base") / "model"
    if config.model.pretrained and not base.is_dir():
        return None
    fresh = not config.model.pretrained
    settings = _fresh_config(config, vocabulary_of(config.tokenizer), {}) if fresh else config_of(base)
    attention = chosen_for(training, config.model.attention, settings)
    return size_of(settings, training, training.sequence_length, None, read_launch(config.run), attention)


def _fresh_config(
    config: LanguageModelConfig, vocabulary: int, special: dict[str, int | None]
) -> PretrainedConfig:
    from pipeline.lm.model import build_config

    return build_config(config.model, vocabulary, special, config.pretrain.sequence_length)


def run(context: Context) -> dict[str, Any]:
    """Train, then write `model/`: fp32 weights (the EMA's where there is one), config and tokenizer."""
    from pipeline.lm.model import load_tokenizer

    config = context.config
    origin = context.inputs["tokenizer"] if config.tokenizer else context.inputs["base"] / "model"
    tokenizer = load_tokenizer(origin)
    return learn(context, config.pretrain, origin, _settings(context, tokenizer), _model)


def learn(
    context: Context,
    training: Pretrain,
    origin: Path,
    settings: PretrainedConfig,
    build: Callable[[Context, PretrainedConfig], PreTrainedModel],
) -> dict[str, Any]:
    """Train on the shards of the stage tokenize, then write `model/`.

    Args:
        origin: the directory of the tokenizer. build: the model as training finds it.
    """
    from pipeline.data.shards import Shard, tokenizer_digest
    from pipeline.lm.model import load_tokenizer, load_weights, save_model
    from pipeline.lm.rows import rows_of, said_of, say_mixture
    from pipeline.lm.tuning.distillation import recipe_of
    from pipeline.lm.ulysses import sharing_of
    from pipeline.train.engine import start_runtime, stop_runtime
    from pipeline.train.fit import fit, held_out_means

    config, digest = context.config, tokenizer_digest(origin)
    runtime = start_runtime(config.run.threads, training.sequence_parallel_size, timeout=config.run.timeout)
    shards = tuple(
        Shard.open(context.inputs["tokenize"], f"documents.{split}", digest)
        for split in ("train", "held_out")
    )
    train, held = rows_of(training, settings, shards)
    if runtime.is_main and (said := said_of(train, settings)):
        context.terminal.write(f"{context.stage.name}: {said}\n")
    read = say_mixture(train, training, shards[0], context.terminal) if runtime.is_main else {}
    training = training.over(train.length)
    recipe = recipe_of(
        training,
        config.model.attention,
        origin,
        build=lambda: build(context, settings),
        train=train,
        held=held,
        sequence_length=train.mean_length,
        packed=train.packed,
        noise=training.neftune_noise_alpha,
        sharing=sharing_of(runtime),
    )
    trainer = fit(recipe, context, runtime)
    metrics = held_out_means(trainer, 0, trainer.updates)
    weights = trainer.weights("model", ema=bool(training.ema_decay))
    if runtime.is_main:
        model = build(context, settings)
        load_weights(model, {name.removeprefix("model."): tensor for name, tensor in weights.items()})
        brought = origin if config.model.pretrained else None
        save_model(model, load_tokenizer(origin), context.out / "model", brought)
        metrics |= {"parameters": sum(p.numel() for p in model.parameters())}
    stop_runtime()
    done = {"steps": trainer.updates, "samples": trainer.updates * training.train_batch_size}
    return metrics | done | read


def _settings(context: Context, tokenizer: Any) -> PretrainedConfig:
    from pipeline.lm.model import config_of, special_ids

    if context.config.model.pretrained:
        return config_of(context.inputs["base"] / "model")
    entries = max(tokenizer.get_vocab().values()) + 1
    return _fresh_config(context.config, entries, special_ids(tokenizer))


def _model(context: Context, settings: PretrainedConfig) -> PreTrainedModel:
    from pipeline.lm.model import load_model
    from pipeline.lm.tuning.freezing import freeze

    config, training = context.config, context.config.pretrain
    if not config.model.pretrained:
        return fresh(training, config.model.attention, settings)
    attention = _attention(training, config.model.attention, settings)
    model = load_model(context.inputs["base"] / "model", attention=attention)
    freeze(model, training.freeze)
    return model


def fresh(training: Pretrain, attention: str, settings: PretrainedConfig) -> PreTrainedModel:
    """A model of random weights."""
    from pipeline.lm.model import build_model
    from pipeline.lm.tuning.freezing import freeze

    model = build_model(settings, _attention(training, attention, settings))
    freeze(model, training.freeze)
    return model


def _attention(training: Pretrain, asked: str, settings: PretrainedConfig) -> str:
    from pipeline.lm.attention import chosen_for
    from pipeline.lm.model import check_trainable

    check_trainable(settings, asked, training)
    return chosen_for(training, asked, settings)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("pretrain")
