"""The PixelCNN family: pictures pixel by pixel, each given all before it; an exact likelihood."""

from functools import partial

from pipeline.run.stage import Stage
from recipes.common.scores.anomaly import files_of
from recipes.common.stages import image_stages, of
from recipes.common.start import of_pictures
from recipes.pixelcnn.config import PixelCnnConfig

CONFIG = PixelCnnConfig
first_recipe = partial(of_pictures, "pixelcnn/fashion_mnist")
HEADLINE = ("bits per dimension", "Frechet distance, classifier features", "recall, classifier features")


def stages(config: PixelCnnConfig) -> tuple[Stage, ...]:
    """The image recipes' chain, and the uses that the recipe asks for."""
    asked = [name for name in ("completion", "anomaly", "compression") if getattr(config, name) is not None]
    uses = [_use(config, name) for name in asked]
    return image_stages(config, *uses)


def _use(config: PixelCnnConfig, name: str) -> Stage:
    drawn = ("sample",) if name == "completion" else ()
    reads = {"reads": partial(files_of, config)} if name == "anomaly" else {}
    return Stage(name, f"recipes.pixelcnn.{name}", of(config, name, *drawn), ("prepare", "train"), **reads)
