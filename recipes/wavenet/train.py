"""Stage `train`: the net, its fp32 shadow, and what builds both again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.launch import check_launch
from pipeline.run.stage import Context
from recipes.wavenet.config import WaveNetConfig

if TYPE_CHECKING:
    from pipeline.run.memory import Size


def check(config: WaveNetConfig) -> None:
    """Raises UserError for batches that do not divide and a launch file that does not fit."""
    from recipes.wavenet.wavenet import ZERO_STAGES

    check_launch(config.run, config.train, ZERO_STAGES, config.train)


def estimate(config: WaveNetConfig) -> "Size":
    """What the net holds; the labels, known once the clips are prepared, are taken as ten classes."""
    from recipes.common.estimate import size_of
    from recipes.wavenet.wavenet import WaveNetRecipe

    return size_of(WaveNetRecipe(config, Path(), ("class",) * 10), "wavenet", config.run)


def run(context: Context) -> dict[str, Any]:
    """Write wavenet.safetensors, nets.json and, with an EMA, wavenet_ema.safetensors."""
    from recipes.common.training import train
    from recipes.wavenet.wavenet import WaveNetRecipe

    return train(WaveNetRecipe(context.config, context.inputs["prepare"]), context)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
