"""Stage `train`: the model, with its adapters merged where it has some."""

from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.launch import check_launch
from pipeline.run.stage import Context
from recipes.captioning.config import ZERO_STAGES, CaptioningConfig


def check(config: CaptioningConfig) -> None:
    """Raises UserError for adapters on fresh weights, batches that do not divide, a launch file that does not fit."""
    if config.train.lora and not config.model.pretrained:
        raise UserError(
            "train.lora: adapters on fresh weights\nway out: model.pretrained=MODEL, or train.lora=null"
        )
    check_launch(config.run, config.train, ZERO_STAGES, config.train)


def estimate(config: CaptioningConfig) -> None:
    """None: transformers looks where a picture's tokens are, which no forward without values can."""


def run(context: Context) -> dict[str, Any]:
    """Write model/, the shadow's weights where there is one."""
    from recipes.captioning.captioner import Captioner
    from recipes.captioning.model import save
    from recipes.common.training import train_whole

    recipe = Captioner(context.config, context.inputs["prepare"], context.inputs["processor"])
    lora = recipe.training.lora
    return train_whole(recipe, context, lambda net, weights, out: save(net, weights, lora, out))


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
