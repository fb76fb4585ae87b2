"""Stage `train`: both nets, and the fp32 shadow of the generator that is scored and sampled."""

from pathlib import Path
from typing import Any

from pipeline.launch import check_launch
from pipeline.stage import Context
from recipes.gan.config import GanConfig


def check(config: GanConfig) -> None:
    """Raises UserError for batches that do not divide and for a launch file that does not fit."""
    from recipes.gan.gan import ZERO_STAGES

    check_launch(config.run, config.train, ZERO_STAGES, config.train.critic, config.train.generator)


def run(context: Context) -> dict[str, Any]:
    """Write critic.safetensors, generator.safetensors and, with an EMA, generator_ema.safetensors."""
    from pipeline.engine import start_runtime, stop_runtime
    from pipeline.fit import fit
    from recipes.gan.gan import Gan

    config: GanConfig = context.config
    runtime = start_runtime(config.run.threads)
    trainer = fit(Gan(config), context, runtime)
    for net in trainer.recipe.turns:
        weights = trainer.weights(net)
        if runtime.is_main:
            _save(weights, context.out / f"{net}.safetensors")
    if config.train.ema_decay:
        weights = trainer.weights("generator", ema=True)
        if runtime.is_main:
            _save(weights, context.out / "generator_ema.safetensors")
    stop_runtime()
    return {
        "steps": config.train.max_steps,
        "samples": config.train.max_steps * config.train.train_batch_size,
    }


def _save(weights: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights, path)


if __name__ == "__main__":
    from pipeline.stage import main

    main("train")
