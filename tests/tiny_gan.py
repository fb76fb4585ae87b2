"""A small GAN on the digits for tests: its settings, its pictures, and its recipe."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.run.config import load
from pipeline.run.files import write_json
from recipes.gan.config import ImageConfig, schema_of
from recipes.gan.gan import Gan

DIGITS = Path(__file__).parent.parent / "recipes" / "gan" / "digits.yaml"
TINY = (
    "model.pair=residual",
    "model.latent_size=4",
    "model.channels=8",
    "train.train_batch_size=32",
    "train.max_steps=4",
    "train.penalty_steps=1",
    "train.augment=[translation]",
)


def image_config(*overrides: str) -> ImageConfig:
    return load(schema_of, DIGITS, list(overrides))


def prepared_digits(directory: Path, count: int = 200, labelled: bool = True, side: int = 8) -> Path:
    """What stage `prepare` writes, of the first digits: 3/4 for training and 1/4 held out; larger by repetition."""
    from sklearn.datasets import load_digits

    directory.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    images = np.rint(digits.images[:count] * (255 / 16)).astype(np.uint8)[..., None]
    images = images.repeat(-(-side // 8), axis=1).repeat(-(-side // 8), axis=2)[:, :side, :side]
    labels = digits.target[:count].astype(np.int64) if labelled else np.full(count, -1)
    cut = 3 * count // 4
    for split, rows in (("train", slice(0, cut)), ("held_out", slice(cut, count))):
        np.save(directory / f"{split}.images.npy", images[rows])
        np.save(directory / f"{split}.labels.npy", labels[rows])
    write_json(directory / "classes.json", [str(digit) for digit in range(10)] if labelled else [])
    return directory


def tiny_gan(prepared: Path, *overrides: str, micro: int = 16, **data: Any) -> Gan:
    """Four steps with 32 pictures each, in micro-batches of `micro`, on any number of processes."""
    size = f"train.per_device_train_batch_size={micro}"
    return Gan(image_config(*TINY, size, *overrides), prepared_digits(prepared, **data))


def shaken(net: nn.Module, seed: int = 0) -> nn.Module:
    """`net` with weights that all matter: a residual block starts as nothing."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.05)
    return net
