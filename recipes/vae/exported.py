"""The published model: safetensors and the JSON that builds the net again; of a VQ-VAE also codes to decode."""

from pathlib import Path

from safetensors.torch import load_file, save_file

from recipes.common.images.dataset import PreparedImages
from recipes.vae.config import VaeConfig
from recipes.vae.nets import NETS, load_net
from recipes.vae.sampler import Sampler, code_sampler, held_out_codes, ladder_sampler, weight_files
from recipes.vae.vq import VectorQuantised

TAGS = {"pipeline_tag": "unconditional-image-generation", "tags": ["vae"]}
USAGE = """from pathlib import Path

from recipes.vae.exported import load

pictures = load(Path("."))([0, 1, 2, 3], [0, 1, 2, 3])  # seeds and labels -> uint8 (4, rows, columns, channels)"""
WEIGHTS, CODES = "model.safetensors", "codes.safetensors"


def write(config: VaeConfig, prepared: Path, trained: Path, out: Path) -> None:
    """Write model.safetensors and nets.json, and codes.safetensors: codes of held-out pictures of a VQ-VAE."""
    file = next(iter(weight_files(config).values()))
    (out / WEIGHTS).write_bytes((trained / file).read_bytes())
    (out / NETS).write_bytes((trained / NETS).read_bytes())
    net = load_net(out, WEIGHTS)
    if isinstance(net, VectorQuantised):
        codes = held_out_codes(net, PreparedImages.open(prepared, "held_out"))
        save_file({"codes": codes}, out / CODES)


def load(directory: Path) -> Sampler:
    """(seeds, labels) -> uint8 (B, S, S, C), from that directory alone."""
    net = load_net(directory, WEIGHTS)
    if isinstance(net, VectorQuantised):
        return code_sampler(net, load_file(directory / CODES)["codes"])
    return ladder_sampler(net)
