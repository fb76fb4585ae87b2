"""The published generator from its directory: the last part of the published file."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from recipes.gan.drawing import drawn

WEIGHTS, CONFIG = "generator.safetensors", "config.json"


def load(generator: Callable[..., Any], directory: Path) -> Callable[..., Any]:
    """(seeds, labels) -> uint8 (B, H, W, C), from that directory alone. generator: builds the net of its pair."""
    from safetensors.torch import load_file

    found = json.loads((directory / CONFIG).read_text())
    net = generator(SimpleNamespace(**found["model"]), SimpleNamespace(**found["shape"]))
    net.load_state_dict(load_file(directory / WEIGHTS))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return partial(drawn, net.eval().requires_grad_(False).to(device))
