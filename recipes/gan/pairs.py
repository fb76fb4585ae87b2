"""Both nets of pictures from their settings, and the settings as a file that builds them again."""

from dataclasses import asdict
from typing import Any

from torch import nn

from recipes.common.images.shape import Shape
from recipes.gan import dcgan, residual, spectral
from recipes.gan.config import Convolutions

PAIRS = {"dcgan": dcgan, "residual": residual}


def build_critic(model: Convolutions, shape: Shape) -> nn.Module:
    """(B, C, H, W), labels (B,) -> scores (B,)."""
    critic = PAIRS[model.pair].Critic(model, shape)
    return spectral.normalise(critic) if model.spectral_norm else critic


def build_generator(model: Convolutions, shape: Shape) -> nn.Module:
    """(B, L), labels (B,) -> (B, C, H, W)."""
    return PAIRS[model.pair].Generator(model, shape)


def describe(model: Convolutions, shape: Shape) -> dict[str, Any]:
    """All that builds the nets again, as plain JSON data."""
    return {"model": model.model_dump(mode="json"), "shape": asdict(shape)}


def described(found: dict[str, Any]) -> tuple[Convolutions, Shape]:
    """The inverse of describe."""
    return Convolutions.model_validate(found["model"]), Shape(**found["shape"])
