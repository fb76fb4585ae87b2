"""The GAN family: which stages a recipe has, what decides each one's output, and what it is made from."""

from functools import partial
from pathlib import Path

from pipeline.run.stage import Stage
from recipes.common.stages import image_stages, of
from recipes.common.start import of_pictures
from recipes.gan.config import GanConfig, RingConfig, schema_of

CONFIG = schema_of
first_recipe = partial(of_pictures, "gan/fashion_mnist")
HEADLINE = (
    *("modes covered", "high-quality samples", "divergence of the mode histogram"),
    *(
        "Frechet distance, classifier features",
        "precision, classifier features",
        "recall, classifier features",
    ),
    *("Frechet distance, efficientnet_lite0 features", "recall, efficientnet_lite0 features"),
)


def stages(config: GanConfig) -> tuple[Stage, ...]:
    """Training on every process, then scores, samples and a page on one."""
    if isinstance(config, RingConfig):
        return ring_stages(config)
    counted = of(config, "modes")
    modes = [Stage("modes", "recipes.gan.modes", counted, ("prepare", "train"))] if counted else []
    return image_stages(config, *modes)


def ring_stages(config: RingConfig) -> tuple[Stage, ...]:
    learned = of(config, "data", "model", "train")
    return (
        Stage("train", "recipes.gan.train", learned, launched=True),
        Stage("evaluate", "recipes.gan.ring_scores", of(config, "evaluate"), ("train",)),
        Stage("sample", "recipes.gan.ring_sample", of(config, "sample"), ("train",)),
        Stage("report", "pipeline.report", {}, ("train", "evaluate", "sample"), view=True),
    )


def explained(config: GanConfig, text: str, out: Path) -> str:
    """What `headwater explain` does and says; text: a class, or "" for the first."""
    from recipes.gan.explain import write_explained

    return write_explained(config, text, out)
