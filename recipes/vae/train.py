"""Stage `train`: the net, its fp32 shadow, and what builds both again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.launch import check_launch
from pipeline.run.stage import Context
from recipes.vae.config import ZERO_STAGES, VaeConfig

if TYPE_CHECKING:
    from pipeline.run.memory import Size


def check(config: VaeConfig) -> None:
    """Raises UserError for pictures that the groups do not fit, batches that do not divide, a launch file."""
    size, patch = config.data.image_size, config.model.patch
    if size % patch:
        raise UserError(f"model.patch {patch} does not divide data.image_size {size}\nway out: model.patch=1")
    finest = config.model.groups[-1][0]
    if finest > size // patch:
        raise UserError(
            f"model.groups: a resolution of {finest} is finer than the net's\n"
            f"expected: at most {size // patch} = data.image_size {size} / model.patch {patch}"
        )
    check_launch(config.run, config.train, ZERO_STAGES, config.train)


def estimate(config: VaeConfig) -> "Size":
    """What the net holds; the labels, known once the pictures are prepared, are taken as ten classes."""
    from recipes.common.estimate import size_of
    from recipes.common.images.shape import Shape
    from recipes.vae.vae import Vae

    shape = Shape(config.data.image_size, config.data.channels, 10)
    return size_of(Vae(config, Path(), shape), "vae", config.run)


def run(context: Context) -> dict[str, Any]:
    """Write vae.safetensors, nets.json and, with an EMA, vae_ema.safetensors."""
    from recipes.common.training import train

    return train(recipe_of(context.config, context.inputs["prepare"]), context)


def recipe_of(config: Any, prepared: Path) -> Any:
    """The recipe on prepared pictures."""
    from recipes.vae.vae import Vae

    return Vae(config, prepared)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
