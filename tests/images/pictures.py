"""What tests of scores share: prepared pictures without the stage that prepares them, and a classifier of digits."""

import json
from pathlib import Path

import numpy as np
import torch

from pipeline.train.engine import Runtime
from pipeline.train.loop import Trainer, steps
from recipes.common.images import digits
from recipes.common.images.config import Classifier
from recipes.common.images.dataset import PreparedImages
from recipes.common.images.shape import Shape
from recipes.common.scores import features
from recipes.common.scores.classifier import ImageClassifier

ALONE = Runtime(rank=0, world_size=1, device=torch.device("cpu"), zero_stage=None)
HELD_OUT = 300


def settings(**given) -> Classifier:
    """A classifier that learns the digits in two seconds."""
    chosen = {"learning_rate": 3e-3, "max_steps": 80, "train_batch_size": 64, "channels": 16, "features": 24}
    sizes = {"per_device_train_batch_size": 64, "warmup_steps": 4, "bf16": False}
    return Classifier(**(chosen | sizes | given))


def digit_pictures() -> tuple[PreparedImages, PreparedImages]:
    """1,497 training and 300 held-out digits, in an order that is no order."""
    images, labels = digits.load()
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order].astype(np.int64)
    names = digits.CLASSES["digits"]
    parts = (slice(HELD_OUT, None), slice(0, HELD_OUT))
    train, held_out = (PreparedImages(images[part], labels[part], names) for part in parts)
    return train, held_out


def write_prepared(directory: Path, train: PreparedImages, held_out: PreparedImages) -> Path:
    """The files of a `prepare` artifact."""
    directory.mkdir(parents=True)
    for split, pictures in (("train", train), ("held_out", held_out)):
        np.save(directory / f"{split}.images.npy", pictures.images)
        np.save(directory / f"{split}.labels.npy", pictures.labels)
    (directory / "classes.json").write_text(json.dumps(train.classes))
    return directory


def write_features(directory: Path, train: PreparedImages, held_out: PreparedImages) -> Path:
    """The files of a `features` artifact."""
    directory.mkdir(parents=True)
    trainer = Trainer(ImageClassifier(settings(), Shape.of(train), train, held_out), ALONE)
    for _ in steps(trainer):
        pass
    features.publish(directory, trainer.weights("model"), Shape.of(train), settings(), held_out)
    return directory
