"""The published model: safetensors and the JSON that builds the net again."""

from pathlib import Path

from recipes.pixelcnn.config import PixelCnnConfig
from recipes.pixelcnn.nets import NETS, load_net
from recipes.pixelcnn.sampler import Sampler, sampler_of, weight_files

TAGS = {"pipeline_tag": "unconditional-image-generation", "tags": ["pixelcnn"]}
USAGE = """from pathlib import Path

from recipes.pixelcnn.exported import load

pictures = load(Path("."))([0, 1, 2, 3], [0, 1, 2, 3])  # seeds and labels -> uint8 (4, rows, columns, channels)"""
WEIGHTS = "model.safetensors"


def write(config: PixelCnnConfig, prepared: Path, trained: Path, out: Path) -> None:
    """Write model.safetensors and nets.json."""
    file = next(iter(weight_files(config).values()))
    (out / WEIGHTS).write_bytes((trained / file).read_bytes())
    (out / NETS).write_bytes((trained / NETS).read_bytes())


def load(directory: Path) -> Sampler:
    """(seeds, labels) -> uint8 (B, S, S, C), from that directory alone."""
    return sampler_of(load_net(directory, WEIGHTS))
