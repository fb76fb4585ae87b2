"""Stage `train`: the net, and the fp32 shadow of it that pictures are drawn with."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.launch import check_launch
from pipeline.run.stage import Context
from recipes.common.images.prepare import why_unlabelled
from recipes.diffusion.config import ZERO_STAGES, DiffusionConfig
from recipes.diffusion.samplers import check_sampler
from recipes.diffusion.shapes import check_net

if TYPE_CHECKING:
    from pipeline.run.memory import Size

CLASSES = 10  # that an estimate reckons with, before pictures are prepared


def check(config: DiffusionConfig) -> None:
    """Raises UserError for sizes that do not fit each other, a launch file or a sampler that does not fit."""
    check_parts(config, why_unlabelled(config.data))


def check_parts(config: DiffusionConfig, unlabelled: str) -> None:
    """As check; unlabelled: why there is nothing that guidance could lead towards, "" where there is something."""
    check_net(config.model.net, config.data.image_size)
    check_weighting(config)
    check_times(config)
    for where, sampler in samplers_of(config):
        check_sampler(config.model, sampler, where)
        if sampler.guidance != 1 and not config.train.condition_dropout:
            raise UserError(
                f"{where}.guidance = {sampler.guidance:g} needs a net that also learnt without classes\n"
                "way out: train.condition_dropout=0.1, or guidance 1"
            )
        if sampler.guidance != 1 and unlabelled:
            raise UserError(
                f"{where}.guidance = {sampler.guidance:g} leads towards a class, and {unlabelled}: pictures without "
                "labels\n"
                "way out: guidance 1"
            )
    check_launch(config.run, config.train, ZERO_STAGES, config.train)


def check_weighting(config: DiffusionConfig) -> None:
    if config.model.prediction == "flow" and config.train.min_snr_gamma is not None:
        raise UserError(
            "train.min_snr_gamma weighs epsilon and v; a flow's velocity is weighed evenly over time\n"
            "way out: leave min_snr_gamma out, or model.prediction=v"
        )


def check_times(config: DiffusionConfig) -> None:
    if config.model.prediction != "flow" and config.train.times != "even":
        raise UserError(
            f"train.times = {config.train.times} is a flow's; model.prediction = {config.model.prediction} is weighed "
            "by train.min_snr_gamma\nway out: train.times=even, or model.prediction=flow"
        )


def samplers_of(config: DiffusionConfig) -> list[tuple[str, Any]]:
    """(the config's key, settings) of every sampler."""
    others = [(f"sampler.others.{place}", sampler) for place, sampler in enumerate(config.sampler.others)]
    return [("sampler", config.sampler), *others]


def estimate(config: DiffusionConfig) -> "Size":
    """What training holds."""
    from recipes.common.estimate import size_of
    from recipes.common.images.shape import Shape
    from recipes.diffusion.diffusion import Diffusion

    shape = Shape(config.data.image_size, config.data.channels, CLASSES)
    return size_of(Diffusion(config, Path(), shape), "model", config.run)


def run(context: Context) -> dict[str, Any]:
    """Write model.safetensors, with an EMA model_ema.safetensors, and nets.json, which says how to build the net."""
    from recipes.common.training import train

    return train(recipe_of(context.config, context.inputs["prepare"]), context)


def recipe_of(config: Any, prepared: Path) -> Any:
    """The recipe on prepared pictures."""
    from recipes.diffusion.diffusion import Diffusion

    return Diffusion(config, prepared)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
