"""The net of a recipe, from settings or from the nets.json beside its weights."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file

from pipeline.files import write_json
from recipes.vae.config import Model
from recipes.vae.ladder import Ladder
from recipes.vae.vq import VectorQuantised

NETS = "nets.json"


@dataclass(frozen=True)
class Pictures:
    """What a net must know of its pictures. classes: names; () where there are no labels."""

    image_size: int
    channels: int
    classes: tuple[str, ...]


def build(model: Model, pictures: Pictures) -> Ladder | VectorQuantised:
    """The net with fresh weights."""
    if model.kind == "vq":
        return VectorQuantised(model, pictures.image_size, pictures.channels)
    return Ladder(model, pictures.image_size, pictures.channels, len(pictures.classes))


def describe(model: Model, pictures: Pictures, directory: Path) -> None:
    """Write nets.json, all that builds the net again."""
    write_json(directory / NETS, {"model": model.model_dump(mode="json"), **asdict(pictures)})


def load_net(directory: Path, file: str) -> Ladder | VectorQuantised:
    """The net of nets.json with the weights in `file`, ready to be used."""
    found = json.loads((directory / NETS).read_text())
    pictures = Pictures(found["image_size"], found["channels"], tuple(found["classes"]))
    net = build(Model(**found["model"]), pictures)
    net.load_state_dict(load_file(directory / file))
    return net.eval().requires_grad_(False)
