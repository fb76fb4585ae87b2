"""The WaveNet as a recipe: one turn, whose loss is a sum over samples in nats."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.train.recipe import Batch, Clock, Loss, Sum
from recipes.common.audio.dataset import PreparedAudio, Segments
from recipes.common.audio.pictures import save_sheet_of_sounds
from recipes.common.one_net import OneNet
from recipes.common.sample import labels_in_turn
from recipes.wavenet.config import WaveNetConfig
from recipes.wavenet.generate import sampler_of
from recipes.wavenet.net import WaveNet
from recipes.wavenet.nets import described

ZERO_STAGES = (1, 2)


class WaveNetRecipe(OneNet):
    """Implements pipeline.train.recipe.Recipe."""

    turns = ("wavenet",)
    ema = ("wavenet",)
    zero_stages = ZERO_STAGES
    unit = "segments"

    def __init__(self, config: WaveNetConfig, prepared: Path, classes: tuple[str, ...] | None = None):
        """prepared: the artifact of the clips; classes: their names, where they are not there yet."""
        super().__init__(config, prepared)
        self.classes = PreparedAudio.open(prepared, "train").classes if classes is None else classes
        with torch.device("meta"):
            net = self._net()
        self.left, self.right = net.left, net.right

    def _net(self) -> WaveNet:
        return WaveNet(**self.described()["net"])

    def nets(self) -> dict[str, nn.Module]:
        net = self._net()
        if self.training.torch_compile:
            net.compile()
        return {"wavenet": net}

    def described(self) -> dict[str, Any]:
        return described(self.config.model, self.config.data.sample_rate, self.classes)

    def blank(self, count: int) -> Batch:
        """Segments of silence of the first class."""
        length = self.left + self.training.segment + self.right
        return {
            "wave": torch.zeros(count, length, dtype=torch.int16),
            "absent": torch.zeros(count, dtype=torch.int64),
            "length": torch.full((count,), self.training.segment),
            "label": torch.zeros(count, dtype=torch.int64),
        }

    def data(self) -> Segments:
        return self._segments("train", self.training.seed)

    def held_out(self) -> Segments:
        return self._segments("held_out", None)

    def _segments(self, split: str, seed: int | None) -> Segments:
        clips = PreparedAudio.open(self.prepared, split)
        return Segments(clips, self.training.segment, self.left, self.right, seed)

    def count(self, turn: str, batch: Batch) -> int:
        """Samples that are real: the last segment of a clip is shorter."""
        return int(batch["length"].sum())

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        nats = self._nats(nets, batch)
        return Loss(nats, {"bits_per_sample": nats.detach() / math.log(2)})

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        nats = float(self._nats(nets, batch).double())
        return {"bits_per_sample": Sum(nats / math.log(2), self.count("wavenet", batch))}

    def _nats(self, nets: dict[str, nn.Module], batch: Batch) -> Tensor:
        """Of the real samples of a batch, 0-d."""
        log_prob_BT = nets["wavenet"](batch["wave"], batch["absent"], batch["label"])
        places = torch.arange(log_prob_BT.shape[1], device=log_prob_BT.device)
        real_BT = places < batch["length"][:, None]
        return -torch.where(real_BT, log_prob_BT, 0).sum()

    @torch.no_grad()
    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """`out/samples.png`: wave and spectrogram of sample i of seeds[i], of label i modulo the classes or clip i."""
        length = round(self.config.sample.seconds * self.config.data.sample_rate)
        like, labels = requests(self.config, self.prepared, len(seeds))
        waves = sampler_of(nets["wavenet"], length, like)(seeds, labels)
        save_sheet_of_sounds(waves, self.config.data.sample_rate, out / "samples.png", columns=4)
        return {}


def requests(config: WaveNetConfig, prepared: Path, count: int) -> tuple[list[Any] | None, list[int]]:
    """Held-out clips that are to be spoken anew, and the label of each wave: that of its clip, or each in turn."""
    held_out = PreparedAudio.open(prepared, "held_out")
    if config.model.mel is None:
        return None, labels_in_turn(count, len(held_out.classes))
    places = [place % len(held_out) for place in range(count)]
    return [held_out.clip(place) for place in places], [
        max(0, int(held_out.labels[place])) for place in places
    ]
