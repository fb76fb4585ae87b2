"""Every setting of a GAN recipe, with its unit: of the ring, and of pictures."""

from typing import Any, Literal, get_args

from pydantic import Field

from pipeline.run.config import Loop, Optimizer, Run, Section, how, what
from pipeline.run.errors import UserError, nearest
from recipes.common.images.config import Classifier, ImageExport, Images, ImageScores, Sheets, Source, Utility

ZERO_STAGES = (1, 2)  # of ZeRO, under which the recipe is tested
Augmentation = Literal["colour", "translation", "cutout"]


class Ring(Section):
    """Gaussians of equal weight, evenly spaced on a circle around the origin."""

    source: Literal["ring"] = what(..., "points on the plane")
    modes: int = what(..., "Gaussians on the ring", ge=2)
    radius: float = what(..., "distance of each centre from the origin", gt=0)
    std: float = what(..., "standard deviation of each Gaussian, in both directions", gt=0)


class Perceptrons(Section):
    """Two multilayer perceptrons of the same width and depth."""

    latent_size: int = what(..., "standard normal numbers that the generator turns into a point", ge=1)
    hidden_size: int = what(..., "units of a hidden layer", ge=1)
    hidden_layers: int = what(..., "hidden layers of each net", ge=1)


class Convolutions(Section):
    """A convolutional generator and its critic, mirror images of each other, from 8 x 8 to 64 x 64 pixels."""

    pair: Literal["dcgan", "residual"] = what(
        ..., "dcgan: strided convolutions; residual: blocks around a skip, without normalisation"
    )
    latent_size: int = what(..., "standard normal numbers that the generator turns into a picture", ge=1)
    channels: int = what(..., "feature maps at the widest resolution; each halving doubles them", ge=4)
    max_channels: int = what(512, "feature maps at most", ge=4)
    blocks: int = what(1, "residual only: blocks at each resolution", ge=1)
    conditional: bool = what(True, "give both nets the labels, where there are labels")
    spectral_norm: bool = what(False, "divide the critic's weights by their largest singular values")


class Train(Loop):
    """Both nets' optimizers, their game, and what keeps the critic smooth."""

    critic: Optimizer = Field(..., description="the critic's update rule")
    generator: Optimizer = Field(..., description="the generator's update rule")
    adversarial: Literal["relativistic", "non_saturating", "hinge"] = what(
        "relativistic", "the game; relativistic: each real sample against a generated one"
    )
    r1: float = what(..., "half of it weighs the critic's squared slope at real samples", ge=0)
    r2: float = what(..., "half of it weighs the critic's squared slope at generated samples", ge=0)
    penalty_std: float = what(
        ..., "length of the normal nudge over which a slope is measured, a coordinate", gt=0
    )
    penalty_steps: int = what(
        1, "optimizer steps from one measured slope to the next, which weighs that much more", ge=1
    )

    @property
    def penalised(self) -> bool:
        """Whether slopes are measured at all."""
        return self.r1 > 0 or self.r2 > 0


class RingTrain(Train):
    """The ring's training stage."""

    bf16: Literal[False] = what(False, "fp32 throughout: the penalty is a difference of nearby scores")


class ImageTrain(Train):
    """The training stage of pictures."""

    augment: tuple[Augmentation, ...] = what(
        (), "what real and generated pictures go through on their way to the critic, in this order"
    )
    flip: bool = what(False, "mirror half of the real pictures, left and right")
    alarm_samples: int = how(
        256, "pictures behind each look at recall, coverage, duplicates and the critic", ge=32
    )


class Evaluate(Section):
    """How the generator is scored against the ring."""

    samples: int = what(10_000, "points drawn from the generator, and from the ring beside it", ge=1)


class Sample(Section):
    """Which points are drawn for people."""

    samples: int = what(2_000, "points; point i has seed `seed + i`", ge=1)
    seed: int = what(0, "seed of the first point", ge=0)
    image_size: int = what(640, "pixels a side of the scatter plot", ge=64)


class RingConfig(Section):
    """A GAN on a ring of Gaussians, from settings to a scored generator."""

    recipe: Literal["gan"] = what(..., "the model family")
    run: Run = Field(..., description="how and where it runs")
    data: Ring = Field(..., description="what is imitated")
    model: Perceptrons = Field(..., description="the nets")
    train: RingTrain = Field(..., description="the training stage")
    evaluate: Evaluate = Field(default=Evaluate(), description="the scoring stage")
    sample: Sample = Field(default=Sample(), description="the drawing stage")


class Modes(Section):
    """Counting which of the 1,000 stacks of digits are drawn, by a classifier of single digits."""

    samples: int = what(10_000, "pictures drawn, and real ones beside them", ge=1)
    classifier: Classifier = Field(..., description="how the classifier of single digits is trained")


class ImageConfig(Section):
    """A GAN on pictures, from a data set to a published generator."""

    recipe: Literal["gan"] = what(..., "the model family")
    run: Run = Field(..., description="how and where it runs")
    data: Images = Field(..., description="what is imitated")
    features: Classifier | None = Field(
        default=None, description="the classifier whose features the scores look at"
    )
    model: Convolutions = Field(..., description="the nets")
    train: ImageTrain = Field(..., description="the training stage")
    evaluate: ImageScores = Field(default=ImageScores(), description="the scoring stage")
    modes: Modes | None = Field(default=None, description="stacked digits only: how modes are counted")
    sample: Sheets = Field(default=Sheets(), description="the drawing stage")
    utility: Utility | None = Field(
        default=None, description="what synthetic pictures are worth to a classifier"
    )
    export: ImageExport | None = Field(default=None, description="what is published")


GanConfig = RingConfig | ImageConfig
SOURCES = (*get_args(Ring.model_fields["source"].annotation), *get_args(Source))


def schema_of(tree: dict[str, Any]) -> type[Section]:
    """The settings of what `data.source` names: the ring has other nets, scores and drawings than pictures.

    Raises:
        UserError: no such source.
    """
    data = tree.get("data")
    source = data.get("source") if isinstance(data, dict) else None
    if source is None:
        raise UserError(f"the recipe lacks 'data.source'\nchoices: {', '.join(SOURCES)}")
    if source not in SOURCES:
        raise UserError(f"data.source = {source!r} is not known\n{nearest(str(source), SOURCES)}")
    return RingConfig if source == "ring" else ImageConfig
