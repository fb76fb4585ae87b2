"""Stage `train`: the net, its fp32 shadow, and what builds both again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.launch import check_launch
from pipeline.run.stage import Context
from recipes.pixelcnn.config import PixelCnnConfig

if TYPE_CHECKING:
    from pipeline.run.memory import Size


def check(config: PixelCnnConfig) -> None:
    """Raises UserError for batches that do not divide and a launch file that does not fit."""
    from recipes.pixelcnn.pixelcnn import ZERO_STAGES

    check_launch(config.run, config.train, ZERO_STAGES, config.train)


def estimate(config: PixelCnnConfig) -> "Size":
    """What the net holds; the labels, known once the pictures are prepared, are taken as ten classes."""
    from recipes.common.estimate import size_of
    from recipes.common.images.shape import Shape
    from recipes.pixelcnn.pixelcnn import PixelCnn

    shape = Shape(config.data.image_size, config.data.channels, 10)
    return size_of(PixelCnn(config, Path(), shape), "pixelcnn", config.run)


def run(context: Context) -> dict[str, Any]:
    """Write pixelcnn.safetensors, nets.json and, with an EMA, pixelcnn_ema.safetensors."""
    from recipes.common.training import train

    return train(recipe_of(context.config, context.inputs["prepare"]), context)


def recipe_of(config: Any, prepared: Path) -> Any:
    """The recipe on prepared pictures."""
    from recipes.pixelcnn.pixelcnn import PixelCnn

    return PixelCnn(config, prepared)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
