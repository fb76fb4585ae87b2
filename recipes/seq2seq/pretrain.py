"""Stage `pretrain`: span corruption on both sides of the training pairs, before the pairs themselves."""

from typing import TYPE_CHECKING, Any

from pipeline.run.stage import Context
from recipes.seq2seq.config import Seq2SeqConfig
from recipes.seq2seq.train import check_training, estimate_training, recipe_of, train_recipe

if TYPE_CHECKING:
    from pipeline.run.memory import Size


def check(config: Seq2SeqConfig) -> None:
    """Raises UserError as recipes.seq2seq.train.check."""
    check_training(config, config.pretrain)


def estimate(config: Seq2SeqConfig) -> "Size | None":
    return estimate_training(config, config.pretrain)


def run(context: Context) -> dict[str, Any]:
    """Write model/."""
    from recipes.seq2seq import vocabulary

    config = context.config
    tokenizer, _ = vocabulary.load(context.inputs["tokenize"] / "tokenizer")
    gaps = tokenizer.convert_tokens_to_ids(vocabulary.sentinels(config.tokenizer))
    return train_recipe(recipe_of(context, config.pretrain, sentinels=tuple(gaps)), context)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("pretrain")
