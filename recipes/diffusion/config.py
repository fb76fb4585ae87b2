"""Every setting of a diffusion recipe, with its unit."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.run.config import Run, Section, Training, what
from recipes.common.images.config import Classifier, ImageExport, Images, ImageScores, Sheets, Utility

TIMES = 1000  # training times of the discrete schedules (arXiv:2006.11239, section 4)
ZERO_STAGES = (1, 2, 3)  # of ZeRO, under which the recipe is tested
Prediction = Literal["epsilon", "v", "flow"]
SamplerName = Literal["ddpm", "ddim", "dpm_solver++", "heun", "euler"]


class Unet(Section):
    """diffusers' UNet2DModel: residual blocks at resolutions that halve from level to level."""

    kind: Literal["unet"] = what(..., "the architecture")
    channels: tuple[int, ...] = what(
        ..., "feature maps of each level, from the picture's size down", min_length=1
    )
    layers_per_block: int = what(1, "residual blocks a level on the way down; one more on the way up", ge=1)
    attention_levels: int = what(
        0, "lowest levels whose blocks attend too; the middle of the net always does", ge=0
    )
    attention_head_dim: int = what(32, "channels of an attention head", ge=1)
    norm_num_groups: int = what(8, "groups of a group normalisation", ge=1)
    dropout: float = what(0.0, "dropout within residual blocks", ge=0, lt=1)


class Dit(Section):
    """diffusers' DiTTransformer2DModel (arXiv:2212.09748): a transformer over patches."""

    kind: Literal["dit"] = what(..., "the architecture")
    patch_size: int = what(..., "pixels a side of a patch, the transformer's token", ge=1)
    hidden_size: int = what(..., "width", ge=1)
    num_attention_heads: int = what(..., "attention heads a layer", ge=1)
    num_hidden_layers: int = what(..., "transformer blocks", ge=1)
    dropout: float = what(0.0, "dropout within blocks", ge=0, lt=1)


class Model(Section):
    """The net, and what it predicts of a noisy picture."""

    net: Unet | Dit = Field(..., description="the net", discriminator="kind")
    prediction: Prediction = what(
        ...,
        "what the net says: the noise (arXiv:2006.11239), v (arXiv:2202.00512), or the velocity of a straight path "
        "from picture to noise (arXiv:2210.02747)",
    )
    schedule: Literal["linear", "cosine"] | None = what(
        None, "how noise grows (arXiv:2006.11239, arXiv:2102.09672); flow has its own, the straight path"
    )

    @model_validator(mode="after")
    def _one_schedule(self) -> "Model":
        if self.prediction == "flow" and self.schedule is not None:
            raise ValueError("prediction: flow follows the straight path; leave `schedule` out")
        if self.prediction != "flow" and self.schedule is None:
            raise ValueError(f"prediction: {self.prediction} needs `schedule`: linear or cosine")
        return self


class Train(Training):
    """The optimizer, and how the loss is weighed over times and classes."""

    min_snr_gamma: float | None = what(
        None,
        "signal-to-noise ratio at which a time's weight is cut (arXiv:2303.09556); epsilon and v only",
        gt=0,
    )
    times: Literal["even", "logit_normal"] = what(
        "even", "how often each time is learnt; logit_normal: the middle most (arXiv:2403.03206), flow only"
    )
    condition_dropout: float = what(
        0.1, "share of pictures whose class is hidden, for guidance (arXiv:2207.12598)", ge=0, le=1
    )
    flip: bool = what(False, "mirror half of the pictures")


class Sampler(Section):
    """How pictures are drawn from noise."""

    name: SamplerName = what(
        ...,
        "ddpm (arXiv:2006.11239), ddim (arXiv:2010.02502), dpm_solver++ (2M, arXiv:2211.01095), or heun and euler "
        "(arXiv:2206.00364)",
    )
    steps: int = what(
        ..., "times at which the noise is lowered; heun calls the net twice a step", ge=1, le=TIMES
    )
    guidance: float = what(
        1.0, "how far to go beyond the unconditional prediction (arXiv:2207.12598); 1: none", ge=0
    )


class Samplers(Sampler):
    """The recipe's own sampler, and others to hold beside it."""

    others: tuple[Sampler, ...] = what(
        (), "samplers that are drawn with and scored too; only the first is published"
    )


class Evaluate(ImageScores):
    """What is measured of the net and of the pictures drawn from it."""

    pictures: int | None = what(None, "held-out pictures of the loss; none: all", ge=1)
    time_buckets: int = what(10, "equal parts of the time axis that the loss is given for", ge=1)


class DiffusionConfig(Section):
    """A diffusion model of pictures, from settings to a published pipeline."""

    recipe: Literal["diffusion"] = what(..., "the model family")
    run: Run = Field(..., description="how and where it runs")
    data: Images = Field(..., description="the pictures")
    features: Classifier | None = Field(None, description="the classifier whose features scores look at")
    model: Model = Field(..., description="the net and what it predicts")
    train: Train = Field(..., description="the training stage")
    sampler: Samplers = Field(..., description="how pictures are drawn")
    evaluate: Evaluate = Field(default=Evaluate(), description="the scoring stage")
    sample: Sheets = Field(default=Sheets(), description="the drawing stage")
    utility: Utility | None = Field(None, description="training on synthetic pictures; none: not done")
    export: ImageExport | None = Field(None, description="the published model; none: not exported")
