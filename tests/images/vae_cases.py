"""A small VAE on the digits for tests: its settings, its pictures, and a net whose weights say something."""

from pathlib import Path

import numpy as np
import torch

from pipeline.run.config import load
from pipeline.run.files import write_json
from recipes.common.images.shape import Shape
from recipes.vae.config import VaeConfig
from recipes.vae.nets import build

DIGITS = Path(__file__).parents[2] / "recipes" / "vae" / "digits.yaml"


def vae_config(*overrides: str) -> VaeConfig:
    return load(VaeConfig, DIGITS, list(overrides))


def prepared_digits(directory: Path, count: int = 200, labelled: bool = True) -> Path:
    """What stage `prepare` writes, of the first digits: 3/4 for training and 1/4 held out."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images[:count] * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target[:count].astype(np.int64) if labelled else np.full(count, -1)
    cut = 3 * count // 4
    for split, rows in (("train", slice(0, cut)), ("held_out", slice(cut, count))):
        np.save(directory / f"{split}.images.npy", images[rows])
        np.save(directory / f"{split}.labels.npy", labels[rows])
    write_json(directory / "classes.json", [str(digit) for digit in range(10)] if labelled else [])
    return directory


def shaken_net(config: VaeConfig, seed: int = 0, classes: int = 10, channels: int = 1):
    """A net in which every weight matters: fresh ones begin with a posterior that is the prior."""
    torch.manual_seed(seed)
    size = config.data.image_size
    net = build(config.model, Shape(size, channels, classes))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return net.eval().requires_grad_(False)
