"""Every setting of a design recipe: those of a diffusion model, the attributes that are asked for, the page."""

from typing import Literal

from pydantic import Field

from pipeline.run.config import Section, what
from recipes.diffusion.config import DiffusionConfig, Evaluate

Measured = Literal["tone", "size", "shape", "detail", "colour"]


class Attributes(Section):
    """What can be asked of a picture, beside its class."""

    classes: str = what("class", "what a class is called in a request, such as garment", pattern=r"^\w+$")
    measured: tuple[Measured, ...] = what(
        ("tone", "size"),
        "measured of the pixels that are not paper. tone: dark, medium, light; size: the share of such pixels; shape: "
        "width over height; detail: neighbours that differ; colour: the commonest hue. All but colour in thirds of the "
        "training pictures",
    )
    table: str | None = what(
        None,
        "data.source folder: a CSV with a column `file`, a picture's path in the folder, and one an attribute",
    )
    dropout: float = what(
        0.2, "share of pictures an attribute is hidden of, so that a request may leave it open", ge=0, lt=1
    )


class DesignScores(Evaluate):
    """How well requests are met, beside every score of a diffusion model."""

    requests: int = what(60, "combinations of values that are asked for, the commonest in training", ge=2)
    unseen_requests: int = what(
        20, "combinations that training never saw, whose values it did, pair by pair with the class", ge=0
    )
    pictures_a_request: int = what(8, "pictures drawn of each, picture i with seed i", ge=2)
    least: int = what(20, "training pictures behind a request, and behind each pair of an unseen one", ge=2)


class Page(Section):
    """The page to choose from."""

    requests: tuple[str, ...] = what(
        (), "requests such as `garment=Dress, tone=dark`; none: the commonest two of each class"
    )
    each: int = what(6, "designs of a request", ge=1, le=100)
    seed: int = what(0, "seed of the first design", ge=0)


class DesignConfig(DiffusionConfig):
    """Designs by request: a diffusion model of pictures with attributes, from settings to a published pipeline."""

    recipe: Literal["design"] = what(..., "the model family")
    attributes: Attributes = Field(default=Attributes(), description="what can be asked of a picture")
    evaluate: DesignScores = Field(default=DesignScores(), description="the scoring stage")
    sample: Page = Field(default=Page(), description="the page to choose from")
