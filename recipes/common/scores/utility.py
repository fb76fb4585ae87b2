"""Stage `utility`: what generated pictures are worth as training data: train on synthetic, test on real.

Classifiers of the section `features` learn from real pictures, from augmented ones, from synthetic ones and from real
and synthetic ones together; all of them are judged on the held-out real pictures. Shapes: S seeds, N held-out pictures.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.run.config import identity
from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.plan import Batches
from pipeline.run.results import Score
from pipeline.run.stage import Context
from recipes.common.scores.features import check_labels, require_labels
from recipes.common.stages import family_module

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from recipes.common.images.config import Utility
    from recipes.common.images.dataset import PreparedImages

REAL, AUGMENTED, SYNTHETIC, BOTH = "real", "real, augmented", "synthetic", "real and synthetic"
ACCURACY, GAIN = "accuracy after training on these pictures", "accuracy gained over real pictures alone"


@dataclass(frozen=True)
class Diet:
    """What a classifier learns from."""

    images: "PreparedImages"
    augment: bool = False


def check(config: Any) -> None:
    """Refuse what has no classes to ask for.

    Raises:
        UserError: no section `features`, no labels, a model that does not look at labels, batches that do not divide.
    """
    if config.features is None:
        raise UserError(
            "utility trains classifiers of the section `features:`, which the recipe has not\n"
            "way out: add it, or no section `utility:`"
        )
    check_labels(config.data, "utility")
    if identity(config.model).get("conditional") is False:
        raise UserError(
            "utility asks the model for pictures of each class, and model.conditional is false\n"
            "way out: model.conditional=true, or no section `utility:`"
        )
    Batches.derive(config.features, 1)


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json; the metrics are its scores by name."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.scores.classifier import of_learnt_classes

    config, prepared = context.config, context.inputs["prepare"]
    settings: Utility = config.utility
    train = PreparedImages.open(prepared, "train")
    require_labels(train, "utility")
    held_out = of_learnt_classes(PreparedImages.open(prepared, "held_out"), train)
    real = first(train, settings.real)
    name, synthetic = _synthetic(context, real)
    right = {}
    for diet, given in diets(real, synthetic).items():
        context.terminal.write(
            f"utility: {settings.seeds} classifiers on {diet}: {len(given.images.labels):,}\n"
        )
        right[diet] = _right(config, given, held_out)
    scores = _scores(
        right, f"synthetic: {name}, {len(synthetic.labels):,} pictures; real: {len(real.labels):,}"
    )
    missing = {"spread over seeds": "utility.seeds is 1"} if settings.seeds == 1 else {}
    found = {"scores": [score.as_json() for score in scores], "missing": missing}
    write_json(context.out / "evaluation.json", found)
    return {score.key: score.value for score in scores}


def first(images: "PreparedImages", count: int | None) -> "PreparedImages":
    """The first `count` pictures in memory; None: all."""
    import numpy as np

    from recipes.common.images.dataset import PreparedImages

    return PreparedImages(np.array(images.images[:count]), images.labels[:count], images.classes)


def diets(real: "PreparedImages", synthetic: "PreparedImages") -> dict[str, Diet]:
    """What is compared, the baselines first."""
    import numpy as np

    from recipes.common.images.dataset import PreparedImages

    both = PreparedImages(
        np.concatenate([real.images, synthetic.images]),
        np.concatenate([real.labels, synthetic.labels]),
        real.classes,
    )
    return {
        REAL: Diet(real),
        AUGMENTED: Diet(real, augment=True),
        SYNTHETIC: Diet(synthetic),
        BOTH: Diet(both),
    }


def _synthetic(context: Context, real: "PreparedImages") -> tuple[str, "PreparedImages"]:
    """Pictures of the family's first sampler, with the labels of the real ones, over and over."""
    config, inputs = context.config, context.inputs
    samplers = family_module(config, "sampler").load_samplers(config, inputs["prepare"], inputs["train"])
    if not samplers:
        raise UserError(
            "utility needs synthetic pictures, and this model draws none\nway out: no section `utility:`"
        )
    name, sampler = next(iter(samplers.items()))
    settings = config.utility
    context.terminal.write(f"utility: drawing {settings.samples or len(real.labels):,} pictures: {name}\n")
    return name, draw(sampler, real, settings.samples or len(real.labels))


def draw(
    sampler: "Callable[[list[int], list[int]], np.ndarray]", real: "PreparedImages", count: int
) -> "PreparedImages":
    """`count` pictures, picture i with seed i and the label of real picture i modulo their number."""
    import numpy as np

    from recipes.common.images.dataset import PreparedImages

    labels = np.resize(real.labels, count)
    return PreparedImages(sampler(list(range(count)), labels.tolist()), labels, real.classes)


def _right(config: Any, diet: Diet, held_out: "PreparedImages") -> "np.ndarray":
    """Whether each seed's classifier is right on each held-out picture, bool (S, N)."""
    import numpy as np

    changes = {"max_steps": config.utility.max_steps}
    found = []
    for seed in range(config.utility.seeds):
        training = config.features.model_copy(update=changes | {"seed": config.features.seed + seed})
        found.append(trained_classes(training, diet, held_out, config.utility.flip) == held_out.labels)
    return np.stack(found)


def trained_classes(training: Any, diet: Diet, held_out: "PreparedImages", flip: bool) -> "np.ndarray":
    """The classes (N,) that a classifier gives to `held_out` after training on `diet`, in this process."""
    from recipes.common.images.shape import Shape
    from recipes.common.scores.classifier import ImageClassifier, classes_of, trained_here

    shape = Shape.of(held_out)
    recipe = ImageClassifier(training, shape, diet.images, augment=diet.augment, flip=flip)
    trainer = trained_here(recipe)
    net = recipe.nets()["model"]
    net.load_state_dict(trainer.weights("model", ema=bool(training.ema_decay)))
    return classes_of(net.to(trainer.runtime.device), held_out.images)


def _scores(right: dict[str, "np.ndarray"], pictures: str) -> list[Score]:
    """The accuracies, and what each diet gains over real pictures alone, seed by seed and picture by picture."""
    from recipes.common.scores.intervals import crossed_interval

    seeds, count = right[REAL].shape
    facts = {"unit": "share", "count": count, "better": "higher"}
    basis = f"{seeds} seeds, {count:,} held-out pictures; {pictures}; {INTERVAL}"
    found = []
    for name, values in _measured(right):
        for diet, table in values.items():
            low, high = crossed_interval(table)
            interval = (max(0.0, low), min(1.0, high)) if name == ACCURACY else (low, high)
            found.append(
                Score(
                    name, diet, float(table.mean()), interval, protocol=f"{PROTOCOL[name]}; {basis}", **facts
                )
            )
    return found


def _measured(right: dict[str, "np.ndarray"]) -> list[tuple[str, dict[str, "np.ndarray"]]]:
    shares = {diet: table.astype(float) for diet, table in right.items()}
    gains = {diet: table - shares[REAL] for diet, table in shares.items() if diet != REAL}
    return [(ACCURACY, shares), (GAIN, gains)]


PROTOCOL = {
    ACCURACY: "held-out real pictures that a classifier trained on these pictures takes for what they are",
    GAIN: "the same, less what the classifier of the same seed gets on the same pictures after real ones alone",
}
INTERVAL = "95% interval over seeds and pictures"


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("utility")
