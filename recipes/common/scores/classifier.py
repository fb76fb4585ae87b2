"""The classifier whose features the scores look at: a small convolutional net and its recipe.

Shapes: B pictures, C channels, H rows, W columns, F features, K classes.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.train.recipe import Batch, Clock, Loss, Split, Sum, stacked
from recipes.common.estimate import flops_of
from recipes.common.images.config import Classifier
from recipes.common.images.dataset import ImageSplit, PreparedImages
from recipes.common.images.pixels import to_unit
from recipes.common.images.shape import Shape
from recipes.common.noise import uniform
from recipes.common.training import trained_here

ZERO_STAGES = (1, 2, 3)
LAST_SIDE = 8  # strided layers halve a picture until its side is at most this
CHUNK = 500  # pictures a forward, outside of training
SHIFT = 1 / 12  # of a side: how far augmentation moves a picture, in each direction; at least one pixel


def of_learnt_classes(images: PreparedImages, train: PreparedImages) -> PreparedImages:
    """The pictures of `images` whose class occurs in `train`: a class kept out of training cannot be asked for."""
    known = np.isin(images.labels, np.unique(train.labels))
    if known.all():
        return images
    return PreparedImages(images.images[known], images.labels[known], images.classes)


class ConvolutionalNet(nn.Module):
    """Strided convolutions, one hidden layer, one linear layer.

    No layer looks at the batch. Only the smallest maps are normalised (GroupNorm, one group): over all maps it
    would cost more than the convolutions themselves.
    """

    def __init__(self, shape: Shape, channels: int, features: int):
        super().__init__()
        side, before, width, layers = shape.image_size, shape.channels, channels, []
        while side > LAST_SIDE:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.ReLU()]
            side, before, width = (side + 1) // 2, width, 2 * channels
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.GroupNorm(1, width), nn.ReLU()]
        self.maps = nn.Sequential(*layers)
        self.hidden = nn.Linear(width * side * side, features)
        self.classes = nn.Linear(features, shape.classes)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, F), after its activation."""
        # ZeRO computes in the weights' precision, without autocast.
        x_BCHW = x_BCHW.to(self.hidden.weight.dtype)
        return F.silu(self.hidden(self.maps(x_BCHW).flatten(1)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> logits (B, K)."""
        return self.classes(self.features(x_BCHW))


@torch.inference_mode()
def classes_of(net: nn.Module, pictures: np.ndarray) -> np.ndarray:
    """The likeliest class of each picture uint8 (N, H, W, C), int64 (N,), in the precision of the net's weights."""
    device = next(net.parameters()).device
    chunks = (torch.tensor(pictures[start : start + CHUNK]) for start in range(0, len(pictures), CHUNK))
    return torch.cat([net(to_unit(chunk.to(device))).argmax(dim=1).cpu() for chunk in chunks]).numpy()


@dataclass(frozen=True)
class Augmented:
    """A split whose pictures are shifted, and flipped left to right where asked: a function of (seed, index).

    A shift fills in from the picture's own border.
    """

    split: Split
    seed: int
    flip: bool

    @property
    def length(self) -> int:
        return self.split.length

    def item(self, index: int) -> dict[str, np.ndarray]:
        item = self.split.item(index)
        down, right, coin = uniform(self.seed, "augment", index, (3,))
        image = shifted(item["image"], float(down), float(right))
        return {**item, "image": image[:, ::-1].copy() if self.flip and coin < 0.5 else image}


def shifted(image: np.ndarray, down: float, right: float) -> np.ndarray:
    """`image` (H, W, C) moved by up to SHIFT of its side; `down`, `right` in [0, 1), 0.5 is no move."""
    reach = max(1, round(SHIFT * image.shape[0]))
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    top, left = (int(part * (2 * reach + 1)) for part in (down, right))
    return padded[top : top + image.shape[0], left : left + image.shape[1]]


class ImageClassifier:
    """Implements pipeline.train.recipe.Recipe.

    train, held_out: labelled pictures; None to estimate its size alone. augment, flip: classical augmentation.
    """

    turns = ("model",)
    ema = ("model",)
    zero_stages = ZERO_STAGES
    unit = "images"
    units_per_sample = 1

    def __init__(
        self,
        training: Classifier,
        shape: Shape,
        train: PreparedImages | None = None,
        held_out: PreparedImages | None = None,
        augment: bool = False,
        flip: bool = False,
    ):
        self.training, self.shape = training, shape
        self.train, self.held, self.augment, self.flip = train, held_out, augment, flip
        self.optimizers = {"model": training}

    @cached_property
    def flops_per_sample(self) -> float:
        return flops_of(self)

    def blank(self, count: int) -> Batch:
        """A batch of `count` samples of the right shapes."""
        return self.shape.blank(count)

    def data(self) -> Split:
        split = ImageSplit(self.train, self.training.seed)
        return Augmented(split, self.training.seed, self.flip) if self.augment else split

    def held_out(self) -> Split | None:
        return ImageSplit(self.held, None) if self.held else None

    collate = staticmethod(stacked)

    def nets(self) -> dict[str, nn.Module]:
        net = ConvolutionalNet(self.shape, self.training.channels, self.training.features)
        return {"model": net.to(memory_format=torch.channels_last)}

    def count(self, turn: str, batch: Batch) -> int:
        return len(batch["label"])

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        logits_BK = nets[turn](to_unit(batch["image"])).float()
        return Loss(
            F.cross_entropy(logits_BK, batch["label"], reduction="sum"), {"right": _right(logits_BK, batch)}
        )

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        logits_BK = nets["model"](to_unit(batch["image"])).float()
        loss, count = F.cross_entropy(logits_BK, batch["label"], reduction="sum"), len(batch["label"])
        return {"loss": Sum(float(loss), count), "accuracy": Sum(float(_right(logits_BK, batch)), count)}

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """A classifier draws nothing."""
        return {}


def trained_net(recipe: ImageClassifier) -> nn.Module:
    """The recipe's net after training in this process, with the EMA's weights where there is one."""
    trainer = trained_here(recipe)
    net = recipe.nets()["model"]
    net.load_state_dict(trainer.weights("model", ema=bool(recipe.training.ema_decay)))
    return net.to(trainer.runtime.device)


def _right(logits_BK: Tensor, batch: Batch) -> Tensor:
    return (logits_BK.detach().argmax(dim=1) == batch["label"]).float().sum()
