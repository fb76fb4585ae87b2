"""Stage `evaluate`: how like real pictures the generated ones are, and how much of their variety they have."""

from typing import Any

from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.gan.config import ImageConfig


def check(config: ImageConfig) -> None:
    """Raises UserError for feature networks that will not be there."""
    from recipes.common.scores.scoring import check_scores

    check_scores(config.evaluate, config.features)


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json; the metrics are its scores by name."""
    from recipes.common.scores.scoring import image_scores
    from recipes.gan.sampler import load_samplers

    config: ImageConfig = context.config
    prepared, trained = context.inputs["prepare"], context.inputs["train"]
    samplers = load_samplers(config, prepared, trained)
    features = context.inputs.get("features")
    scores, missing = image_scores(
        samplers,
        prepared,
        features,
        config.evaluate,
        say=lambda line: context.terminal.write(f"evaluate: {line}\n"),
        conditional=config.model.conditional,
    )
    write_json(
        context.out / "evaluation.json", {"scores": [score.as_json() for score in scores], "missing": missing}
    )
    return {score.key: score.value for score in scores}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
