"""The published model: weights, what builds the net again, one Python file that draws without us; a VQ-VAE's codes."""

from pathlib import Path

from safetensors.torch import save_file

from recipes.common.bundle import bundled
from recipes.common.images.dataset import PreparedImages
from recipes.vae.alone import CODES, NETS, WEIGHTS
from recipes.vae.config import VaeConfig
from recipes.vae.nets import load_net
from recipes.vae.sampler import held_out_codes, weight_files
from recipes.vae.vq import VectorQuantised

TAGS = {"pipeline_tag": "unconditional-image-generation", "tags": ["vae"]}
FILE = "vae.py"
USAGE = f"python {FILE} out.png --seeds 0 1 2 3"
MODULES = [
    "pipeline.train.seeds",
    "recipes.common.noise",
    "recipes.common.chunks",
    "recipes.common.images.pixels",
    "recipes.common.logistic",
    "recipes.vae.likelihoods",
    "recipes.vae.blocks",
    "recipes.vae.ladder",
    "recipes.vae.vq",
    "recipes.vae.drawing",
    "recipes.common.images.by_itself",
    "recipes.vae.alone",
]
TITLE = "A VAE: its net, and a command that draws with it. It needs torch, numpy, safetensors and pillow alone."


def write(config: VaeConfig, prepared: Path, trained: Path, out: Path) -> None:
    """Write model.safetensors, nets.json and vae.py, and codes.safetensors: codes of held-out pictures of a VQ-VAE."""
    file = next(iter(weight_files(config).values()))
    (out / WEIGHTS).write_bytes((trained / file).read_bytes())
    (out / NETS).write_bytes((trained / NETS).read_bytes())
    (out / FILE).write_text(bundled(MODULES, TITLE, "draw(load)"), encoding="utf-8")
    net = load_net(out, WEIGHTS)
    if isinstance(net, VectorQuantised):
        codes = held_out_codes(net, PreparedImages.open(prepared, "held_out"))
        save_file({"codes": codes}, out / CODES)
