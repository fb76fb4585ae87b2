"""A directory with the generator alone: its weights, what builds it, and one Python file that draws without us."""

import json
import shutil
from pathlib import Path

from pipeline.run.files import write_json
from recipes.common.bundle import bundled
from recipes.gan.alone import CONFIG, WEIGHTS
from recipes.gan.config import ImageConfig

TAGS = {"pipeline_tag": "unconditional-image-generation", "tags": ["gan"]}
FILE = "gan.py"
USAGE = f"python {FILE} out.png --seeds 0 1 2 3"
BEFORE = [
    "pipeline.train.seeds",
    "recipes.common.noise",
    "recipes.common.chunks",
    "recipes.common.images.pixels",
    "recipes.common.images.shape",
    "recipes.gan.sizes",
    "recipes.gan.labels",
]
AFTER = ["recipes.gan.drawing", "recipes.common.images.by_itself", "recipes.gan.alone"]
TITLE = "A GAN's generator, and a command that draws with it. It needs torch, numpy, safetensors and pillow alone."


def write(config: ImageConfig, prepared: Path, trained: Path, out: Path) -> None:
    """Write the EMA generator, or the last step's where there is none, config.json and gan.py.

    config.json is nets.json and the classes.
    """
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.training import NETS

    source = "generator_ema" if config.train.ema_decay else "generator"
    shutil.copyfile(trained / f"{source}.safetensors", out / WEIGHTS)
    classes = PreparedImages.open(prepared, "train").classes
    write_json(out / CONFIG, json.loads((trained / NETS).read_text()) | {"classes": classes})
    modules = [*BEFORE, f"recipes.gan.{config.model.pair}", *AFTER]
    (out / FILE).write_text(bundled(modules, TITLE, "draw(partial(load, Generator))"), encoding="utf-8")
