"""Stage `anomaly`: is what training never saw told apart by its likelihood, or better by distance in pixels?"""

from typing import Any

from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.common.scores.anomaly import check_unseen
from recipes.pixelcnn.config import PixelCnnConfig


def check(config: PixelCnnConfig) -> None:
    """Raises UserError as scores.anomaly.check_unseen."""
    check_unseen(config)


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json: areas under the ROC curve, and how far each is above that of the baseline."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.scores.anomaly import anomaly_scores, chosen, ways_of_scoring
    from recipes.pixelcnn.nets import load_net
    from recipes.pixelcnn.sampler import weight_files
    from recipes.pixelcnn.score import marginal_nats_of

    config, settings = context.config, context.config.anomaly
    held_out = PreparedImages.open(context.inputs["prepare"], "held_out")
    train = PreparedImages.open(context.inputs["prepare"], "train")
    images, unseen, name = chosen(config, held_out)
    net = load_net(context.inputs["train"], next(iter(weight_files(config).values())))
    nats = marginal_nats_of(net, images, sorted(set(train.labels.tolist())))
    found = ways_of_scoring(nats, "negative log-likelihood", images, train, config.model.levels == 256)
    scores = anomaly_scores(found, unseen, name, settings.resamples, config.train.seed)
    write_json(context.out / "evaluation.json", {"scores": [s.as_json() for s in scores], "missing": {}})
    return {score.key: score.value for score in scores}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("anomaly")
