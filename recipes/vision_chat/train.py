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
    from pipeline.train.engine import start_runtime, stop_runtime
    from pipeline.train.fit import fit, held_out_means
    from recipes.captioning.model import save
    from recipes.vision_chat.chatter import Chatter

    runtime = start_runtime(context.config.run.threads)
    recipe = Chatter(context.config, context.inputs["prepare"], context.inputs["tokenize"])
    trainer = fit(recipe, context, runtime)
    metrics = held_out_means(trainer, 0, trainer.updates)
    weights = trainer.weights("chatter", ema=bool(recipe.training.ema_decay))
    if runtime.is_main:
        save(recipe.nets()["chatter"], weights, recipe.training.lora, context.out)
    stop_runtime()
    return metrics | {"steps": trainer.updates, "rows": trainer.updates * recipe.training.train_batch_size}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
