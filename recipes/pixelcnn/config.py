"""Every setting of a PixelCNN recipe, with its unit."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.run.config import Run, Section, Training, what
from recipes.common.images.config import (
    Anomaly,
    Classifier,
    ImageExport,
    Images,
    ImageScores,
    Sheets,
    Utility,
)


class Model(Section):
    """Two stacks of gated convolutions: one over the rows above a pixel, one over what is left of it in its row."""

    architecture: Literal["gated", "plus"] = what(
        "gated",
        "gated: one resolution, kernels of any width (arXiv:1606.05328); plus: residual blocks down to coarser "
        "resolutions and up again, with short cuts between (PixelCNN++, arXiv:1701.05517)",
    )
    hidden_size: int = what(..., "feature maps of each stack", ge=1)
    blocks: int = what(..., "gated layers of each stack; plus: residual blocks of a resolution, each way", ge=1)
    resolutions: int = what(3, "plus: each has half the pixels a side of the one before", ge=1, le=6)
    kernel: int = what(5, "gated: pixels a side that a layer looks over, odd", ge=3)
    likelihood: Literal["softmax", "logistic_mixture"] = what(
        ...,
        "of a pixel: a probability for each value (arXiv:1606.05328), or discretised logistics (arXiv:1701.05517)",
    )
    mixtures: int = what(5, "logistic_mixture: components", ge=1)
    levels: int = what(
        256, "values of a pixel and channel that are told apart; softmax alone takes fewer", ge=2, le=256
    )
    dropout: float = what(0.0, "share of a layer's gated features that training leaves out", ge=0, lt=1)
    data_init: bool = what(
        True, "scale each layer so that its output on the first pictures has mean 0 and variance 1"
    )

    @model_validator(mode="after")
    def _fits(self) -> "Model":
        if self.kernel % 2 == 0:
            raise ValueError("kernel is odd: a pixel has as many neighbours on either side")
        if 256 % self.levels:
            raise ValueError("levels divides 256: 2, 4, 8, 16, 32, 64, 128 or 256")
        if self.levels < 256 and self.likelihood != "softmax":
            raise ValueError("levels below 256 are for likelihood: softmax")
        return self


class Evaluate(ImageScores):
    """How well the model explains held-out pictures."""

    pictures: int | None = what(None, "held-out pictures; none: all", ge=2)


class Completion(Section):
    """Pictures whose lower half is drawn given the upper one."""

    pictures: int = what(10, "held-out pictures, a column each", ge=1)
    draws: int = what(5, "completions of each", ge=1)


class Compression(Section):
    """Pictures as bytes, without loss."""

    pictures: int = what(200, "held-out pictures that are really coded and decoded", ge=1)


class PixelCnnConfig(Section):
    """A PixelCNN on pictures, from settings to a scored and exported model."""

    recipe: Literal["pixelcnn"] = what(..., "the model family")
    run: Run = Field(..., description="how and where it runs")
    data: Images = Field(..., description="the pictures")
    model: Model = Field(..., description="the net")
    train: Training = Field(..., description="the training stage")
    features: Classifier | None = Field(None, description="the classifier whose features scores look at")
    evaluate: Evaluate = Field(default=Evaluate(), description="the scoring stage")
    sample: Sheets = Field(default=Sheets(), description="the drawing stage")
    completion: Completion | None = Field(None, description="the completion stage; none: it is not there")
    anomaly: Anomaly | None = Field(None, description="the anomaly stage; none: it is not there")
    compression: Compression | None = Field(None, description="the compression stage; none: it is not there")
    utility: Utility | None = Field(None, description="training on synthetic pictures; none: it is not there")
    export: ImageExport = Field(..., description="the published model")

    @model_validator(mode="after")
    def _halves(self) -> "PixelCnnConfig":
        halvings, side = self.model.resolutions - 1, self.data.image_size
        if self.model.architecture == "plus" and side % 2**halvings:
            most = next(count for count in range(halvings, -1, -1) if side % 2**count == 0) + 1
            raise ValueError(
                f"data.image_size = {side} cannot be halved {halvings} times; way out: model.resolutions={most}"
            )
        return self
