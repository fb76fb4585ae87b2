"""Stage `train`: the model, with its adapters merged where it has some."""

from typing import Any

from pipeline.run.launch import check_launch
from pipeline.run.stage import Context
from recipes.vision_chat.config import ZERO_STAGES, VisionChatConfig


def check(config: VisionChatConfig) -> None:
    """Raises UserError for batches that do not divide and a launch file that does not fit."""
    check_launch(config.run, config.train, ZERO_STAGES, config.train)


def estimate(config: VisionChatConfig) -> None:
    """None: transformers looks where a picture's tokens are, which no forward without values can."""


def run(context: Context) -> dict[str, Any]:
    """Write model/, the shadow's weights where there is one."""
    from recipes.captioning.model import save
    from recipes.common.training import train_whole
    from recipes.vision_chat.chatter import Chatter

    recipe = Chatter(context.config, context.inputs["prepare"], context.inputs["tokenize"])
    lora = recipe.training.lora
    return train_whole(recipe, context, lambda net, weights, out: save(net, weights, lora, out))


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
