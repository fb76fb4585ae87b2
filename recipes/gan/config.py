"""Every setting of a GAN recipe, with its unit."""

from typing import Literal

from pydantic import Field

from pipeline.config import Loop, Optimizer, Run, Section, what


class Ring(Section):
    """Gaussians of equal weight, evenly spaced on a circle around the origin."""

    modes: int = what(..., "Gaussians on the ring", ge=2)
    radius: float = what(..., "distance of each centre from the origin", gt=0)
    std: float = what(..., "standard deviation of each Gaussian, in both directions", gt=0)


class Model(Section):
    """Two multilayer perceptrons of the same width and depth."""

    latent_size: int = what(..., "standard normal numbers that the generator turns into a point", ge=1)
    hidden_size: int = what(..., "units of a hidden layer", ge=1)
    hidden_layers: int = what(..., "hidden layers of each net", ge=1)


class Train(Loop):
    """Both nets' optimizers, and what keeps the critic smooth."""

    bf16: Literal[False] = what(False, "fp32 throughout: the penalty is a difference of nearby scores")
    critic: Optimizer = Field(..., description="the critic's update rule")
    generator: Optimizer = Field(..., description="the generator's update rule")
    penalty: float = what(..., "weight of the critic's squared slope, on real and on generated points", ge=0)
    penalty_std: float = what(
        ..., "length of the normal nudge over which a slope is measured, a coordinate", gt=0
    )


class Evaluate(Section):
    """How the generator is scored against the ring."""

    samples: int = what(10_000, "points drawn from the generator, and from the ring beside it", ge=1)


class Sample(Section):
    """Which points are drawn for people."""

    samples: int = what(2_000, "points; point i has seed `seed + i`", ge=1)
    seed: int = what(0, "seed of the first point", ge=0)
    image_size: int = what(640, "pixels a side of the scatter plot", ge=64)


class GanConfig(Section):
    """A GAN on a ring of Gaussians, from settings to a scored generator."""

    recipe: Literal["gan"] = what(..., "the model family")
    run: Run = Field(..., description="how and where it runs")
    data: Ring = Field(..., description="what is imitated")
    model: Model = Field(..., description="the nets")
    train: Train = Field(..., description="the training stage")
    evaluate: Evaluate = Field(default=Evaluate(), description="the scoring stage")
    sample: Sample = Field(default=Sample(), description="the drawing stage")
