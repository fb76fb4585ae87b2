"""Stage `train`: the net with its text encoder, and the fp32 shadow of them that pictures are drawn with."""

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.stage import Context
from recipes.diffusion.train import check_parts
from recipes.text_to_image.captions import FACTS, TOKENIZER
from recipes.text_to_image.config import TextToImageConfig

if TYPE_CHECKING:
    from pipeline.run.memory import Size


def check(config: TextToImageConfig) -> None:
    """Raises UserError for sizes that do not fit each other, a launch file or a sampler that does not fit."""
    check_parts(config, "")  # there always is a caption to lead towards


def estimate(config: TextToImageConfig) -> "Size":
    """What training holds; the words of a vocabulary are known once the pictures are prepared."""
    from recipes.common.estimate import size_of
    from recipes.common.images.shape import Shape
    from recipes.text_to_image.captions import Captions
    from recipes.text_to_image.text_to_image import TextToImage

    shape = Shape(config.data.image_size, config.data.channels, 0)
    return size_of(TextToImage(config, Path(), Captions.blank(config.text), shape), "model", config.run)


def run(context: Context) -> dict[str, Any]:
    """Write model.safetensors, with an EMA model_ema.safetensors, nets.json, tokenizer/ and captions.json."""
    from recipes.common.training import train
    from recipes.text_to_image.text_to_image import TextToImage

    prepared, captions = context.inputs["prepare"], context.inputs["captions"]
    recipe = TextToImage(context.config, prepared, captions)
    return train(recipe, context, partial(leave_words, captions))


def leave_words(captions: Path, out: Path) -> None:
    """Write tokenizer/ and captions.json: what turns a prompt into tokens. captions: the artifact of the stage."""
    shutil.copytree(captions / TOKENIZER, out / TOKENIZER)
    shutil.copy(captions / FACTS, out / FACTS)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
