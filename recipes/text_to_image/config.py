"""Every setting of a text-to-image recipe: those of a diffusion model, the text encoder, captions and their scores."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.run.config import Run, Section, Training, what
from recipes.common.images.config import Captioned, ImageExport, ImageScores
from recipes.diffusion.config import Model, Samplers, Train


class Text(Section):
    """How a caption becomes what the net attends to: by an encoder that learns with the net, or by a frozen one."""

    pretrained: str | None = what(
        None,
        "directory or Hub name of an encoder that stays as it is (CLIP's or T5's, or any model that transformers "
        "loads); its states are computed once; none: one of the sizes below learns with the net",
    )
    max_length: int = what(24, "tokens of a caption at most; what is beyond is cut off and counted", ge=2)
    least: int = what(
        2, "captions that a word must be in to have a token of its own; rarer ones share one", ge=1
    )
    hidden_size: int = what(128, "width of an encoder that learns", ge=8)
    num_hidden_layers: int = what(2, "its layers", ge=1)
    num_attention_heads: int = what(4, "its attention heads a layer", ge=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> "Text":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        return self


class Retrieval(Training):
    """Two small nets, of pictures and of captions, that learn which belong together; scores look through them."""

    channels: int = what(32, "feature maps of the picture net's first layer", ge=1)
    features: int = what(64, "numbers that a picture and a caption are compared in", ge=2)
    negatives: int = what(31, "other captions that a picture's own is told from, drawn anew each time", ge=1)


class CaptionScores(ImageScores):
    """What is measured of pictures drawn from captions."""

    features: tuple[Literal["retrieval", "efficientnet_lite0"], ...] = what(
        ("retrieval",), "networks in whose features distances are taken"
    )
    pictures: int | None = what(None, "held-out pictures of the loss; none: all", ge=1)
    time_buckets: int = what(10, "equal parts of the time axis that the loss is given for", ge=1)
    captions: int = what(200, "captions of each split that are drawn, a picture each", ge=10)


class Page(Section):
    """The pictures that are drawn for people."""

    prompts: tuple[str, ...] = what((), "what is drawn; none: held-out captions")
    captions: int = what(12, "held-out captions where no prompts are given", ge=1)
    each: int = what(6, "pictures of a caption; picture i has seed `seed + i`", ge=1)
    seed: int = what(0, "seed of the first picture", ge=0)


class TextToImageConfig(Section):
    """Pictures from words, from settings to a published pipeline."""

    # Stages of other image recipes, which ask for classes.
    features: ClassVar[None] = None
    utility: ClassVar[None] = None

    recipe: Literal["text_to_image"] = what(..., "the model family")
    run: Run = Field(..., description="how and where it runs")
    data: Captioned = Field(..., description="the pictures and their captions")
    text: Text = Field(default=Text(), description="the text encoder")
    retrieval: Retrieval = Field(..., description="the nets that scores look through")
    model: Model = Field(..., description="the net and what it predicts")
    train: Train = Field(..., description="the training stage")
    sampler: Samplers = Field(..., description="how pictures are drawn")
    evaluate: CaptionScores = Field(default=CaptionScores(), description="the scoring stage")
    sample: Page = Field(default=Page(), description="the drawing stage")
    export: ImageExport | None = Field(None, description="the published model; none: not exported")
