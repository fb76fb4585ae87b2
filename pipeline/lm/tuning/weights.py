"""The weights that a tuning begins with, what training them holds, and those that it ends with."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.lm.brought import vocabulary_of
from pipeline.lm.config import LanguageModelConfig, RewardModel, Tuning
from pipeline.run.errors import UserError
from pipeline.run.launch import read_launch
from pipeline.run.stage import Context, directory_of

if TYPE_CHECKING:
    from pipeline.data.shards import Shard
    from pipeline.run.memory import Size
    from pipeline.train.loop import Trainer


def model_before(inputs: dict[str, Path]) -> Path:
    """The model that a tuning begins with: the last one that was trained, or the pretrained one."""
    made = next(inputs[name] for name in ("prefer", "finetune", "pretrain", "base") if name in inputs)
    return made / "model"


def check_tuning(config: LanguageModelConfig, training: Tuning) -> None:
    """Refuse what the launcher or a model from scratch cannot do; a pretrained one is looked at by the stage `base`.

    Raises:
        UserError: a quantised base under ZeRO-3; as pipeline.lm.model.check_trainable.
    """
    if training.lora and training.lora.quantisation and read_launch(config.run).zero_stage == 3:
        raise UserError(
            f"{training.section}.lora.quantisation under ZeRO-3, which cuts codes from their scales\n"
            "way out: run.launch=launch/zero2.yaml, or no quantisation"
        )
    if not (config.model.architecture and config.tokenizer):
        return
    from pipeline.lm.model import build_config, check_trainable

    positions = config.pretrain.sequence_length
    settings = build_config(config.model, vocabulary_of(config.tokenizer), {}, positions)
    check_trainable(settings, config.model.attention, training)


def size_before(config: LanguageModelConfig, training: Tuning) -> Size | None:
    """What training the recipe's model holds and does; None while pretrained weights are not here yet."""
    from pipeline.lm.attention import chosen_for
    from pipeline.lm.model import build_config, config_of
    from pipeline.lm.recipe import size_of
    from pipeline.lm.vocabulary import added_ids

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
    new = added_ids(base.parent)
    return size_of(settings, training, training.sequence_length, training.lora, launch, attention, new)


def built(context: Context, base: Path, training: Tuning, attention: str | None = None) -> Any:
    """The weights to start from; with adapters, a peft model whose only trainable weights are theirs.

    attention: where not what the recipe and the machine choose.
    """
    from pipeline.lm.attention import chosen_for
    from pipeline.lm.model import check_trainable, config_of
    from pipeline.lm.tuning.freezing import freeze
    from pipeline.lm.tuning.lora import add_adapters
    from pipeline.lm.vocabulary import added_ids

    asked, settings = context.config.model.attention, config_of(base)
    check_trainable(settings, asked, training)
    scores = isinstance(training, RewardModel)
    make = scorer if scores else partial(before, training=training)
    model = make(base, attention=attention or chosen_for(training, asked, settings))
    if training.lora is None:
        freeze(model, training.freeze)
        return model
    new = added_ids(base.parent) if base.parent.name == "base" else None
    return add_adapters(model, training.lora, new, "SEQ_CLS" if scores else "CAUSAL_LM")


def scorer(base: Path, attention: str | None = None) -> Any:
    """The decoder in `base` with one number for a head, drawn anew, and a token that pads."""
    from pipeline.lm.model import load_scorer, load_tokenizer
    from pipeline.lm.tuning.ranking import with_padding

    tokenizer = load_tokenizer(base)
    return with_padding(load_scorer(base, attention), tokenizer.pad_token_id, tokenizer.eos_token_id)


def before(base: Path, training: Tuning, attention: str | None = None) -> Any:
    """The model that training changes: in 4 or 8 bits where its adapters are trained on that.

    attention: a backend of ours; None: the one that transformers takes.
    """
    from pipeline.lm.model import load_model
    from pipeline.lm.tuning.quantised import quantise

    model = load_model(base, attention=attention)
    return quantise(model, training.lora) if training.lora and training.lora.quantisation else model


def finished(
    trainer: Trainer, context: Context, base: Path, training: Tuning, shard: Shard
) -> dict[str, Any]:
    """What a tuning says of itself, its model written by process 0: as write_tuned.

    Returns:
        held-out means, how many parameters were trained, steps and samples; what merging changed, as write_tuned.
    """
    from pipeline.train.fit import held_out_means

    metrics: dict[str, Any] = held_out_means(trainer, 0, trainer.updates)
    weights = trainer.weights("model", ema=bool(training.ema_decay))
    if trainer.runtime.is_main:
        trained = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
        metrics["trained_parameters"] = sum(tensor.numel() for tensor in trained.values())
        metrics |= write_tuned(context, base, training, trained, shard)
    done = {"steps": trainer.updates, "samples": trainer.updates * training.train_batch_size}
    return metrics | done


def write_tuned(
    context: Context, base: Path, training: Tuning, trained: dict[str, Any], shard: Shard
) -> dict[str, float]:
    """Write `model/` and, with adapters, `adapter/`: the weights in `base` with what was trained.

    Returns:
        with a quantised base, what merging changed on documents of `shard`; nothing else.

    Raises:
        UserError: as pipeline.lm.tuning.quantised.moved_by_merging.
    """
    from pipeline.lm.model import load_tokenizer, load_weights, save_model
    from pipeline.lm.tuning.lora import save_adapter
    from pipeline.lm.tuning.quantised import moved_by_merging

    model = built(context, base, training)
    load_weights(model, trained)
    if training.lora:
        save_adapter(model, context.out / "adapter", base, training.lora)
    moved: dict[str, float] = {}
    if training.lora and training.lora.quantisation:
        model, moved = moved_by_merging(model, shard)
    elif training.lora:
        model = model.merge_and_unload()
    save_model(model, load_tokenizer(base), context.out / "model", base)
    return moved
