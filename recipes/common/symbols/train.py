"""Stage `train`: a decoder from scratch on the documents, by the language model's own training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.launch import check_launch, read_launch
from pipeline.run.stage import Context, directory_of
from recipes.common.stages import family_module
from recipes.common.symbols.config import SymbolConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from pipeline.run.memory import Size


def check(config: SymbolConfig) -> None:
    """Refuse what cannot be trained: batches, launcher, architecture, positions. No weight is made.

    Raises:
        UserError: naming the key and the way out.
    """
    from pipeline.lm.model import check_trainable

    check_launch(config.run, config.train, (1, 2, 3), config.train)
    check_trainable(_settings(config, _entries(config), {}), config.model.attention, config.train)


def estimate(config: SymbolConfig) -> Size:
    """What this stage holds and does."""
    from pipeline.lm.attention import chosen_for
    from pipeline.lm.recipe import size_of

    settings = _settings(config, _entries(config), {})
    attention = chosen_for(config.train, config.model.attention, settings)
    length = config.train.sequence_length
    return size_of(settings, config.train, length, None, read_launch(config.run), attention)


def _entries(config: SymbolConfig) -> int:
    """Entries of the vocabulary: counted where it is made, foretold before."""
    from pipeline.lm.model import load_tokenizer

    made = directory_of(config, "tokenize") / "tokenizer"
    return len(load_tokenizer(made)) if made.is_dir() else family_module(config, "words").foretold(config)


def _settings(config: SymbolConfig, entries: int, special: dict[str, int | None]) -> PretrainedConfig:
    from pipeline.lm.model import build_config

    return build_config(config.model, entries, special, config.train.sequence_length)


def run(context: Context) -> dict[str, Any]:
    """Train, then write `model/`: fp32 weights (the EMA's where there is one), config and tokenizer."""
    from pipeline.lm.model import load_tokenizer, special_ids
    from pipeline.pretrain import learn

    origin: Path = context.inputs["tokenize"] / "tokenizer"
    tokenizer = load_tokenizer(origin)
    settings = _settings(context.config, len(tokenizer), special_ids(tokenizer))
    return learn(context, context.config.train, origin, settings, _built)


def _built(context: Context, settings: PretrainedConfig) -> PreTrainedModel:
    from pipeline.pretrain import fresh

    return fresh(context.config.train, context.config.model.attention, settings)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
