"""The net of a recipe, from settings or from the nets.json beside its weights."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from recipes.common.training import NETS
from recipes.wavenet.config import Model, WaveNetConfig
from recipes.wavenet.net import WaveNet


def described(model: Model, sample_rate: int, classes: tuple[str, ...]) -> dict[str, Any]:
    """All that builds the net again, as plain JSON data."""
    net = {"sample_rate": sample_rate, **model.model_dump(mode="json"), "classes": len(classes)}
    return {"net": net, "classes": list(classes)}


def weight_files(config: WaveNetConfig) -> dict[str, str]:
    """Safetensors of a `train` artifact by name, the one to be used first."""
    shadow = {"EMA": "wavenet_ema.safetensors"} if config.train.ema_decay else {}
    return {**shadow, "last step": "wavenet.safetensors"}


def load_net(directory: Path, file: str) -> WaveNet:
    """The net of nets.json with the weights in `file`, ready to be used."""
    net = WaveNet(**json.loads((directory / NETS).read_text())["net"])
    net.load_state_dict(load_file(directory / file))
    return net.eval().requires_grad_(False)


def best_net(config: WaveNetConfig, trained: Path) -> WaveNet:
    """The net that is used and published."""
    return load_net(trained, next(iter(weight_files(config).values())))
