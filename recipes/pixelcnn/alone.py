"""The published net from its directory: the last part of the published file."""

import json
from pathlib import Path
from types import SimpleNamespace

from recipes.pixelcnn.drawing import Sampler, sampler_of
from recipes.pixelcnn.gated import GatedPixelCnn
from recipes.pixelcnn.plus import PixelCnnPlus

WEIGHTS, NETS = "model.safetensors", "nets.json"


def load(directory: Path) -> Sampler:
    """(seeds, labels) -> uint8 (B, S, S, C), from that directory alone."""
    from safetensors.torch import load_file

    found = json.loads((directory / NETS).read_text())
    model, shape = SimpleNamespace(**found["model"]), found["shape"]
    kind = PixelCnnPlus if model.architecture == "plus" else GatedPixelCnn
    net = kind(model, shape["image_size"], shape["channels"], shape["classes"])
    net.load_state_dict(load_file(directory / WEIGHTS))
    return sampler_of(net.eval().requires_grad_(False))
