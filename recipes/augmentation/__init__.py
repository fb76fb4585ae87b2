"""The augmentation family: labelled rows, generators of each share of them, and whether what they make helps."""

from functools import partial

from pipeline.run.config import identity
from pipeline.run.stage import Stage
from recipes.augmentation.config import AugmentationConfig
from recipes.augmentation.reading import files_of
from recipes.common.stages import of

CONFIG = AugmentationConfig
HEADLINE = (
    *("gain, 1% of the rows", "gain, 5% of the rows", "gain, 10% of the rows", "gain, 100% of the rows"),
    *("accuracy, 1% of the rows", "accuracy, 100% of the rows"),
)


def fitted(config: AugmentationConfig) -> AugmentationConfig:
    """`config` with `torch_compile: auto` decided: each of many short trainings would be compiled anew."""
    if config.train.torch_compile != "auto":
        return config
    return config.model_copy(update={"train": config.train.model_copy(update={"torch_compile": False})})


def stages(config: AugmentationConfig) -> tuple[Stage, ...]:
    """prepare, base where the generator begins from pretrained weights, curve, report."""
    from pipeline.base import outside_files

    found = [
        Stage(
            "prepare",
            "recipes.augmentation.prepare",
            of(config, "data"),
            reads=partial(files_of, config.data),
        )
    ]
    inputs: tuple[str, ...] = ("prepare",)
    if config.model.pretrained:
        made = {"model": identity(config.model)}
        found.append(Stage("base", "pipeline.base", made, reads=partial(outside_files, config)))
        inputs += ("base",)
    found.append(
        Stage(
            "curve",
            "recipes.augmentation.curve",
            of(config, "model", "train", "decoding", "curve"),
            inputs,
        )
    )
    return (*found, Stage("report", "pipeline.report", {}, tuple(stage.name for stage in found), view=True))
