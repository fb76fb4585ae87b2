"""Every setting of a captioning recipe, with its unit."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.lm.config import Lora
from pipeline.run.config import Run, Section, Training, how, what
from recipes.common.images.config import Captioned

ZERO_STAGES = (1, 2, 3)  # of ZeRO, under which the recipe is tested


class Tower(Section):
    """Sizes of a transformer that begins with fresh weights."""

    hidden_size: int = what(128, "width", ge=8)
    num_hidden_layers: int = what(3, "layers", ge=1)
    num_attention_heads: int = what(4, "attention heads a layer", ge=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> "Tower":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        return self


class Model(Section):
    """LLaVA's arrangement (arXiv:2304.08485): a vision encoder, a projector and a decoder, fresh or pretrained."""

    pretrained: str | None = what(
        None,
        "directory or Hub name of a model that transformers loads as AutoModelForImageTextToText; none: fresh, of the "
        "sizes below",
    )
    prompt: str = what("Describe the picture.", "what a pretrained model is asked")
    patch_size: int = what(4, "pixels a side of a patch, the encoder's token", ge=1)
    vision: Tower = Field(default=Tower(), description="the vision encoder (SigLIP's)")
    text: Tower = Field(default=Tower(), description="the decoder (Llama's)")
    least: int = what(
        2, "captions that a word must be in to have a token of its own; rarer ones share one", ge=1
    )


class Train(Training):
    """The optimizer; adapters where the model is pretrained."""

    lora: Lora | None = Field(None, description="low-rank adapters; none: all weights learn")
    max_length: int = what(32, "tokens of a caption at most; what is beyond is cut off and counted", ge=2)


class Decoding(Section):
    """Captions are the likeliest token after token."""

    max_new_tokens: int = what(32, "tokens of a caption at most", ge=1)
    batch_size: int = how(
        32, "pictures at a time; always as many, for a product's rounding depends on it", ge=1
    )


class Scores(Section):
    """What is measured on held-out pictures."""

    pictures: int = what(400, "held-out pictures that are captioned", ge=10)
    resamples: int = what(200, "resamples behind an interval", ge=20)


class Page(Section):
    """The pictures that are shown with their captions."""

    pictures: int = what(24, "held-out pictures", ge=1)


class Export(Section):
    """What is published."""

    licence: str = what(..., "SPDX identifier of the weights")
    pictures: int = what(8, "held-out pictures whose captions are compared with the live model's", ge=1)


class CaptioningConfig(Section):
    """Words from pictures, from settings to a published model."""

    # Stages of other image recipes, which ask for classes.
    features: ClassVar[None] = None
    utility: ClassVar[None] = None

    recipe: Literal["captioning"] = what(..., "the model family")
    run: Run = Field(..., description="how and where it runs")
    data: Captioned = Field(..., description="the pictures and their captions")
    model: Model = Field(default=Model(), description="the model")
    train: Train = Field(..., description="the training stage")
    decoding: Decoding = Field(default=Decoding(), description="how captions are written")
    evaluate: Scores = Field(default=Scores(), description="the scoring stage")
    sample: Page = Field(default=Page(), description="the page of pictures and captions")
    export: Export | None = Field(None, description="the published model; none: not exported")
