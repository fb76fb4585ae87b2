"""Stage `completion`: held-out pictures of which the upper half is kept, and the rest drawn given it."""

from typing import Any

from pipeline.run.stage import Context
from recipes.pixelcnn.config import PixelCnnConfig

GREY = 128  # what stands for the half that is taken away


def check(config: PixelCnnConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write completion.png: a column a picture; the picture, what is left of it, and a row for each completion."""
    import numpy as np
    import torch

    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.sheet import save_sheet
    from recipes.pixelcnn.drawing import completed
    from recipes.pixelcnn.nets import load_net
    from recipes.pixelcnn.sampler import weight_files

    config, settings = context.config, context.config.completion
    held_out = PreparedImages.open(context.inputs["prepare"], "held_out")
    images = np.array(held_out.images[: settings.pictures])
    labels = held_out.labels[: len(images)].tolist()
    net = load_net(context.inputs["train"], next(iter(weight_files(config).values())))
    half = net.image_size // 2
    left = images.copy()
    left[:, half:] = GREY
    rows = [images, left]
    for draw in range(settings.draws):
        context.terminal.write(f"completion: {len(images)} pictures, draw {draw + 1}\n")
        seeds = [config.sample.seed + draw * len(images) + place for place in range(len(images))]
        found = completed(net, torch.from_numpy(images), labels, seeds, half * net.image_size)
        assert net.likelihood.levels < 256 or np.array_equal(found[:, :half], images[:, :half])
        rows.append(found)
    save_sheet(np.concatenate(rows), context.out / "completion.png", len(images))
    return {"pictures": len(images), "draws": settings.draws}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("completion")
