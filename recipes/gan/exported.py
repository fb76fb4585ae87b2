"""A directory with the generator alone, its weights and what builds it: written, and drawn from again."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.run.files import write_json
from recipes.gan.config import ImageConfig

if TYPE_CHECKING:
    from recipes.gan.sampler import Sampler

TAGS = {"pipeline_tag": "unconditional-image-generation", "tags": ["gan"]}
USAGE = """from pathlib import Path

from recipes.gan.exported import load

pictures = load(Path("."))([0, 1, 2, 3], [0, 1, 2, 3])  # seeds and labels -> uint8 (4, rows, columns, channels)"""
WEIGHTS, CONFIG = "generator.safetensors", "config.json"


def write(config: ImageConfig, prepared: Path, trained: Path, out: Path) -> None:
    """Write the EMA generator, or the last step's where there is none, and config.json: nets.json and the classes."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.training import NETS

    source = "generator_ema" if config.train.ema_decay else "generator"
    shutil.copyfile(trained / f"{source}.safetensors", out / WEIGHTS)
    classes = PreparedImages.open(prepared, "train").classes
    write_json(out / CONFIG, json.loads((trained / NETS).read_text()) | {"classes": classes})


def load(directory: Path) -> "Sampler":
    """The sampler of a directory that `write` made, from it alone."""
    from recipes.gan.sampler import sampler_of

    return sampler_of(json.loads((directory / CONFIG).read_text()), directory / WEIGHTS)
