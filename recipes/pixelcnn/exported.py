"""The published model: safetensors, the JSON that builds the net again, and one Python file that draws without us."""

from pathlib import Path

from recipes.common.bundle import bundled
from recipes.pixelcnn.alone import NETS, WEIGHTS
from recipes.pixelcnn.config import PixelCnnConfig
from recipes.pixelcnn.sampler import weight_files

TAGS = {"pipeline_tag": "unconditional-image-generation", "tags": ["pixelcnn"]}
FILE = "pixelcnn.py"
USAGE = f"python {FILE} out.png --seeds 0 1 2 3"
MODULES = [
    "pipeline.train.seeds",
    "recipes.common.noise",
    "recipes.common.chunks",
    "recipes.common.logistic",
    "recipes.pixelcnn.pixels",
    "recipes.pixelcnn.net",
    "recipes.pixelcnn.gated",
    "recipes.pixelcnn.plus",
    "recipes.pixelcnn.drawing",
    "recipes.common.images.by_itself",
    "recipes.pixelcnn.alone",
]
TITLE = "A PixelCNN: its net, and a command that draws with it. It needs torch, numpy, safetensors and pillow alone."


def write(config: PixelCnnConfig, prepared: Path, trained: Path, out: Path) -> None:
    """Write model.safetensors, nets.json and pixelcnn.py."""
    file = next(iter(weight_files(config).values()))
    (out / WEIGHTS).write_bytes((trained / file).read_bytes())
    (out / NETS).write_bytes((trained / NETS).read_bytes())
    (out / FILE).write_text(bundled(MODULES, TITLE, "draw(load)"), encoding="utf-8")
