"""Stage `sample`: the same prompts and seeds drawn by the base and by what was learnt, as sheets."""

import json
from pathlib import Path
from typing import Any

from pipeline.run.stage import Context
from recipes.text_to_image_lora.config import LoraConfig


def check(config: LoraConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write base.png, lora.png (a row a prompt) and real.png, training pictures."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.sheet import save_sheet
    from recipes.text_to_image_lora.bases import load_pipeline
    from recipes.text_to_image_lora.sampler import drawing, load_learnt

    config, inputs, out = context.config, context.inputs, context.out
    settings, side = config.sample, config.data.image_size
    captions = json.loads((inputs["prepare"] / "classes.json").read_text("utf-8"))
    prompts = list(settings.prompts) or captions[: settings.captions]
    asked = [prompt for prompt in prompts for _ in range(settings.each)]
    seeds = list(range(settings.seed, settings.seed + len(asked)))
    pipelines = {
        "base": lambda: load_pipeline(config.model.pretrained),
        "lora": lambda: load_learnt(config, inputs["train"]),
    }
    for name, load in pipelines.items():
        context.terminal.write(f"sample: {len(asked)} pictures, {name}\n")
        save_sheet(drawing(load(), config.sampler, side)(seeds, asked), out / f"{name}.png", settings.each)
    real = PreparedImages.open(inputs["prepare"], "train").images[: len(asked)]
    save_sheet(real, out / "real.png", settings.each)
    return {"prompts": len(prompts), "pictures": len(asked)}


def write_drawn(
    config: LoraConfig, prompt: str, out: Path, count: int, seed: int, negative: str | None
) -> str:
    """`headwater draw`: a PNG each and a sheet of all.

    Raises:
        UserError: nothing is trained yet, or `out` holds something.
    """
    from recipes.common.drawn import check_new_folder, trained_of, write_pictures
    from recipes.text_to_image_lora.sampler import drawing, load_learnt

    trained = trained_of(config.run.output_dir)
    check_new_folder(out)
    draw = drawing(load_learnt(config, trained), config.sampler, config.data.image_size, negative)
    seeds = list(range(seed, seed + count))
    write_pictures(draw(seeds, [prompt] * count), seeds, out)
    return f"{out}: {count} pictures of {prompt!r}"


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("sample")
