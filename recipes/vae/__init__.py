"""The VAE family: which stages a recipe has; anomaly detection and compression where their sections are given."""

from pipeline.stage import Stage
from recipes.common.stages import image_stages, of
from recipes.vae.config import VaeConfig

CONFIG = VaeConfig


def stages(config: VaeConfig) -> tuple[Stage, ...]:
    """The image recipes' chain, and the uses that the recipe asks for."""
    names = [name for name in ("anomaly", "compression") if getattr(config, name) is not None]
    inputs = ("prepare", "train")
    uses = [Stage(name, f"recipes.vae.{name}", of(config, name), inputs) for name in names]
    return image_stages(config, *uses)
