"""Stage `evaluate`: bits a dimension of held-out pictures beside their baselines, and what all image recipes score."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from recipes.vae.config import VaeConfig

if TYPE_CHECKING:
    import numpy as np

    from recipes.common.images.dataset import PreparedImages

NO_PRIOR = "a VQ-VAE has no prior of its own; its sheets show reconstructions of held-out pictures"
BINARY = "bernoulli models binary pixels: its bits are not comparable with those of 8-bit codes"


def check(config: VaeConfig) -> None:
    """Raises UserError for a network of features that will not be there."""
    from recipes.common.scores.scoring import check_scores

    if config.model.kind == "vae":
        check_scores(config.evaluate, config.features)


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json; the metrics are its scores by name."""
    from recipes.common.images.dataset import PreparedImages

    config: VaeConfig = context.config
    held_out = PreparedImages.open(context.inputs["prepare"], "held_out")
    if config.model.kind == "vq":
        scores, missing = _reconstruction(config, held_out, context.inputs["train"])
    else:
        scores, missing = _likelihood(config, held_out, context)
        common, also_missing = _pictures(config, context)
        scores, missing = scores + common, missing | also_missing
    found = {"scores": [score.as_json() for score in scores], "missing": missing}
    write_json(context.out / "evaluation.json", found)
    return {score.key: score.value for score in scores}


def _pictures(config: VaeConfig, context: Context) -> tuple[list[Score], dict[str, str]]:
    """The scores of generated pictures that every image recipe has."""
    from recipes.common.scores.scoring import image_scores
    from recipes.vae.sampler import load_samplers

    inputs = context.inputs
    samplers = load_samplers(config, inputs["prepare"], inputs["train"])
    features = inputs["features"] if config.features else None
    return image_scores(
        samplers,
        inputs["prepare"],
        features,
        config.evaluate,
        lambda line: context.terminal.write(f"evaluate: {line}\n"),
    )


def _likelihood(
    config: VaeConfig, held_out: "PreparedImages", context: Context
) -> tuple[list[Score], dict[str, str]]:
    """Both bounds in bits a dimension with the latents in use, and the codes that need no training."""
    from recipes.common.scores.bits import baselines
    from recipes.vae.bounds import elbo, importance_bound, value_of
    from recipes.vae.nets import load_net
    from recipes.vae.sampler import weight_files

    settings, trained = config.evaluate, context.inputs["train"]
    images, labels = held_out.images[: settings.pictures], held_out.labels[: settings.pictures]
    told = math.log(max(1, len(held_out.classes)))
    scores, nets = [], {name: load_net(trained, file) for name, file in weight_files(config).items()}
    for name, net in nets.items():
        bound = elbo(net, images, labels, config.train.seed)
        scores.append(_bits(f"{name}, ELBO", told - value_of(bound).double(), images, 1, config))
        if len(scores) == 1:
            in_use = _latents_in_use(name, bound, net.groups)
    name, net = next(iter(nets.items()))
    context.terminal.write(f"evaluate: {settings.importance_samples} draws of the latents a picture\n")
    draws = settings.importance_samples
    weighted = importance_bound(net, images, labels, draws, config.train.seed)
    scores.insert(1, _bits(f"{name}, importance-weighted", told - weighted, images, draws, config))
    if config.model.likelihood == "bernoulli":
        return scores + in_use, {"baselines of bits per dimension": BINARY}
    known = baselines(images, config.data.source, settings.resamples, config.train.seed)
    return scores + known + in_use, {}


def _bits(model: str, nats: Any, images: "np.ndarray", draws: int, config: VaeConfig) -> Score:
    """A bound as bits a dimension, with its bootstrap interval over pictures."""
    from recipes.common.scores.bits import bits_score

    pixels = "binary pixels" if config.model.likelihood == "bernoulli" else "8-bit pixels"
    protocol = (
        f"upper bound on -log2 p(picture) / {images[0].size}, {pixels}, fp32, {draws} draws of the latents a picture; "
        "the class counts as log2(classes) bits"
    )
    return bits_score(model, nats.numpy(), images, protocol, config.evaluate.resamples, config.train.seed)


def _latents_in_use(name: str, bound: Any, groups: tuple[tuple[int, int], ...]) -> list[Score]:
    """Nats of each group, and how many of its latents exceed 0.01 nats: a collapsed group shows as zeros."""
    protocol = "mean over held-out pictures of KL(posterior || prior) of the group's latents"
    active = "latents with more than 0.01 nats of KL, mean over held-out pictures"
    scores, count = [], len(bound.kl)
    for place, (resolution, channels) in enumerate(groups):
        model = f"{name}, group {place} ({resolution} x {resolution} x {channels})"
        nats, units = float(bound.kl[:, place].double().mean()), float(bound.active[:, place].double().mean())
        scores.append(Score("KL of a group", model, nats, None, "nats", count, protocol, "higher"))
        scores.append(Score("active units", model, units, None, "", count, active, "higher"))
    return scores


def _reconstruction(
    config: VaeConfig, held_out: "PreparedImages", trained: Path
) -> tuple[list[Score], dict[str, str]]:
    """What a VQ-VAE can be measured by: reconstruction, the size of its code, and how many codes it uses."""
    from recipes.vae.nets import load_net
    from recipes.vae.reconstruction import vq_scores
    from recipes.vae.sampler import weight_files

    scores = []
    for name, file in weight_files(config).items():
        images = held_out.images[: config.evaluate.pictures]
        scores += vq_scores(
            name, load_net(trained, file), images, config.evaluate.resamples, config.train.seed
        )
    missing = {"scores of generated pictures": NO_PRIOR, "a bound on the likelihood": NO_PRIOR}
    return scores, missing


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
