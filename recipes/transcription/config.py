"""Every setting of a transcription recipe, with its unit."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.lm.config import Lora
from pipeline.run.config import Run, Section, Training, how, what
from recipes.common.audio.config import Transcribed

ZERO_STAGES = (1, 2, 3)  # of ZeRO, under which the recipe is tested
RATE = 16_000  # samples a second that Whisper's mel filters are made for
SECONDS = 30  # that a pretrained Whisper hears at once


class Model(Section):
    """Whisper's encoder-decoder (arXiv:2212.04356), fresh or pretrained."""

    pretrained: str | None = what(
        None, "directory or Hub name of a Whisper model; none: fresh, of the sizes below"
    )
    language: str | None = what(
        None, "pretrained on many languages: the one that is spoken, such as fr; none: the model finds it out"
    )
    hidden_size: int = what(128, "width", ge=8)
    encoder_layers: int = what(3, "layers of the encoder", ge=1)
    decoder_layers: int = what(2, "layers of the decoder", ge=1)
    num_attention_heads: int = what(4, "attention heads a layer", ge=1)
    mel_bands: int = what(80, "mel bands of a frame of 10 ms", ge=8)
    dropout: float = what(0.1, "share of values that are left out while it learns", ge=0, lt=1)
    vocabulary_size: int = what(
        400, "byte-level pieces of transcripts, with the 256 bytes; special tokens come besides", ge=256
    )

    @model_validator(mode="after")
    def _fits(self) -> "Model":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.language and not self.pretrained:
            raise ValueError("language is told to a pretrained model; a fresh one learns what is spoken")
        return self


class Augment(Section):
    """What a clip goes through while it is learnt from, drawn anew each time; none of it when a model is scored."""

    speeds: tuple[float, ...] = what((1.0,), "one of them is drawn: 0.9 is slower and lower")
    time_masks: int = what(0, "stretches of frames that are blanked (SpecAugment, arXiv:1904.08779)", ge=0)
    time_frames: int = what(20, "frames of such a stretch at most", ge=1)
    band_masks: int = what(0, "stretches of mel bands that are blanked", ge=0)
    band_width: int = what(12, "bands of such a stretch at most", ge=1)

    @model_validator(mode="after")
    def _fits(self) -> "Augment":
        if not self.speeds or not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise ValueError("speeds holds one or more numbers from 0.5 to 2")
        return self


class Train(Training):
    """The optimizer; adapters where the model is pretrained."""

    lora: Lora | None = Field(None, description="low-rank adapters; none: all weights learn")
    max_length: int = what(
        64, "tokens of a transcript at most; a clip with more is left out and counted", ge=2
    )
    ctc_weight: float = what(
        0.0,
        "weight of a CTC loss on the encoder besides (arXiv:1609.06773), which teaches a fresh one where sounds lie",
        ge=0,
    )
    augment: Augment = Field(default=Augment(), description="what clips go through")


class Decoding(Section):
    """Transcripts are the likeliest token after token."""

    max_new_tokens: int = what(64, "tokens of a transcript at most", ge=1)
    batch_size: int = how(32, "clips at a time; always as many, for a product's rounding depends on it", ge=1)


class Scores(Section):
    """What is measured on held-out clips."""

    clips: int | None = what(None, "held-out clips; none: all", ge=10)
    resamples: int = what(1000, "resamples behind an interval", ge=20)


class Page(Section):
    """The clips that can be heard with their transcripts."""

    clips: int = what(16, "held-out clips", ge=1)


class Export(Section):
    """What is published."""

    licence: str = what(..., "SPDX identifier of the weights")
    clips: int = what(8, "held-out clips whose transcripts are compared with the live model's", ge=1)


class TranscriptionConfig(Section):
    """Words from speech, from settings to a published model."""

    recipe: Literal["transcription"] = what(..., "the model family")
    run: Run = Field(..., description="how and where it runs")
    data: Transcribed = Field(..., description="the clips and what is said in them")
    model: Model = Field(default=Model(), description="the model")
    train: Train = Field(..., description="the training stage")
    decoding: Decoding = Field(default=Decoding(), description="how transcripts are written")
    evaluate: Scores = Field(default=Scores(), description="the scoring stage")
    sample: Page = Field(default=Page(), description="the clips that can be heard")
    export: Export = Field(..., description="the published model")

    @property
    def longest(self) -> float:
        """Seconds of the longest clip, at the slowest speed."""
        return self.data.max_seconds / min(1.0, *self.train.augment.speeds)

    @model_validator(mode="after")
    def _fits(self) -> "TranscriptionConfig":
        if self.longest > SECONDS:
            raise ValueError(
                f"data.max_seconds = {self.data.max_seconds:g} lasts {self.longest:.1f} s at the slowest of "
                f"train.augment.speeds; Whisper hears {SECONDS}"
            )
        if self.data.sample_rate != RATE:
            raise ValueError(
                f"data.sample_rate = {self.data.sample_rate}; Whisper hears {RATE}; way out: data.sample_rate={RATE} "
                "data.on_rate=resample"
            )
        if self.train.lora and not self.model.pretrained:
            raise ValueError("train.lora is for a pretrained model: a fresh one learns with every weight")
        if self.train.lora and self.train.ctc_weight:
            raise ValueError("train.ctc_weight needs an encoder that learns as a whole: train.lora=null")
        return self
