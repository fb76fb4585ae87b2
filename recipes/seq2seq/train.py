"""Stages `pretrain` and `train`: the model as a directory that transformers loads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.launch import check_launch
from pipeline.run.stage import Context
from recipes.seq2seq.config import Grouped, Seq2SeqConfig

if TYPE_CHECKING:
    from pipeline.run.memory import Size
    from recipes.seq2seq.seq2seq import Seq2Seq


def check(config: Seq2SeqConfig) -> None:
    """Refuse what the settings alone show.

    Raises:
        UserError: batches that do not divide, a launch file that does not fit, no such architecture or model, values
            that make no model, adapters that reach nothing.
    """
    check_training(config, config.train)


def check_training(config: Seq2SeqConfig, training: Grouped) -> None:
    import torch
    import transformers

    from pipeline.lm.tuning.lora import check_targets
    from recipes.seq2seq.model import LOADER
    from recipes.seq2seq.seq2seq import ZERO_STAGES

    settings = settings_of(config, None)
    if config.train.lora:
        with torch.device("meta"):
            check_targets(
                getattr(transformers, LOADER).from_config(settings), config.train.lora, "train.lora"
            )
    check_launch(config.run, training, ZERO_STAGES, training)


def settings_of(config: Seq2SeqConfig, sizes: tuple[int, int] | None) -> Any:
    """The model's config; sizes: of both vocabularies, where the tokenizers are there."""
    from recipes.seq2seq.model import built, pretrained_config

    if config.model.pretrained:
        return pretrained_config(config.model.pretrained)
    sizes = sizes or (config.tokenizer.vocabulary_size, config.tokenizer.vocabulary_size)
    longest = max(part.max_length for part in (config.train, config.pretrain) if part)
    return built(config.model, sizes, longest, apart=not config.tokenizer.joint)


def estimate(config: Seq2SeqConfig) -> "Size | None":
    """What the model holds and a group of short pairs costs; None for a pretrained one."""
    return estimate_training(config, config.train)


def estimate_training(config: Seq2SeqConfig, training: Grouped) -> "Size | None":
    from recipes.common.estimate import size_of
    from recipes.seq2seq.seq2seq import Seq2Seq

    if config.model.pretrained:
        return None
    recipe = Seq2Seq(config, training, settings_of(config, None), Path(), (0, 0))
    return size_of(recipe, "seq2seq", config.run)


def run(context: Context) -> dict[str, Any]:
    """Write model/."""
    config = context.config
    start = context.inputs.get("pretrain")
    recipe = recipe_of(context, config.train, start=start, lora=config.train.lora)
    left_out = _require_short(config, context.inputs["tokenize"])
    return train_recipe(recipe, context) | {"pairs_left_out_for_length": left_out}


def recipe_of(context: Context, training: Grouped, **more: Any) -> "Seq2Seq":
    """The recipe of a stage, with the tokenizers' sizes and pads."""
    from recipes.seq2seq import vocabulary
    from recipes.seq2seq.seq2seq import Seq2Seq

    tokens = context.inputs["tokenize"]
    tokenizers = vocabulary.load(tokens / "tokenizer")
    sizes = tuple(len(tokenizer) for tokenizer in tokenizers)
    pads = tuple(tokenizer.pad_token_id for tokenizer in tokenizers)
    return Seq2Seq(context.config, training, settings_of(context.config, sizes), tokens, pads, **more)


def train_recipe(recipe: "Seq2Seq", context: Context) -> dict[str, Any]:
    """Fit it, and write model/ with the shadow's weights where there is one."""
    from pipeline.train.engine import start_runtime, stop_runtime
    from pipeline.train.fit import fit, held_out_means
    from recipes.seq2seq.model import save

    runtime = start_runtime(context.config.run.threads, timeout=context.config.run.timeout)
    trainer = fit(recipe, context, runtime)
    metrics = held_out_means(trainer, 0, trainer.updates)
    weights = trainer.weights("seq2seq", ema=bool(recipe.training.ema_decay))
    if runtime.is_main:
        save(recipe.nets()["seq2seq"], weights, recipe.lora, context.out)
    stop_runtime()
    return metrics | {"steps": trainer.updates, "groups": trainer.updates * recipe.training.train_batch_size}


def _require_short(config: Seq2SeqConfig, tokens: Path) -> int:
    """How many training pairs are left out for a side of more than max_length tokens.

    Raises:
        UserError: there are some, and train.on_long is error.
    """
    from recipes.seq2seq.groups import PairedTexts

    lengths = PairedTexts.open(tokens, "train").lengths
    longer = int((lengths > config.train.max_length).sum())
    if longer and config.train.on_long == "error":
        raise UserError(
            f"{longer:,} of {len(lengths):,} training pairs have a side of more than train.max_length = "
            f"{config.train.max_length} tokens, up to {int(lengths.max()):,}\n"
            f"way out: train.max_length={int(lengths.max())}, or train.on_long=drop to leave them out and count them"
        )
    return longer


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
