"""Stage `evaluate`: do the generated points cover every mode, lie on them, and share them out evenly?"""

import math
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from recipes.gan.config import RingConfig

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.train.recipe import Batch


def check(config: RingConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json; the metrics are those of the generator that is also sampled."""
    from recipes.gan.ring import figures, summary
    from recipes.gan.ring_generators import load_generators

    config: RingConfig = context.config
    batch = _batch(config)
    found = {
        f"generator, {name}": _points(generator, batch["latent"])
        for name, generator in load_generators(config, context.inputs["train"]).items()
    }
    found["the ring itself"] = batch["point"]
    scored = {name: summary(figures(points, config.data), config.data) for name, points in found.items()}
    scores = [score for name, one in scored.items() for score in _scores(name, one, config.data.modes)]
    write_json(context.out / "evaluation.json", {"scores": scores})
    return next(iter(scored.values()))


def _batch(config: RingConfig) -> "Batch":
    from recipes.gan.gan import Gan

    recipe = Gan(config)
    held_out = recipe.held_out()
    return recipe.collate([held_out.item(index) for index in range(held_out.length)])


def _points(generator: Any, latents: "Tensor") -> "Tensor":
    import torch

    with torch.no_grad():
        return generator(latents)


def _scores(name: str, one: dict[str, float], modes: int) -> list[dict[str, Any]]:
    """The scores of one generator, as plain JSON data."""
    share, count = one["high_quality"], int(one["samples"])
    margin = 1.96 * math.sqrt(share * (1 - share) / count)
    rows = [
        ("modes covered", one["modes_covered"], None, f"of {modes}", "higher"),
        ("high-quality samples", share, (share - margin, share + margin), "share", "higher"),
        ("divergence of the mode histogram", one["mode_kl"], None, "nats", "lower"),
    ]
    return [
        Score(title, name, value, interval, unit, count, PROTOCOL[title], better).as_json()
        for title, value, interval, unit, better in rows
    ]


PROTOCOL = {
    "modes covered": "modes with 1/4 of their fair share of the samples within 3 standard deviations of the centre",
    "high-quality samples": "within 3 standard deviations of a centre; 95% normal interval over samples",
    "divergence of the mode histogram": "KL of the histogram of nearest modes from the uniform one",
}

if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
