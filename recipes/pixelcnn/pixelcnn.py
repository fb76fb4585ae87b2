"""The PixelCNN as a recipe: one turn, whose loss is a sum over pictures in nats."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.train.recipe import Batch, Clock, Loss, Sum
from recipes.common.images.picture_net import PictureNet
from recipes.common.images.sheet import save_sheet
from recipes.common.sample import columns_of, labels_in_turn
from recipes.pixelcnn.net import initialise
from recipes.pixelcnn.nets import build, describe

ZERO_STAGES = (1, 2)
FIRST = 64  # pictures that the initialisation looks at


class PixelCnn(PictureNet):
    """Implements pipeline.train.recipe.Recipe."""

    turns = ("pixelcnn",)
    ema = ("pixelcnn",)
    zero_stages = ZERO_STAGES

    def nets(self) -> dict[str, nn.Module]:
        """The net, scaled on the first training pictures, which are the same ones on every process."""
        net = build(self.config.model, self.shape)
        counted_only = net.head.weight.is_meta  # a net without weights, of which only the shapes are asked
        if self.config.model.data_init and not counted_only:
            split = self.data()
            first = self.collate([split.item(index) for index in range(min(FIRST, split.length))])
            initialise(net.eval(), first["image"], first["label"])
        net.train()
        if self.training.torch_compile:
            net.compile()
        return {"pixelcnn": net}

    def described(self) -> dict[str, Any]:
        return describe(self.config.model, self.shape)

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        nats = -nets["pixelcnn"](batch["image"], batch["label"])
        return Loss(
            nats.sum(), {name: value.detach().sum() for name, value in self._figures(nats, batch).items()}
        )

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        nats = -nets["pixelcnn"](batch["image"], batch["label"])
        return {
            name: Sum(float(value.sum()), len(nats)) for name, value in self._figures(nats, batch).items()
        }

    def _figures(self, nats_B: Tensor, batch: Batch) -> dict[str, Tensor]:
        """What the log says of each picture, each (B,)."""
        return {"bits_per_dim": nats_B / (batch["image"][0].numel() * math.log(2))}

    @torch.no_grad()
    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """`out/samples.png`: sample i of seeds[i] and label i modulo the classes."""
        from recipes.pixelcnn.drawing import sampler_of

        pictures = sampler_of(nets["pixelcnn"])(seeds, labels_in_turn(len(seeds), self.shape.classes))
        save_sheet(pictures, out / "samples.png", columns_of(self.shape.classes))
        return {}
