"""The VAE family: which stages a recipe has; anomaly detection and compression where their sections are given."""

from functools import partial
from pathlib import Path
from typing import Any

from pipeline.run.stage import Stage
from recipes.common.scores.anomaly import files_of
from recipes.common.stages import image_stages, of
from recipes.common.start import of_pictures
from recipes.vae.config import VaeConfig

CONFIG = VaeConfig
first_recipe = partial(of_pictures, "vae/fashion_mnist")
HEADLINE = (
    *("bits per dimension", "Frechet distance, classifier features", "recall, classifier features"),
    *("reconstruction", "codes used", "perplexity of the codes"),  # of a VQ-VAE, which has none of the others
)


def stages(config: VaeConfig) -> tuple[Stage, ...]:
    """The image recipes' chain, and the uses that the recipe asks for."""
    names = [name for name in ("anomaly", "compression") if getattr(config, name) is not None]
    files = {"anomaly": {"reads": partial(files_of, config)}}
    uses = [_use(name, f"recipes.vae.{name}", of(config, name), **files.get(name, {})) for name in names]
    return image_stages(config, _use("sheets", "recipes.vae.draw_sheets", of(config, "sample")), *uses)


def _use(name: str, module: str, identity: dict[str, Any], **more: Any) -> Stage:
    return Stage(name, module, identity, ("prepare", "train"), **more)


def explained(config: VaeConfig, text: str, out: Path) -> str:
    """What `headwater explain` does and says; text: a class, or "" for the first."""
    from recipes.vae.explain import write_explained

    return write_explained(config, text, out)
