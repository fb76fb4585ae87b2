"""Stage `compression`: held-out pictures as bytes and back, without loss in a file and with loss along a curve."""

from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from recipes.vae.config import VaeConfig

if TYPE_CHECKING:
    from recipes.vae.rate_distortion import Point

OWN = "VAE, bits back"
CURVE = "rate_distortion.json"
FITTED = 2000  # training pictures that the lossy coder's tables are fitted to


def check(config: VaeConfig) -> None:
    """Raises UserError for a model of binary pixels and for one without a prior."""
    if config.model.kind == "vq":
        raise UserError("compression needs a prior, and a VQ-VAE has none\nway out: model.kind=vae")
    if config.model.likelihood == "bernoulli":
        raise UserError(
            "compression codes 8-bit pixels, and bernoulli models binary ones\n"
            "way out: model.likelihood=logistic_mixture"
        )


def run(context: Context) -> dict[str, Any]:
    """Write pictures.bits, evaluation.json, rate_distortion.json and rate_distortion.png.

    Raises:
        RuntimeError: as write_coded.
    """
    import numpy as np

    from recipes.common import coded
    from recipes.common.images.dataset import PreparedImages
    from recipes.vae import codec, rate_distortion
    from recipes.vae.chart import draw_curves
    from recipes.vae.nets import load_net
    from recipes.vae.sampler import weight_files

    config: VaeConfig = context.config
    held_out = PreparedImages.open(context.inputs["prepare"], "held_out")
    images = np.array(held_out.images[: config.compression.pictures])
    labels = held_out.labels[: len(images)]
    weights = next(iter(weight_files(config).values()))
    net = load_net(context.inputs["train"], weights)
    size = coded.write_coded(context, codec.encode, net, weights, images, labels)
    train = PreparedImages.open(context.inputs["prepare"], "train")
    known = rate_distortion.fitted(net, train.images[:FITTED], train.labels[:FITTED])
    points = rate_distortion.curve(net, known, images, labels, config.compression.steps)
    points += rate_distortion.rivals(images)
    (context.out / CURVE).write_text(rate_distortion.points_json(points))
    draw_curves(points, context.out / "rate_distortion.png")
    parameters = sum(p.numel() for p in net.parameters())
    scores = coded.lossless_scores(images, OWN, size, "bits back with an entropy coder", parameters)
    scores += lossy_scores(points, len(images))
    write_json(
        context.out / "evaluation.json", {"scores": [score.as_json() for score in scores], "missing": {}}
    )
    return {score.key: score.value for score in scores} | {"pictures_equal": len(images)}


def lossy_scores(points: "list[Point]", count: int) -> list[Score]:
    """At each of the VAE's sizes its quality, beside that of every other codec whose curve reaches there."""
    from recipes.vae.rate_distortion import at_rate

    scores = []
    for own in [point for point in points if point.codec == "VAE"]:
        name = f"reconstruction at {own.bytes_a_picture:.0f} bytes a picture"
        protocol = (
            f"mean PSNR of each picture; VAE: mean pixels of latents rounded to {own.setting:g} prior standard "
            f"deviations, coded in {own.bytes_a_picture:.1f} bytes; others: interpolated on their curves in {CURVE}"
        )
        for codec in dict.fromkeys(point.codec for point in points):
            decibels = own.decibels if codec == "VAE" else at_rate(points, codec, own.bytes_a_picture)
            if decibels is not None:
                scores.append(Score(name, codec, decibels, None, "dB", count, protocol, "higher"))
    return scores


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("compression")
