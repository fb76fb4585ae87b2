"""Every setting of a recipe of conversations about pictures, with its unit."""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.lm.config import Lora
from pipeline.run.config import Run, Section, Training, what
from recipes.captioning.config import Decoding

ZERO_STAGES = (1, 2, 3)  # of ZeRO, under which the recipe is tested


class Pictured(Section):
    """Where conversations about pictures come from, and which of them are held out."""

    section: ClassVar[str] = "data"
    only_named: ClassVar[bool] = False
    usual_columns: ClassVar[tuple[str, ...]] = ("messages", "conversations", "images", "image")

    source: Literal["auto", "jsonl", "json", "csv", "parquet", "datasets"] = what(
        "auto", "tables; auto: by the files' endings, also .gz, .bz2, .xz and .zst, or a dataset"
    )
    path: str | None = what(..., "file, folder, glob or dataset")
    split: str = what("train", "datasets only: the split to read")
    messages_column: str | None = what(
        None, "the column of messages; none: messages or, as LLaVA has them, conversations"
    )
    images_column: str | None = what(None, "the column of pictures; none: images or image")
    images: str | None = what(None, "the folder that pictures are named from; none: the folder of the file")
    longest_side: int | None = what(
        None,
        "pixels: a picture with a longer side is made smaller first; none: the processor alone decides",
        ge=8,
    )
    held_out: float = what(0.05, "share of rows held out, by a hash of their first picture", gt=0, lt=1)
    max_rows: int | None = what(None, "stop after this many rows; none: all", ge=2)
    on_bad_row: Literal["error", "skip"] = what("error", "a row that cannot be used: stop, or count and list")
    licence: str | None = what(None, "SPDX identifier of the conversations and pictures")

    @property
    def named_columns(self) -> dict[str, str]:
        named = {"messages_column": self.messages_column, "images_column": self.images_column}
        return {setting: column for setting, column in named.items() if column}


class Model(Section):
    """A model of pictures and text, with its processor and chat template."""

    pretrained: str = what(
        ..., "directory or Hub name of a model that transformers loads as AutoModelForImageTextToText"
    )


class Train(Training):
    """Every answer of the assistant is learnt; tokens of pictures, questions and the template are not."""

    lora: Lora | None = Field(None, description="low-rank adapters; none: all weights learn")
    max_length: int = what(
        ..., "tokens of a row with its pictures; a longer one is left out and counted", ge=16
    )


class Scores(Section):
    """What is measured on held-out rows."""

    rows: int | None = what(None, "held-out rows whose answers' nats are summed; none: all", ge=2)
    replies: int = what(64, "held-out rows whose last answer is written anew", ge=2)
    resamples: int = what(1000, "resamples behind an interval", ge=20)


class Page(Section):
    """The conversations that are shown with what the model answers."""

    rows: int = what(16, "held-out rows", ge=1)


class Export(Section):
    """What is published."""

    licence: str = what(..., "SPDX identifier of the weights")
    rows: int = what(4, "held-out rows whose first answer is compared with the live model's", ge=1)


class VisionChatConfig(Section):
    """Conversations about pictures, from settings to a published model."""

    recipe: Literal["vision_chat"] = what(..., "the model family")
    run: Run = Field(..., description="how and where it runs")
    data: Pictured = Field(..., description="the conversations and their pictures")
    model: Model = Field(..., description="the model")
    train: Train = Field(..., description="the training stage")
    decoding: Decoding = Field(default=Decoding(max_new_tokens=64), description="how answers are written")
    evaluate: Scores = Field(default=Scores(), description="the scoring stage")
    sample: Page = Field(default=Page(), description="the page of conversations")
    export: Export = Field(..., description="the published model")
