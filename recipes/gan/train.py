"""Stage `train`: both nets, and the fp32 shadow of the generator that is scored, sampled and exported."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.launch import check_launch
from pipeline.run.stage import Context
from recipes.gan.config import ZERO_STAGES, GanConfig, ImageConfig

if TYPE_CHECKING:
    from pipeline.run.memory import Size


def check(config: GanConfig) -> None:
    """Raises UserError for batches that do not divide, a launch file or pictures that do not fit."""
    if isinstance(config, ImageConfig):
        check_pictures(config)
    check_launch(config.run, config.train, ZERO_STAGES, config.train.critic, config.train.generator)


def check_pictures(config: ImageConfig) -> None:
    """Raises UserError for a size that does not halve down to 4 to 7 pixels, and for settings that contradict."""
    from pipeline.run.errors import UserError
    from recipes.gan.sizes import sizes

    size = config.data.image_size
    if size not in sizes():
        near = min(sizes(), key=lambda other: abs(other - size))
        raise UserError(
            f"data.image_size = {size}: the nets halve a side until it is 4 to 7 pixels, from 64 at most\n"
            f"nearest: {near}; all: {', '.join(map(str, sizes()))}"
        )
    if config.model.pair == "residual" and config.model.spectral_norm:
        raise UserError(
            "model.spectral_norm: a residual block starts at zero, and nothing divides zero by its norm\n"
            "way out: model.pair=dcgan, or train.r1 and train.r2, which do without"
        )
    if config.modes and config.data.source != "stacked_digits":
        raise UserError(
            f"modes: counted on stacked_digits alone, and data.source is {config.data.source}\n"
            "way out: leave the section out"
        )


def estimate(config: GanConfig) -> "Size":
    """What both nets hold; the critic's turn keeps the most."""
    from recipes.common.estimate import size_of
    from recipes.gan.gan import Gan

    return size_of(Gan(config), "critic", config.run)


def run(context: Context) -> dict[str, Any]:
    """Write critic.safetensors, generator.safetensors and, with an EMA, generator_ema.safetensors.

    Pictures: nets.json beside them, all that builds the nets again.
    """
    from recipes.common.training import train

    return train(recipe_of(context.config, context.inputs.get("prepare")), context)


def recipe_of(config: Any, prepared: Path | None) -> Any:
    """The recipe on prepared pictures."""
    from recipes.gan.gan import Gan

    return Gan(config, prepared)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
