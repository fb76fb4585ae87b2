"""Stage `compression`: held-out pictures as bytes and back, without loss."""

from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.pixelcnn.config import PixelCnnConfig


def check(config: PixelCnnConfig) -> None:
    """Raises UserError for a model of coarser pixels than the pictures'."""
    if config.model.levels < 256:
        raise UserError(
            f"compression codes 8-bit pixels, and model.levels is {config.model.levels}\n"
            "way out: model.levels=256, with another run.output_dir"
        )


def run(context: Context) -> dict[str, Any]:
    """Write pictures.bits and evaluation.json.

    Raises:
        RuntimeError: as recipes.common.coded.write_coded.
    """
    import numpy as np

    from recipes.common import coded
    from recipes.common.images.dataset import PreparedImages
    from recipes.pixelcnn.codec import encode
    from recipes.pixelcnn.nets import load_net
    from recipes.pixelcnn.sampler import weight_files

    config: PixelCnnConfig = context.config
    held_out = PreparedImages.open(context.inputs["prepare"], "held_out")
    images = np.array(held_out.images[: config.compression.pictures])
    weights = next(iter(weight_files(config).values()))
    net = load_net(context.inputs["train"], weights)
    size = coded.write_coded(context, encode, net, weights, images, held_out.labels[: len(images)])
    how = "each value of each pixel under the net's probabilities, with an entropy coder"
    parameters = sum(p.numel() for p in net.parameters())
    scores = coded.lossless_scores(images, "PixelCNN", size, how, parameters)
    write_json(context.out / "evaluation.json", {"scores": [s.as_json() for s in scores], "missing": {}})
    return {score.key: score.value for score in scores} | {"pictures_equal": len(images)}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("compression")
