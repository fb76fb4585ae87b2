"""Stage `utility`: what generated pictures are worth as training data: train on synthetic, test on real.

Classifiers of the section `features` learn from real pictures, from these over and over until classes are even, from
augmented ones, from synthetic ones and from real and synthetic ones together; all of them are judged on the held-out
real pictures. Shapes: S seeds, N held-out pictures.
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

REAL, EVEN, AUGMENTED = "real", "real, classes made even", "real, augmented"
SYNTHETIC, BOTH = "synthetic", "real and synthetic"
LEAK = "synthetic pictures that are held out"
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
    if config.utility.shares != (1.0,) and not hasattr(family_module(config, "train"), "recipe_of"):
        raise UserError(
            "utility.shares: this family cannot be trained anew on some of the pictures\n"
            "way out: utility.shares=[1]"
        )


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json; the metrics are its scores by name."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.scores.classifier import of_learnt_classes

    config, prepared = context.config, context.inputs["prepare"]
    settings: Utility = config.utility
    train = PreparedImages.open(prepared, "train")
    require_labels(train, "utility")
    unseen = PreparedImages.open(prepared, "held_out")
    held_out = of_learnt_classes(unseen, train)
    most = first(train, settings.real)
    scores = []
    for share in settings.shares:
        real = first(most, max(1, round(share * len(most.labels))))
        anew = settings.shares != (1.0,) and len(real.labels) < len(train.labels)
        name, synthetic = _synthetic(context, real, anew, held_out)
        right = {}
        for diet, given in diets(real, synthetic).items():
            context.terminal.write(
                f"utility: {settings.seeds} classifiers on {diet}: {len(given.images.labels):,}\n"
            )
            right[diet] = _right(config, given, held_out)
        said = f"synthetic: {name}, {len(synthetic.labels):,} pictures; real: {len(real.labels):,}"
        suffix = "" if settings.shares == (1.0,) else f", {share:.0%} of the pictures"
        scores += _scores(right, said, suffix)
        scores.append(_leak(synthetic, unseen, said, suffix))
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
    """What is compared, the baselines first. A class without a picture stays without one."""
    import numpy as np

    from recipes.common.images.dataset import PreparedImages

    both = PreparedImages(
        np.concatenate([real.images, synthetic.images]),
        np.concatenate([real.labels, synthetic.labels]),
        real.classes,
    )
    rows = [
        found
        for found in (np.flatnonzero(real.labels == label) for label in range(len(real.classes)))
        if len(found)
    ]
    even = np.concatenate([np.resize(found, max(map(len, rows))) for found in rows])
    return {
        REAL: Diet(real),
        EVEN: Diet(PreparedImages(real.images[even], real.labels[even], real.classes)),
        AUGMENTED: Diet(real, augment=True),
        SYNTHETIC: Diet(synthetic),
        BOTH: Diet(both),
    }


def _synthetic(
    context: Context, real: "PreparedImages", anew: bool, held_out: "PreparedImages"
) -> tuple[str, "PreparedImages"]:
    """Pictures of the family's first sampler, with the labels of the real ones, over and over.

    anew: by a model that has seen no other picture than the real ones.
    """
    import tempfile
    from pathlib import Path

    config, inputs = context.config, context.inputs
    settings = config.utility
    if anew:
        from recipes.common.scores.few import sampler_of

        context.terminal.write(f"utility: training on {len(real.labels):,} pictures alone\n")
        with tempfile.TemporaryDirectory() as scratch:
            name, sampler = sampler_of(config, real, held_out, Path(scratch))
    else:
        samplers = family_module(config, "sampler").load_samplers(config, inputs["prepare"], inputs["train"])
        if not samplers:
            raise UserError(
                "utility needs synthetic pictures, and this model draws none\nway out: no section `utility:`"
            )
        name, sampler = next(iter(samplers.items()))
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
    from recipes.common.scores.classifier import ImageClassifier, classes_of, trained_net

    shape = Shape.of(held_out)
    recipe = ImageClassifier(training, shape, diet.images, augment=diet.augment, flip=flip)
    return classes_of(trained_net(recipe), held_out.images)


def _leak(synthetic: "PreparedImages", held_out: "PreparedImages", pictures: str, suffix: str) -> Score:
    """Whether the model knows what the classifiers are judged on."""
    from pipeline.scores.intervals import wilson_interval
    from recipes.common.scores.memorisation import copies

    flags = copies(synthetic.images, held_out.images)
    protocol = f"synthetic pictures that are a held-out one, byte for byte; {pictures}; Wilson interval"
    interval = wilson_interval(int(flags.sum()), len(flags))
    return Score(
        LEAK + suffix, SYNTHETIC, float(flags.mean()), interval, "share", len(flags), protocol, "lower"
    )


def _scores(right: dict[str, "np.ndarray"], pictures: str, suffix: str) -> list[Score]:
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
                    name + suffix,
                    diet,
                    float(table.mean()),
                    interval,
                    protocol=f"{PROTOCOL[name]}; {basis}",
                    **facts,
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
