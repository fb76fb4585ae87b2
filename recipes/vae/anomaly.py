"""Stage `anomaly`: is what training never saw told apart by the bound, or better by distance in pixels?"""

from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.common.scores.anomaly import check_unseen
from recipes.vae.config import VaeConfig


def check(config: VaeConfig) -> None:
    """Raises UserError as scores.anomaly.check_unseen, and for a model without a bound."""
    check_unseen(config)
    if config.model.kind == "vq":
        raise UserError("anomaly scores by the bound, and a VQ-VAE has none\nway out: model.kind=vae")


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json: areas under the ROC curve, and how far each is above that of the baseline."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.scores.anomaly import anomaly_scores, chosen, ways_of_scoring
    from recipes.vae.bounds import marginal
    from recipes.vae.nets import load_net
    from recipes.vae.sampler import weight_files

    config: VaeConfig = context.config
    held_out = PreparedImages.open(context.inputs["prepare"], "held_out")
    train = PreparedImages.open(context.inputs["prepare"], "train")
    images, unseen, name = chosen(config, held_out)
    net = load_net(context.inputs["train"], next(iter(weight_files(config).values())))
    seen = sorted(set(train.labels.tolist()))
    nats = -marginal(net, images, seen, config.train.seed).numpy()
    # A bound of binary pixels is not comparable with the file's size.
    eight_bits = config.model.likelihood != "bernoulli"
    found = ways_of_scoring(nats, "negative bound", images, train, eight_bits)
    settings = config.anomaly
    scores = anomaly_scores(found, unseen, name, settings.resamples, config.train.seed)
    write_json(
        context.out / "evaluation.json", {"scores": [score.as_json() for score in scores], "missing": {}}
    )
    return {score.key: score.value for score in scores}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("anomaly")
