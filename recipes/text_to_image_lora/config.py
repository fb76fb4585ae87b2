"""Every setting of a LoRA recipe for a diffusers text-to-image pipeline, with its unit."""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.run.config import Run, Section, Training, how, what
from recipes.common.images.config import Captioned, ImageExport


class Base(Section):
    """The pipeline that learns."""

    pretrained: str = what(
        ...,
        "directory or Hub name of a diffusers pipeline: Stable Diffusion 1 and 2, XL, 3, FLUX.1",
    )


class LoraPictures(Captioned):
    """A handful of pictures, or many."""

    held_out: float = what(
        0.0, "share of pictures held out, by a hash of the key; 0: none, where each is needed", ge=0, lt=1
    )


class Embed(Section):
    """What the base's own encoders make of pictures and captions, once."""

    max_length: int = what(
        77, "tokens of a caption at most, for T5: 3's and FLUX's own default is 256 and 512", ge=8
    )
    batch_size: int = how(4, "pictures or captions a forward", ge=1)


class Train(Training):
    """The optimizer, and the adapters (arXiv:2106.09685) in the denoiser's attention."""

    r: int = what(16, "rank of the adapters", ge=1)
    lora_alpha: float | None = what(None, "scale of the adapters, over r; none: r", gt=0)
    target_modules: tuple[str, ...] | None = what(
        None, "modules that get adapters, by the end of their name; none: the attention's projections"
    )
    min_snr_gamma: float | None = what(
        None,
        "signal-to-noise ratio at which a time's weight is cut (arXiv:2303.09556); bases that predict noise or v only",
        gt=0,
    )
    caption_dropout: float = what(
        0.1, "share of pictures whose caption is hidden, which keeps guidance right", ge=0, le=1
    )


class Sampler(Section):
    """How pictures are drawn; the scheduler is the base's own."""

    steps: int = what(30, "steps of the base's scheduler", ge=1)
    guidance: float = what(5.0, "guidance, as the base's pipeline takes it", ge=0)
    max_length: int = what(77, "tokens of a prompt at most, for T5", ge=8)


class Prompts(Section):
    """The pictures that are drawn for people, by the base and by what was learnt."""

    prompts: tuple[str, ...] = what((), "what is drawn; none: captions of the pictures")
    captions: int = what(4, "captions where no prompts are given", ge=1)
    each: int = what(4, "pictures of a caption; picture i has seed `seed + i`", ge=1)
    seed: int = what(0, "seed of the first picture", ge=0)


class Scores(Section):
    """What is measured: the error of the prediction, before and after."""

    pictures: int | None = what(None, "pictures of each split; none: all", ge=1)
    times: int = what(4, "times and draws of noise a picture", ge=1)


class LoraConfig(Section):
    """LoRA of a published text-to-image pipeline, from settings to weights that diffusers loads."""

    # Stages of other image recipes, which ask for classes.
    features: ClassVar[None] = None
    utility: ClassVar[None] = None

    recipe: Literal["text_to_image_lora"] = what(..., "the model family")
    run: Run = Field(..., description="how and where it runs")
    data: LoraPictures = Field(..., description="the pictures and their captions")
    model: Base = Field(..., description="the pipeline that learns")
    embed: Embed = Field(default=Embed(), description="latents and embeddings, computed once")
    train: Train = Field(..., description="the training stage")
    sampler: Sampler = Field(default=Sampler(), description="how pictures are drawn")
    evaluate: Scores = Field(default=Scores(), description="the scoring stage")
    sample: Prompts = Field(default=Prompts(), description="the drawing stage")
    export: ImageExport | None = Field(None, description="the published adapters; none: not exported")
