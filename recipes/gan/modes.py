"""Stage `modes`: how many of the 1,000 stacks of digits a generator draws, and how evenly.

A classifier of single digits looks at each channel, as arXiv:1612.02136 does with MNIST's: one of whole stacks would
have 18 examples a class. It must be sure of all three, or noise would be counted as a thousand modes. Real training
pictures are counted in the same way, at the same number.
Shapes: N pictures, M of them sure, H rows, W columns, K digits.
"""

import math
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from recipes.gan.config import ImageConfig, Modes

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from recipes.common.images.dataset import PreparedImages

MODES, CHANNELS, DIGITS = 1000, 3, 10
SURE = 0.9  # probability of the likeliest digit, in each channel
REAL = "real pictures"


def check(config: ImageConfig) -> None:
    """Nothing here can be refused beyond the schema and what `train` refuses."""


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json: the modes and the divergence of each sampler, and of real pictures beside them."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.gan.sampler import load_samplers

    config: ImageConfig = context.config
    settings, prepared = config.modes, context.inputs["prepare"]
    train, held_out = (PreparedImages.open(prepared, split) for split in ("train", "held_out"))
    classify, accuracy = digit_classifier(settings, train, held_out)
    count = min(settings.samples, len(train.labels))
    drawings = {}
    for name, sampler in load_samplers(config, prepared, context.inputs["train"]).items():
        context.terminal.write(f"modes: {count} pictures, {name}\n")
        drawings[name] = sampler(list(range(count)), [seed % MODES for seed in range(count)])
    drawings[REAL] = train.images[:count]
    found = [
        score
        for name, pictures in drawings.items()
        for score in scores(name, numbers_of(classify, pictures), count, accuracy)
    ]
    write_json(context.out / "evaluation.json", {"scores": [score.as_json() for score in found]})
    return {score.key: score.value for score in found} | {"digit_accuracy": accuracy, "pictures": count}


def digit_classifier(
    settings: Modes, train: "PreparedImages", held_out: "PreparedImages"
) -> "tuple[Callable[[np.ndarray], np.ndarray], float]":
    """Trained on the training stacks' channels: uint8 (N, H, W) -> probabilities (N, K); its held-out accuracy."""
    import torch

    from pipeline.train.loop import evaluate
    from recipes.common.images.pixels import to_unit
    from recipes.common.images.shape import Shape
    from recipes.common.scores.classifier import ImageClassifier
    from recipes.common.training import trained_here

    singles = [single_digits(split) for split in (train, held_out)]
    recipe = ImageClassifier(settings.classifier, Shape.of(singles[0]), *singles)
    trainer = trained_here(recipe)
    accuracy = evaluate(trainer, recipe.held_out())["accuracy"].mean
    net = trainer.nets()["model"].eval()

    @torch.no_grad()
    def classify(pictures_NHW: "np.ndarray") -> "np.ndarray":
        x = to_unit(torch.from_numpy(pictures_NHW[..., None]).to(trainer.runtime.device))
        return torch.cat([net(part).softmax(dim=1) for part in x.split(500)]).cpu().numpy()

    return classify, accuracy


def single_digits(stacks: "PreparedImages") -> "PreparedImages":
    """Every channel of every stack as a picture of its own, with its digit as the label."""
    import numpy as np

    from recipes.common.images.dataset import PreparedImages

    pictures = np.moveaxis(np.asarray(stacks.images), -1, 1).reshape(-1, *stacks.images.shape[1:3], 1)
    labels = np.stack([stacks.labels // DIGITS**place % DIGITS for place in (2, 1, 0)], axis=1).reshape(-1)
    return PreparedImages(pictures, labels, tuple(map(str, range(DIGITS))))


def numbers_of(classify: "Callable[[np.ndarray], np.ndarray]", stacks_NHWC: "np.ndarray") -> "np.ndarray":
    """The numbers, 0 to 999, of the stacks whose three digits are sure, (M,): hundreds are the first channel."""
    import numpy as np

    channels = np.moveaxis(np.asarray(stacks_NHWC), -1, 0)
    sure, number = np.ones(len(stacks_NHWC), dtype=bool), np.zeros(len(stacks_NHWC), dtype=np.int64)
    for channel_NHW in channels:
        probabilities = classify(np.ascontiguousarray(channel_NHW))
        sure &= probabilities.max(axis=1) >= SURE
        number = DIGITS * number + probabilities.argmax(axis=1)
    return number[sure]


def covered(numbers: "np.ndarray") -> int:
    """How many of the modes are there at least once."""
    return len(set(numbers.tolist()))


def divergence(numbers: "np.ndarray") -> float:
    """Kullback-Leibler divergence in nats of the modes' histogram from the uniform one; without any, its largest."""
    import numpy as np

    if not len(numbers):
        return math.log(MODES)
    shares = np.bincount(numbers, minlength=MODES) / len(numbers)
    return math.fsum(share * math.log(share * MODES) for share in shares.tolist() if share)


def scores(name: str, numbers: "np.ndarray", count: int, accuracy: float) -> list[Score]:
    """Of `count` drawn stacks, those of which the classifier is sure show `numbers`."""
    from pipeline.scores.intervals import wilson_interval

    looked = (
        f"by a classifier of single channels, right on {accuracy:.1%} of held-out digits; it counts a stack where it "
        f"is at least {SURE:.0%} sure of each of the three"
    )
    title = "divergence of the mode histogram"
    protocol = f"KL of the recognised stacks' histogram from the uniform one; {looked}"
    return [
        Score("modes covered", name, covered(numbers), None, f"of {MODES}", count, looked, "higher"),
        Score(title, name, divergence(numbers), None, "nats", count, protocol, "lower"),
        Score(
            "recognised stacks",
            name,
            len(numbers) / count,
            wilson_interval(len(numbers), count),
            "share",
            count,
            looked,
            "higher",
        ),
    ]


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("modes")
