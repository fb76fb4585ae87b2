"""The diffusion family: which stages a recipe has, and what decides each one's output."""

from dataclasses import replace
from functools import partial

from pipeline.run.stage import Stage
from recipes.common.stages import image_stages, of
from recipes.common.start import of_pictures
from recipes.diffusion.config import DiffusionConfig

CONFIG = DiffusionConfig
first_recipe = partial(of_pictures, "diffusion/fashion_mnist")
HEADLINE = (
    *(
        "Frechet distance, classifier features",
        "recall, classifier features",
        "pictures of the class asked for",
    ),
    *("precision, classifier features", "Frechet distance, efficientnet_lite0 features", "held-out error"),
)
# Stages that draw pictures, so that the sampler is part of them.
DRAWING = ("evaluate", "sample", "utility", "export")


def stages(config: DiffusionConfig) -> tuple[Stage, ...]:
    """The stages of every image recipe; those that draw know how."""
    sampler = of(config, "sampler")
    return tuple(
        replace(stage, identity=stage.identity | sampler) if stage.name in DRAWING else stage
        for stage in image_stages(config)
    )
