"""Stage `train`: the model, with its adapters merged where it has some."""

from typing import Any

from pipeline.run.launch import check_launch
from pipeline.run.stage import Context
from recipes.transcription.config import ZERO_STAGES, TranscriptionConfig


def check(config: TranscriptionConfig) -> None:
    """Raises UserError for batches that do not divide and a launch file that does not fit."""
    check_launch(config.run, config.train, ZERO_STAGES, config.train)


def estimate(config: TranscriptionConfig) -> None:
    """None: the vocabulary is learnt first, and CTC's dynamic programme has no counted form."""


def run(context: Context) -> dict[str, Any]:
    """Write model/, the shadow's weights where there is one."""
    from recipes.common.training import train_whole
    from recipes.transcription.model import save
    from recipes.transcription.transcriber import Transcriber

    recipe = Transcriber(context.config, context.inputs["prepare"], context.inputs["processor"])
    lora = recipe.training.lora
    return train_whole(recipe, context, lambda net, weights, out: save(net, weights, lora, recipe.ears, out))


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
