"""Stage `evaluate`: the held-out loss over time, and what the drawn pictures score."""

import math
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from pipeline.scores.intervals import NORMAL_QUANTILE
from recipes.diffusion.config import DiffusionConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from recipes.diffusion.diffusion import Diffusion

PROTOCOL = (
    "squared error of the prediction a pixel, pixels in [-1, 1], at times that fill the part evenly; one time and "
    "one draw of noise a held-out picture, by its index; 95% normal interval over pictures"
)


def check(config: DiffusionConfig) -> None:
    """Raises UserError where a network that scores look through will not be there."""
    from recipes.common.scores.scoring import check_scores

    check_scores(config.evaluate, config.features)


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json; the metrics are the held-out error and the best sampler's scores."""
    from recipes.common.scores.scoring import image_scores
    from recipes.diffusion.diffusion import Diffusion
    from recipes.diffusion.sampler import load_net, load_samplers

    config: DiffusionConfig = context.config
    prepared, trained = context.inputs["prepare"], context.inputs["train"]
    net, _ = load_net(config, trained)
    own = held_out_scores(Diffusion(config, prepared), net)
    samplers = load_samplers(config, prepared, trained)
    drawn, missing = image_scores(
        samplers,
        prepared,
        context.inputs["features"] if config.features else None,
        config.evaluate,
        lambda line: context.terminal.write(f"evaluate: {line}\n"),
    )
    scores = [*own, *drawn]
    write_json(context.out / "evaluation.json", {"scores": [s.as_json() for s in scores], "missing": missing})
    best = next(iter(samplers))
    return {score.key: score.value for score in scores if score in own or score.model == best}


def held_out_scores(recipe: "Diffusion", net: "nn.Module") -> list[Score]:
    """The error over all times, then in each part of the time axis."""
    config = recipe.config
    errors_N, u_N = held_out_errors(recipe, net)
    model = "EMA" if config.train.ema_decay else "last step"
    parts = config.evaluate.time_buckets
    found = {"held-out error": errors_N}
    for part in range(parts):
        within_N = (u_N * parts).astype(int) == part
        found[f"held-out error, time {part / parts:g} to {(part + 1) / parts:g}"] = errors_N[within_N]
    return [_score(name, model, errors) for name, errors in found.items() if len(errors)]


def held_out_errors(recipe: "Diffusion", net: "nn.Module") -> tuple["np.ndarray", "np.ndarray"]:
    """Each held-out picture's mean squared error a pixel, and its place on the time axis in [0, 1); fp64 (N,) both."""
    import torch

    from recipes.diffusion.sampler import CHUNK

    split = recipe.held_out()
    count = min(recipe.config.evaluate.pictures or split.length, split.length)
    errors, times = [], []
    for start in range(0, count, CHUNK):
        # Always as many rows: a matrix product's rounding depends on them.
        batch = recipe.collate([split.item(index) for index in range(start, start + CHUNK)])
        with torch.no_grad():
            errors.append(recipe.errors(net, batch)[0].double() / batch["image"][0].numel())
        times.append(batch["u"].double())
    return torch.cat(errors)[:count].numpy(), torch.cat(times)[:count].numpy()


def _score(name: str, model: str, errors_N: "np.ndarray") -> Score:
    value, count = float(errors_N.mean()), len(errors_N)
    reach = NORMAL_QUANTILE * float(errors_N.std()) / math.sqrt(count)
    interval = (max(0.0, value - reach), value + reach)
    return Score(name, model, value, interval, "a pixel", count, PROTOCOL, "lower")


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
