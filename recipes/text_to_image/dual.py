"""Which caption belongs to which picture: two small nets that learn it together, and how well that is told.

Shapes: B pictures, M captions that a picture is held against, its own first; L tokens, E numbers that are compared.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.train.recipe import Batch, Clock, Loss, Split, Sum, stacked
from pipeline.train.seeds import derived_seed
from recipes.common.estimate import flops_of
from recipes.common.images.dataset import ImageSplit, PreparedImages
from recipes.common.images.pixels import to_unit
from recipes.common.images.shape import Shape
from recipes.common.scores.classifier import Augmented, ConvolutionalNet
from recipes.diffusion.config import ZERO_STAGES
from recipes.text_to_image.captions import Captions
from recipes.text_to_image.config import Retrieval, Text
from recipes.text_to_image.encoder import build_encoder, states_of

FIRST_SCALE = 10.0  # of the products of two rows of length 1, before it is learnt
TEXT = Text(hidden_size=64, num_hidden_layers=2, num_attention_heads=4)


class DualNet(nn.Module):
    """Both nets, and the scale of their products (arXiv:2103.00020, section 2.3)."""

    def __init__(self, shape: Shape, vocabulary: int, channels: int, features: int):
        super().__init__()
        sized = Shape(shape.image_size, shape.channels, features)
        self.pictures = ConvolutionalNet(sized, channels, features)
        self.words = build_encoder(TEXT, vocabulary)
        self.told = nn.Linear(TEXT.hidden_size, features)
        # A row of one: what has no dimension cannot be cut up by ZeRO.
        self.scale = nn.Parameter(torch.tensor([FIRST_SCALE]).log())

    def of_pictures(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> rows of length 1, fp32 (B, E)."""
        return F.normalize(self.pictures(x_BCHW).float(), dim=-1)

    def of_captions(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        """Rows of length 1, fp32 (N, E): the mean of a caption's states."""
        states_NLD = states_of(self.words, ids_NL, mask_NL)
        seen_NL1 = mask_NL[..., None].to(states_NLD.dtype)
        return F.normalize(
            self.told((states_NLD * seen_NL1).sum(dim=1) / seen_NL1.sum(dim=1)).float(), dim=-1
        )

    def forward(self, x_BCHW: Tensor, ids_BML: Tensor, mask_BML: Tensor) -> Tensor:
        """Logits of each picture's M captions, fp32 (B, M)."""
        rows_BE = self.of_pictures(x_BCHW)
        captions_BME = self.of_captions(ids_BML.flatten(0, 1), mask_BML.flatten(0, 1)).unflatten(
            0, ids_BML.shape[:2]
        )
        return self.scale.float().exp() * torch.einsum("be,bme->bm", rows_BE, captions_BME)


class Contrasted:
    """Implements pipeline.train.recipe.Split: a picture, its caption's tokens, and those of others drawn by index."""

    def __init__(self, split: Split, labels: np.ndarray, captions: Captions, negatives: int, seed: int):
        self.split, self.labels, self.captions, self.negatives, self.seed = (
            split,
            labels,
            captions,
            negatives,
            seed,
        )
        self.length = split.length

    def item(self, index: int) -> dict[str, np.ndarray]:
        sample = self.split.item(index)
        own = int(sample.pop("label"))
        generator = np.random.Generator(np.random.SFC64(derived_seed(self.seed, "negatives", index)))
        others = self.labels[generator.integers(len(self.labels), size=self.negatives)]
        # What happens to be the picture's own caption once more would be a wrong answer that is right.
        same = others == own
        rows = np.concatenate([[own], others])
        return {
            **sample,
            "ids": self.captions.ids[rows],
            "mask": self.captions.mask[rows],
            "same": np.concatenate([[False], same]),
        }


class DualEncoder:
    """Implements pipeline.train.recipe.Recipe. train, held: pictures; None to estimate its size alone."""

    turns = ("model",)
    ema = ("model",)
    zero_stages = ZERO_STAGES
    unit = "images"
    units_per_sample = 1

    def __init__(
        self,
        training: Retrieval,
        shape: Shape,
        captions: Captions,
        train: PreparedImages | None = None,
        held: PreparedImages | None = None,
    ):
        self.training, self.shape, self.captions = training, shape, captions
        self.train, self.held = train, held
        self.optimizers = {"model": training}

    @cached_property
    def flops_per_sample(self) -> float:
        return flops_of(self)  # type: ignore[arg-type]

    def blank(self, count: int) -> Batch:
        """A batch of `count` samples of the right shapes."""
        found, many = self.shape.blank(count), 1 + self.training.negatives
        length = self.captions.ids.shape[1]
        return {
            "image": found["image"],
            "ids": torch.zeros(count, many, length, dtype=torch.int64),
            "mask": torch.ones(count, many, length, dtype=torch.bool),
            "same": torch.zeros(count, many, dtype=torch.bool),
        }

    def data(self) -> Split:
        seed = self.training.seed
        pictures = Augmented(ImageSplit(self.train, seed), seed, flip=False)
        return Contrasted(pictures, self.train.labels, self.captions, self.training.negatives, seed)

    def held_out(self) -> Split | None:
        if self.held is None:
            return None
        split, seed = ImageSplit(self.held, None), self.training.seed
        return Contrasted(split, self.held.labels, self.captions, self.training.negatives, seed + 1)

    collate = staticmethod(stacked)

    def nets(self) -> dict[str, nn.Module]:
        settings = self.training
        net = DualNet(self.shape, self.captions.vocabulary, settings.channels, settings.features)
        net.pictures.to(memory_format=torch.channels_last)
        return {"model": net}

    def count(self, turn: str, batch: Batch) -> int:
        return len(batch["image"])

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        logits_BM = self._logits(nets[turn], batch)
        return Loss(_cross_entropy(logits_BM), {"right": _right(logits_BM)})

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        logits_BM = self._logits(nets["model"], batch)
        loss, count = _cross_entropy(logits_BM), len(logits_BM)
        return {"loss": Sum(float(loss), count), "right": Sum(float(_right(logits_BM)), count)}

    def _logits(self, net: nn.Module, batch: Batch) -> Tensor:
        logits_BM = net(to_unit(batch["image"]), batch["ids"], batch["mask"])
        return logits_BM.masked_fill(batch["same"], float("-inf"))

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """It draws nothing."""
        return {}

    def described(self) -> dict[str, Any]:
        """What builds the net again."""
        settings = self.training
        return {
            "image_size": self.shape.image_size,
            "image_channels": self.shape.channels,
            "vocabulary": self.captions.vocabulary,
            "channels": settings.channels,
            "features": settings.features,
        }


def _cross_entropy(logits_BM: Tensor) -> Tensor:
    """Summed over pictures; a picture's own caption stands first."""
    own_B = torch.zeros(len(logits_BM), dtype=torch.int64, device=logits_BM.device)
    return F.cross_entropy(logits_BM, own_B, reduction="sum")


def _right(logits_BM: Tensor) -> Tensor:
    return (logits_BM.detach().argmax(dim=1) == 0).float().sum()
