"""Stage `train`: the net, and the fp32 shadow of it that designs are drawn with."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.stage import Context
from recipes.design.config import DesignConfig
from recipes.diffusion.train import check_parts

if TYPE_CHECKING:
    from pipeline.run.memory import Size

VALUES = 4  # of an attribute that an estimate reckons with, before the pictures are prepared


def check(config: DesignConfig) -> None:
    """Raises UserError for sizes that do not fit each other, a launch file or a sampler that does not fit."""
    check_parts(config, "")  # there always is an attribute to lead towards


def estimate(config: DesignConfig) -> "Size":
    """What training holds; the classes and the values of a table are known once the pictures are prepared."""
    from recipes.common.estimate import size_of
    from recipes.design.asked import ANY, Attribute
    from recipes.design.attributes import Known
    from recipes.design.design import Design, shape_of

    names = [config.attributes.classes, *config.attributes.measured]
    values = (ANY, *map(str, range(VALUES - 1)))
    known = Known(tuple(Attribute(name, values) for name in names), {}, {}, VALUES - 1)
    shape = shape_of(config.data.image_size, config.data.channels, known.attributes)
    return size_of(Design(config, Path(), known, shape), "model", config.run)


def run(context: Context) -> dict[str, Any]:
    """Write model.safetensors, with an EMA model_ema.safetensors, and nets.json, which says how to build the net."""
    from recipes.common.training import train
    from recipes.design.design import Design

    inputs = context.inputs
    return train(Design(context.config, inputs["prepare"], inputs["attributes"]), context)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
