"""Every setting of a WaveNet recipe, with its unit."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.run.config import Run, Section, Training, what
from recipes.common.audio.config import Audio


class Mel(Section):
    """The net is told the mel frames of the sound that it is to make: it becomes a vocoder."""

    bands: int = what(..., "mel bands of a frame", ge=2)
    window: int = what(..., "samples that a frame looks at", ge=16)
    hop: int = what(..., "samples from one frame to the next", ge=4)

    @model_validator(mode="after")
    def _fits(self) -> "Mel":
        if self.window % 2 or self.hop > self.window:
            raise ValueError("window is even and no shorter than hop: every sample is in a frame")
        return self


class Model(Section):
    """Stacks of dilated causal convolutions: the dilation doubles from layer to layer, and begins anew with a stack."""

    channels: int = what(..., "feature maps of the residual stream", ge=1)
    skip_channels: int = what(..., "feature maps of what all layers hand to the output", ge=1)
    stacks: int = what(1, "stacks", ge=1)
    layers: int = what(
        ..., "layers of a stack; the last one's dilation is 2^(layers - 1) samples", ge=1, le=16
    )
    kernel: int = what(2, "samples that a layer looks at", ge=2, le=8)
    likelihood: Literal["mu_law", "logistic_mixture"] = what(
        ..., "of a sample: a probability for each of 256 mu-law codes, or discretised logistics over 16 bits"
    )
    mixtures: int = what(10, "logistic_mixture: components", ge=1)
    mel: Mel | None = what(None, "mel frames that the net is told; none: it is told the class alone")

    @property
    def receptive_field(self) -> int:
        """Samples before it that decide a sample."""
        return self.kernel + self.stacks * (self.kernel - 1) * (2**self.layers - 1)


class Train(Training):
    """The training stage."""

    segment: int = what(..., "samples of a training segment; what stands before it is read besides", ge=64)


class Evaluate(Section):
    """How well the model explains held-out clips."""

    clips: int | None = what(None, "held-out clips; none: all", ge=2)
    vocoded: int = what(24, "model.mel: held-out clips that are generated again from their frames", ge=2)
    seconds: float = what(2.0, "model.mel: of each of them, from its beginning", gt=0)
    resamples: int = what(200, "bootstrap resamples behind an interval", ge=20)


class Sample(Section):
    """The waves that are generated for people."""

    samples: int = what(8, "waves; wave i has seed `seed + i`", ge=1)
    seconds: float = what(2.0, "of each", gt=0)
    seed: int = what(0, "seed of the first wave", ge=0)


class Export(Section):
    """What is published."""

    licence: str = what(..., "SPDX identifier of the weights")
    waves: int = what(4, "waves by which the export is compared with the live model", ge=1)


class WaveNetConfig(Section):
    """A WaveNet on clips of sound, from settings to a scored and exported model."""

    recipe: Literal["wavenet"] = what(..., "the model family")
    run: Run = Field(..., description="how and where it runs")
    data: Audio = Field(..., description="the clips")
    model: Model = Field(..., description="the net")
    train: Train = Field(..., description="the training stage")
    evaluate: Evaluate = Field(default=Evaluate(), description="the scoring stage")
    sample: Sample = Field(default=Sample(), description="the generating stage")
    export: Export = Field(..., description="the published model")

    @model_validator(mode="after")
    def _fits(self) -> "WaveNetConfig":
        mel = self.model.mel
        if mel and self.train.segment % mel.hop:
            nearest = max(1, round(self.train.segment / mel.hop)) * mel.hop
            raise ValueError(
                f"train.segment = {self.train.segment} is no whole number of model.mel.hop = {mel.hop} samples; "
                f"way out: train.segment={nearest}"
            )
        return self
