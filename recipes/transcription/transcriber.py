"""Words from speech as a recipe: one turn, whose loss is a sum over the tokens of transcripts in nats.

Shapes: B clips, T samples, M mel bands, F frames of 10 ms, L tokens, V entries of the vocabulary.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.order import Order
from pipeline.train.recipe import Batch, Clock, Loss, Split, Sum
from recipes.common.audio.dataset import PreparedAudio
from recipes.common.one_net import OneNet
from recipes.transcription.config import RATE, ZERO_STAGES, Augment, TranscriptionConfig
from recipes.transcription.model import begun, config_of, pretrained_config
from recipes.transcription.processor import Ears, encoded

IGNORED = -100
HOP = RATE // 100


class Clips:
    """Implements pipeline.train.recipe.Split: mel frames of a clip and the tokens of its transcript, by index.

    An item is {"features": fp32 (M, F), "frames": int64 (), "tokens": int64 (L,)}: the frames that the clip fills, of
    the F that the model hears. What a clip goes through is a pure function of (seed, index).
    """

    def __init__(
        self, clips: PreparedAudio, ears: Ears, max_length: int, seed: int | None, augment: Augment | None
    ):
        self.clips, self.ears, self.seed, self.augment = clips, ears, seed, augment
        tokens = encoded(ears.processor, list(clips.classes))
        self.tokens = [np.array(ids) for ids in tokens]
        lengths = np.array([len(ids) for ids in tokens])
        self.rows = np.flatnonzero(lengths[clips.labels] <= max_length)
        self.length = len(self.rows)
        self._order = Order(seed, self.length)

    def item(self, index: int) -> dict[str, np.ndarray]:
        row = int(self.rows[self._order.row(index)])
        wave, random = self.clips.clip(row), np.random.default_rng((self.seed or 0, index))
        if self.augment:
            wave = at_speed(wave, float(random.choice(self.augment.speeds)))
        features = self.ears([wave])[0].numpy()
        frames = min(-(-len(wave) // HOP), features.shape[1])
        if self.augment:
            features = masked(features, frames, self.augment, random)
        return {
            "features": features,
            "frames": np.array(frames),
            "tokens": self.tokens[int(self.clips.labels[row])],
        }


def at_speed(wave_T: np.ndarray, speed: float) -> np.ndarray:
    """The clip faster (above 1) or slower, its pitch with it: as a tape does, by lines between samples."""
    if speed == 1:
        return wave_T
    places = np.arange(int(len(wave_T) / speed)) * speed
    return np.interp(places, np.arange(len(wave_T)), wave_T).astype(np.int16)


def masked(features_MF: np.ndarray, frames: int, augment: Augment, random: np.random.Generator) -> np.ndarray:
    """The frames with stretches of time and of bands at their mean, which hides what was there."""
    found, mean = features_MF.copy(), features_MF[:, :frames].mean()
    for _ in range(augment.time_masks):
        width = int(random.integers(0, min(augment.time_frames, frames // 2) + 1))
        start = int(random.integers(0, frames - width + 1))
        found[:, start : start + width] = mean
    for _ in range(augment.band_masks):
        width = int(random.integers(0, min(augment.band_width, len(found) // 2) + 1))
        start = int(random.integers(0, len(found) - width + 1))
        found[start : start + width] = mean
    return found


class SpokenNats(nn.Module):
    """The model with its losses inside, so that an engine wraps one module.

    The CTC head is for training alone: it asks of the encoder by itself which tokens are said, and where. Its blank is
    the end of the text.
    """

    def __init__(self, model: Any, ctc: bool, blank: int):
        super().__init__()
        self.model, self.blank = model, blank
        settings = model.config
        self.ctc = nn.Linear(settings.d_model, settings.vocab_size) if ctc else None

    def forward(
        self, features: Tensor, frames: Tensor, given: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(nats of each token (B L,), 0 where `labels` is IGNORED; CTC's nats of each clip (B,), 0 without it)."""
        found = self.model(input_features=features, decoder_input_ids=given, use_cache=False)
        logits_BLV = found.logits.float()
        nats = F.cross_entropy(
            logits_BLV.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        if self.ctc is None:
            return nats, nats.new_zeros(len(features))
        log_BSV = self.ctc(found.encoder_last_hidden_state).float().log_softmax(-1)
        said = (labels != IGNORED) & (labels != self.blank)
        # A transcript of more tokens than the encoder has places for has no alignment: it counts as 0 here.
        ctc = F.ctc_loss(
            log_BSV.transpose(0, 1),
            labels[said],
            (frames + 1) // 2,
            said.sum(1),
            blank=self.blank,
            reduction="none",
            zero_infinity=True,
        )
        return nats, ctc


class Transcriber(OneNet):
    """Implements pipeline.train.recipe.Recipe."""

    turns = ("transcriber",)
    ema = ("transcriber",)
    zero_stages = ZERO_STAGES
    unit = "clips"
    flops_per_sample = 0.0  # CTC's dynamic programme has no counted form

    def __init__(self, config: TranscriptionConfig, prepared: Path, processor: Path):
        """prepared, processor: the artifacts."""
        super().__init__(config, prepared)
        self.ears = Ears(processor)
        self.end = self.ears.processor.tokenizer.eos_token_id

    @cached_property
    def settings(self) -> Any:
        """The model's config."""
        model = self.config.model
        if model.pretrained:
            return pretrained_config(model.pretrained)
        return config_of(model, self.ears, self.training.max_length)

    def data(self) -> Split:
        return self._clips("train", self.training.seed, self.training.augment)

    def held_out(self) -> Split:
        return self._clips("held_out", None, None)

    def _clips(self, name: str, seed: int | None, augment: Augment | None) -> Clips:
        clips = PreparedAudio.open(self.prepared, name)
        return Clips(clips, self.ears, self.training.max_length, seed, augment)

    def collate(self, items: list[dict[str, np.ndarray]]) -> Batch:  # type: ignore[override]
        """Transcripts behind the prefix, filled up on the right; the label of a place is the token behind it."""
        prefix, longest = self.ears.prefix, max(len(item["tokens"]) for item in items)
        given_BL = torch.full((len(items), len(prefix) + longest - 1), self.end)
        labels_BL = torch.full_like(given_BL, IGNORED)
        given_BL[:, : len(prefix)] = torch.tensor(prefix)
        for row, item in enumerate(items):
            tokens, first = torch.from_numpy(item["tokens"]), len(prefix) - 1
            given_BL[row, len(prefix) : len(prefix) + len(tokens) - 1] = tokens[:-1]
            labels_BL[row, first : first + len(tokens)] = tokens
        return {
            "features": torch.from_numpy(np.stack([item["features"] for item in items])),
            "frames": torch.from_numpy(np.stack([item["frames"] for item in items])),
            "given": given_BL,
            "labels": labels_BL,
        }

    def nets(self) -> dict[str, nn.Module]:
        model = begun(self.settings, self.config.model.pretrained, self.training.lora)
        if self.training.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return {"transcriber": SpokenNats(model.train(), self.training.ctc_weight > 0, self.end)}

    def count(self, turn: str, batch: Batch) -> int:
        """Tokens of transcripts."""
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        nats, ctc = (each.sum() for each in nets["transcriber"](**batch))
        return Loss(nats + self.training.ctc_weight * ctc, {"nats": nats.detach(), "ctc_nats": ctc.detach()})

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        nats, _ = nets["transcriber"](**batch)
        return {"loss": Sum(float(nats.double().sum()), self.count("transcriber", batch))}

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """Nothing: clips are heard with their transcripts at the end."""
        return {}
