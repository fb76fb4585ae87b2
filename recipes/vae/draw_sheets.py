"""Stage `sheets`: what the latents mean, for people: reconstructions, interpolations, traversals, draws of a group."""

from typing import Any

from pipeline.run.stage import Context
from recipes.vae.config import VaeConfig


def check(config: VaeConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write the sheets that this kind of net has, by its best weights."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.vae.nets import load_net
    from recipes.vae.sampler import weight_files
    from recipes.vae.sheets import write_sheets

    config: VaeConfig = context.config
    net = load_net(context.inputs["train"], next(iter(weight_files(config).values())))
    held_out = PreparedImages.open(context.inputs["prepare"], "held_out")
    write_sheets(net, held_out, config.sample.seed, context.out)
    return {"sheets": len(list(context.out.glob("*.png")))}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("sheets")
