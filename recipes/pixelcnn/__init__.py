"""The PixelCNN family: pictures pixel by pixel, each given all before it; an exact likelihood."""

from pipeline.run.stage import Stage
from recipes.common.stages import image_stages
from recipes.pixelcnn.config import PixelCnnConfig

CONFIG = PixelCnnConfig
HEADLINE = ("bits per dimension", "Frechet distance, classifier features", "recall, classifier features")


def stages(config: PixelCnnConfig) -> tuple[Stage, ...]:
    """The image recipes' chain."""
    return image_stages(config)
