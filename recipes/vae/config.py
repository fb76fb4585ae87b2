"""Every setting of a VAE recipe, with its unit."""

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

ZERO_STAGES = (1, 2)  # of ZeRO, under which the recipe is tested


class Model(Section):
    """A ladder of latent groups from the coarsest to the finest, or one grid of codes."""

    kind: Literal["vae", "vq"] = what(..., "vae: Gaussian latents; vq: a codebook (arXiv:1711.00937)")
    groups: tuple[tuple[int, int], ...] = what(
        ..., "(resolution, latent channels) from the coarsest; one group: the plain VAE", min_length=1
    )
    patch: int = what(
        1, "pixels a side that the nets take as one position; a picture is a whole number of them", ge=1
    )
    hidden_size: int = what(..., "feature maps", ge=1)
    blocks: int = what(1, "residual blocks a resolution in the encoder, and a group in the decoder", ge=1)
    likelihood: Literal["bernoulli", "logistic_mixture", "gaussian"] = what(
        ..., "of 8-bit pixels; bernoulli: of binary ones"
    )
    mixtures: int = what(5, "logistic_mixture: components a pixel and channel", ge=1)
    codes: int = what(128, "vq: vectors in the codebook", ge=2)
    commitment: float = what(
        0.25, "vq: weight that holds encodings near their codes (arXiv:1711.00937, eq. 3)", ge=0
    )

    @model_validator(mode="after")
    def _coarse_to_fine(self) -> "Model":
        resolutions = [resolution for resolution, _ in self.groups]
        if any(min(group) < 1 for group in self.groups) or sorted(resolutions) != resolutions:
            raise ValueError(
                "groups go from the coarsest resolution to the finest, with channels of 1 or more"
            )
        if self.kind == "vq" and len(self.groups) > 1:
            raise ValueError("kind: vq has one group, its grid of codes")
        return self


class Train(Training):
    """The optimizer, and how the terms of the bound are weighed while it learns."""

    beta: float = what(1.0, "weight of the KL divergence; 1: the bound itself", ge=0)
    kl_warmup_steps: int | float = what(
        0, "optimizer steps over which the KL's weight grows to beta; below 1: a share of max_steps", ge=0
    )
    free_bits: float = what(
        0.0, "nats of each group and picture whose KL is not charged (arXiv:1606.04934, eq. 15)", ge=0
    )


class Evaluate(ImageScores):
    """How well the model explains held-out pictures."""

    pictures: int | None = what(None, "held-out pictures; none: all", ge=2)
    importance_samples: int = what(
        16, "latents a picture of the importance-weighted bound (arXiv:1509.00519)", ge=1
    )


class Compression(Section):
    """Pictures as bytes, with loss and without."""

    pictures: int = what(200, "held-out pictures that are really coded and decoded", ge=1)
    steps: tuple[float, ...] = what(
        (0.25, 0.5, 0.75, 1.0, 1.25, 1.5), "widths to which latents are rounded, in prior standard deviations"
    )


class VaeConfig(Section):
    """A VAE on pictures, from settings to a scored and exported model."""

    recipe: Literal["vae"] = what(..., "the model family")
    run: Run = Field(..., description="how and where it runs")
    data: Images = Field(..., description="the pictures")
    model: Model = Field(..., description="the net")
    train: Train = Field(..., description="the training stage")
    features: Classifier | None = Field(None, description="the classifier whose features scores look at")
    evaluate: Evaluate = Field(default=Evaluate(), description="the scoring stage")
    sample: Sheets = Field(default=Sheets(), description="the drawing stage")
    anomaly: Anomaly | None = Field(None, description="the anomaly stage; none: it is not there")
    compression: Compression | None = Field(None, description="the compression stage; none: it is not there")
    utility: Utility | None = Field(None, description="training on synthetic pictures; none: it is not there")
    export: ImageExport = Field(..., description="the published model")
