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
    from pipeline.train.engine import start_runtime, stop_runtime
    from pipeline.train.fit import fit, held_out_means
    from recipes.transcription.model import save
    from recipes.transcription.transcriber import Transcriber

    runtime = start_runtime(context.config.run.threads)
    recipe = Transcriber(context.config, context.inputs["prepare"], context.inputs["processor"])
    trainer = fit(recipe, context, runtime)
    metrics = held_out_means(trainer, 0, trainer.updates)
    weights = trainer.weights("transcriber", ema=bool(recipe.training.ema_decay))
    if runtime.is_main:
        save(recipe.nets()["transcriber"], weights, recipe.training.lora, recipe.ears, context.out)
    stop_runtime()
    return metrics | {"steps": trainer.updates, "clips": trainer.updates * recipe.training.train_batch_size}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
