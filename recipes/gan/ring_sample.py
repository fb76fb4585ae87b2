"""Stage `sample`: points by seed, as numbers and as a picture over the ring's centres."""

from typing import TYPE_CHECKING, Any

from pipeline.run.stage import Context
from recipes.gan.config import Ring, RingConfig

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

MARGIN = 1.25  # half a side of the plot over the ring's radius
INK, CENTRE, PAPER = (38, 84, 160), (214, 96, 40), (255, 255, 255)


def check(config: RingConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write points.npy, point i from seed `sample.seed` + i, and samples.png."""
    import numpy as np

    from recipes.gan.gan import Gan
    from recipes.gan.ring_generators import load_generators

    config: RingConfig = context.config
    generator = next(iter(load_generators(config, context.inputs["train"]).values()))
    seeds = list(range(config.sample.seed, config.sample.seed + config.sample.samples))
    Gan(config).sample({"generator": generator}, seeds, context.out)
    points = np.load(context.out / "points.npy")
    scatter(points, config.data, config.sample.image_size).save(context.out / "samples.png")
    return {"samples": len(points)}


def scatter(points: "np.ndarray", ring: Ring, image_size: int) -> "Image":
    """Points (B, 2) as dots, the ring's centres as circles of three standard deviations; the y axis points up."""
    from PIL import Image, ImageDraw

    from recipes.gan.ring import HIGH_QUALITY_STDS, centres

    image = Image.new("RGB", (image_size, image_size), PAPER)
    draw = ImageDraw.Draw(image)
    scale = image_size / (2 * MARGIN * ring.radius)
    for x, y in _pixels(centres(ring), scale, image_size):
        draw.circle((x, y), HIGH_QUALITY_STDS * ring.std * scale, outline=CENTRE)
    for x, y in _pixels(points, scale, image_size):
        draw.circle((x, y), 1, fill=INK)
    return image


def _pixels(points: "np.ndarray", scale: float, image_size: int) -> list[tuple[float, float]]:
    return [(image_size / 2 + x * scale, image_size / 2 - y * scale) for x, y in points.tolist()]


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("sample")
