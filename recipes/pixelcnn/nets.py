"""The net of a recipe, from settings or from the nets.json beside its weights."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from recipes.common.images.shape import Shape
from recipes.common.training import NETS
from recipes.pixelcnn.config import Model
from recipes.pixelcnn.gated import GatedPixelCnn
from recipes.pixelcnn.net import PixelNet
from recipes.pixelcnn.plus import PixelCnnPlus

NETS_BY_NAME = {"gated": GatedPixelCnn, "plus": PixelCnnPlus}


def build(model: Model, shape: Shape) -> PixelNet:
    """The net with fresh weights."""
    return NETS_BY_NAME[model.architecture](model, shape.image_size, shape.channels, shape.classes)


def describe(model: Model, shape: Shape) -> dict[str, Any]:
    """All that builds the net again, as plain JSON data."""
    return {"model": model.model_dump(mode="json"), "shape": asdict(shape)}


def load_net(directory: Path, file: str) -> PixelNet:
    """The net of nets.json with the weights in `file`, ready to be used."""
    found = json.loads((directory / NETS).read_text())
    net = build(Model(**found["model"]), Shape(**found["shape"]))
    net.load_state_dict(load_file(directory / file))
    return net.eval().requires_grad_(False)
