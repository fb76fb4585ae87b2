"""Stage `evaluate`: bits a dimension of held-out pictures beside their baselines, and what all image recipes score."""

import math
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from recipes.pixelcnn.config import PixelCnnConfig

if TYPE_CHECKING:
    from recipes.common.images.dataset import PreparedImages

COARSE = "pixels of fewer than 256 levels: their bits are not comparable with those of 8-bit codes"


def check(config: PixelCnnConfig) -> None:
    """Raises UserError for a network of features that will not be there."""
    from recipes.common.scores.scoring import check_scores

    check_scores(config.evaluate, config.features)


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json; the metrics are its scores by name."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.scores.scoring import image_scores
    from recipes.pixelcnn.sampler import load_samplers

    config, inputs = context.config, context.inputs
    held_out = PreparedImages.open(inputs["prepare"], "held_out")
    scores, missing = _likelihood(config, held_out, context)
    samplers = load_samplers(config, inputs["prepare"], inputs["train"])
    features = inputs["features"] if config.features else None
    common, also_missing = image_scores(
        samplers,
        inputs["prepare"],
        features,
        config.evaluate,
        lambda line: context.terminal.write(f"evaluate: {line}\n"),
    )
    scores += common
    found = {"scores": [score.as_json() for score in scores], "missing": missing | also_missing}
    write_json(context.out / "evaluation.json", found)
    return {score.key: score.value for score in scores}


def _likelihood(
    config: PixelCnnConfig, held_out: "PreparedImages", context: Context
) -> tuple[list[Score], dict[str, str]]:
    """The exact likelihood of the last step's weights and of their shadow, and the codes that need no training."""
    from recipes.common.scores.bits import baselines, bits_score
    from recipes.pixelcnn.nets import load_net
    from recipes.pixelcnn.sampler import weight_files
    from recipes.pixelcnn.score import nats_of

    settings, levels = config.evaluate, config.model.levels
    images, labels = held_out.images[: settings.pictures], held_out.labels[: settings.pictures]
    told = math.log(max(1, len(held_out.classes)))
    protocol = (
        f"-log2 p(picture) / {images[0].size}, exact, pixels of {levels} levels, fp32; "
        "the class counts as log2(classes) bits"
    )
    scores = []
    for name, file in weight_files(config).items():
        context.terminal.write(f"evaluate: likelihood of {len(images):,} pictures, {name}\n")
        nats = told + nats_of(load_net(context.inputs["train"], file), images, labels)
        scores.append(bits_score(name, nats, images, protocol, settings.resamples, config.train.seed))
    if levels < 256:
        return scores, {"baselines of bits per dimension": COARSE}
    return scores + baselines(images, config.data.source, settings.resamples, config.train.seed), {}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
