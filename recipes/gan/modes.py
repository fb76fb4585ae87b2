"""Stage `modes`: how many of the 1,000 stacks of digits a generator draws, and how evenly.

A classifier of single digits looks at each channel, as arXiv:1612.02136 does with MNIST's: one of whole stacks would
have 18 examples a class. Real training pictures are counted in the same way, at the same number.
Shapes: N pictures, B of a batch, H rows, W columns, K digits.
"""

import math
from typing import TYPE_CHECKING, Any

from pipeline.files import write_json
from pipeline.results import Score
from pipeline.stage import Context
from recipes.gan.config import ImageConfig, Modes

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from recipes.common.dataset import PreparedImages

MODES, CHANNELS, DIGITS = 1000, 3, 10


def check(config: ImageConfig) -> None:
    """Nothing here can be refused beyond the schema and what `train` refuses."""


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json: the modes and the divergence of each sampler, and of real pictures beside them."""
    from recipes.common.dataset import PreparedImages
    from recipes.gan.sampler import load_samplers

    config: ImageConfig = context.config
    settings, prepared = config.modes, context.inputs["prepare"]
    train, held_out = (PreparedImages.open(prepared, split) for split in ("train", "held_out"))
    classify, accuracy = digit_classifier(settings, train, held_out)
    count = min(settings.samples, len(train.labels))
    drawings = {"real training pictures": train.images[:count]}
    for name, sampler in load_samplers(config, prepared, context.inputs["train"]).items():
        context.terminal.write(f"modes: {count} pictures, {name}\n")
        drawings[name] = sampler(list(range(count)), [seed % MODES for seed in range(count)])
    found = [
        score
        for name, pictures in sorted(drawings.items(), key=lambda pair: pair[0].startswith("real"))
        for score in scores(name, numbers_of(classify, pictures), accuracy)
    ]
    write_json(context.out / "evaluation.json", {"scores": [score.as_json() for score in found]})
    return {score.key: score.value for score in found} | {"digit_accuracy": accuracy, "pictures": count}


def digit_classifier(
    settings: Modes, train: "PreparedImages", held_out: "PreparedImages"
) -> "tuple[Callable[[np.ndarray], np.ndarray], float]":
    """Trained on the channels of the training stacks: uint8 (N, H, W) -> digits (N,), and its held-out accuracy."""
    import torch

    from pipeline.engine import Runtime
    from pipeline.loop import Trainer, evaluate, steps
    from recipes.common.classifier import ImageClassifier, Shape
    from recipes.common.dataset import to_unit

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    singles = [single_digits(split) for split in (train, held_out)]
    recipe = ImageClassifier(settings.classifier, Shape.of(singles[0]), *singles)
    trainer = Trainer(recipe, Runtime(rank=0, world_size=1, device=device, zero_stage=None))
    for _ in steps(trainer):
        pass

    accuracy = evaluate(trainer, recipe.held_out())["accuracy"].mean
    net = trainer.nets()["model"].eval()

    @torch.no_grad()
    def classify(pictures_NHW: "np.ndarray") -> "np.ndarray":
        x = to_unit(torch.from_numpy(pictures_NHW[..., None]).to(device))
        return torch.cat([net(part).argmax(dim=1) for part in x.split(500)]).cpu().numpy()

    return classify, accuracy


def single_digits(stacks: "PreparedImages") -> "PreparedImages":
    """Every channel of every stack as a picture of its own, with its digit as the label."""
    import numpy as np

    from recipes.common.dataset import PreparedImages

    pictures = np.moveaxis(np.asarray(stacks.images), -1, 1).reshape(-1, *stacks.images.shape[1:3], 1)
    labels = np.stack([stacks.labels // DIGITS**place % DIGITS for place in (2, 1, 0)], axis=1).reshape(-1)
    return PreparedImages(pictures, labels, tuple(map(str, range(DIGITS))))


def numbers_of(classify: "Callable[[np.ndarray], np.ndarray]", stacks_NHWC: "np.ndarray") -> "np.ndarray":
    """The number, 0 to 999, that each stack shows: its digits from the first channel to the last, (N,)."""
    import numpy as np

    hundreds, tens, ones = (
        classify(np.ascontiguousarray(stacks_NHWC[..., channel])) for channel in range(CHANNELS)
    )
    return 100 * hundreds + 10 * tens + ones


def covered(numbers: "np.ndarray") -> int:
    """How many of the modes are there at least once."""
    return len(set(numbers.tolist()))


def divergence(numbers: "np.ndarray") -> float:
    """Kullback-Leibler divergence in nats of the histogram of modes from the uniform one."""
    import numpy as np

    shares = np.bincount(numbers, minlength=MODES) / len(numbers)
    return math.fsum(share * math.log(share * MODES) for share in shares.tolist() if share)


def scores(name: str, numbers: "np.ndarray", accuracy: float) -> list[Score]:
    looked = f"digits told by a classifier of single channels, right on {accuracy:.1%} of held-out ones"
    found = [
        ("modes covered", covered(numbers), f"of {MODES}", "modes drawn at least once", "higher"),
        ("divergence of the mode histogram", divergence(numbers), "nats", "KL from uniform", "lower"),
    ]
    return [
        Score(title, name, value, None, unit, len(numbers), f"{protocol}; {looked}", better)
        for title, value, unit, protocol, better in found
    ]


if __name__ == "__main__":
    from pipeline.stage import main

    main("modes")
