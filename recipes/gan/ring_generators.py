"""The ring's trained generators, of a published `train` artifact, by what a reader calls them."""

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from recipes.gan.config import RingConfig
from recipes.gan.model import build_generator


def load_generators(config: RingConfig, trained: Path) -> dict[str, nn.Module]:
    """`EMA` where there is one, then `last step`."""
    names = {"EMA": "generator_ema"} if config.train.ema_decay else {}
    return {
        name: _load(config, trained / f"{file}.safetensors")
        for name, file in {**names, "last step": "generator"}.items()
    }


def _load(config: RingConfig, path: Path) -> nn.Module:
    generator = build_generator(config.model)
    generator.load_state_dict(load_file(path))
    return generator.eval()
