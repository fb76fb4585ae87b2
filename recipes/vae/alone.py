"""The published net from its directory: the last part of the published file."""

import json
from pathlib import Path
from types import SimpleNamespace

from recipes.vae.drawing import Sampler, code_sampler, ladder_sampler
from recipes.vae.ladder import Ladder
from recipes.vae.vq import VectorQuantised

WEIGHTS, NETS, CODES = "model.safetensors", "nets.json", "codes.safetensors"


def load(directory: Path) -> Sampler:
    """(seeds, labels) -> uint8 (B, S, S, C), from that directory alone; of a VQ-VAE, by the codes beside it."""
    from safetensors.torch import load_file

    found = json.loads((directory / NETS).read_text())
    model = SimpleNamespace(**found["model"])
    size, channels, classes = (found["shape"][name] for name in ("image_size", "channels", "classes"))
    if model.kind == "vq":
        quantised = VectorQuantised(model, size, channels)
        quantised.load_state_dict(load_file(directory / WEIGHTS))
        return code_sampler(quantised.eval().requires_grad_(False), load_file(directory / CODES)["codes"])
    net = Ladder(model, size, channels, classes)
    net.load_state_dict(load_file(directory / WEIGHTS))
    return ladder_sampler(net.eval().requires_grad_(False))
