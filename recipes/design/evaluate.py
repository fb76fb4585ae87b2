"""Stage `evaluate`: every score of a diffusion model, and how well requests are met.

A drawn picture meets a request if every value that was asked for is found in it: measured ones by the measure itself,
the class by the classifier, values of a table by classifiers that are trained here. Shapes: N pictures, A attributes,
R requests, K pictures of each.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from recipes.design.asked import digits_of, number_of
from recipes.design.config import DesignConfig

if TYPE_CHECKING:
    import numpy as np

    from recipes.common.images.dataset import PreparedImages
    from recipes.common.scores.features import FeatureNetwork
    from recipes.design.attributes import Known

HELD, VARIETY = "requests met", "variety within a request"
REAL, CHANCE = "real pictures", "chance"
MOST_REAL = 2000  # held-out pictures by which the judges are judged


@dataclass(frozen=True)
class Judge:
    """Finds the values of pictures.

    network: the classifier of the classes, where they are told by it, and of distances; learnt: classifiers of a
    table's attributes.
    """

    known: "Known"
    network: "FeatureNetwork"
    learnt: dict[str, Any]

    def sees(self, place: int) -> bool:
        """Whether the attribute at `place` can be found in a picture."""
        if place == 0 and self.known.classes:
            return self.network.tells_classes
        name = self.known.attributes[place].name
        return name in self.learnt or name in self.known.measures

    def right(self, pictures: "np.ndarray", wanted_NA: "np.ndarray") -> "np.ndarray":
        """Which values of pictures uint8 (N, H, W, C) are the wanted ones, bool (N, A); unseen and open ones are."""
        import numpy as np

        right_NA = np.ones(wanted_NA.shape, bool)
        for place in filter(self.sees, range(len(self.known.attributes))):
            right_NA[:, place] = self._digits(place, pictures) == wanted_NA[:, place]
        return right_NA | (wanted_NA == [attribute.open for attribute in self.known.attributes])

    def _digits(self, place: int, pictures: "np.ndarray") -> "np.ndarray":
        from recipes.common.scores.classifier import classes_of

        if place == 0 and self.known.classes:
            return self.network.classes_of(self.network(pictures))
        name = self.known.attributes[place].name
        if name in self.learnt:
            return 1 + classes_of(self.learnt[name], pictures)
        return self.known.measured(name, pictures)


def check(config: DesignConfig) -> None:
    """Raises UserError where a network that scores look through will not be there."""
    from recipes.common.scores.scoring import check_scores

    check_scores(config.evaluate, config.features)


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json; the metrics are the held-out error, the best sampler's scores, and requests met."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.scores.scoring import image_scores
    from recipes.design.attributes import Known
    from recipes.design.design import Design
    from recipes.design.sampler import load_net, load_samplers
    from recipes.diffusion.evaluate import held_out_scores

    config: DesignConfig = context.config
    inputs, trained = context.inputs, context.inputs["train"]
    features = inputs["features"] if config.features else None
    known = Known.open(inputs["attributes"])
    own = held_out_scores(
        Design(config, inputs["prepare"], inputs["attributes"]), load_net(config, trained)[0]
    )
    samplers = load_samplers(config, inputs["prepare"], trained)

    def say(line: str) -> None:
        context.terminal.write(f"evaluate: {line}\n")

    drawn, missing = image_scores(
        samplers, inputs["prepare"], features, config.evaluate, say, conditional=known.classes > 0
    )
    splits = {split: PreparedImages.open(inputs["prepare"], split) for split in ("train", "held_out")}
    judge = Judge(known, network_of(config, features), _learnt(context, known, splits["train"], say))
    first = next(iter(samplers))
    met, short = _requests(context, judge, splits, samplers[first], first, say)
    scores, missing = [*own, *met, *drawn], missing | short
    write_json(context.out / "evaluation.json", {"scores": [s.as_json() for s in scores], "missing": missing})
    return {
        score.key: score.value for score in scores if score in own or score.model in (first, UNSEEN + first)
    }


UNSEEN = "values never seen together, "


def network_of(config: DesignConfig, features: Path | None) -> "FeatureNetwork":
    """The network that distances between designs are taken in."""
    from recipes.common.scores.efficientnet import load_efficientnet_lite0
    from recipes.common.scores.features import load_features

    return load_features(features) if features else load_efficientnet_lite0()


def _learnt(context: Context, known: "Known", train: "PreparedImages", say: Any) -> dict[str, Any]:
    """A classifier of each attribute that a table gives, trained in this process on pictures whose value is known."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.shape import Shape
    from recipes.common.scores.classifier import ImageClassifier, trained_net
    from recipes.design.attributes import labels_of

    config, found = context.config, {}
    digits_NA = unpacked(known, labels_of(context.inputs["attributes"], "train"))
    for place, attribute in enumerate(known.attributes):
        if (place == 0 and known.classes) or attribute.name in known.measures or config.features is None:
            continue
        say(f"a classifier of {attribute.name}")
        rows = digits_NA[:, place] > 0
        images = PreparedImages(train.images[rows], digits_NA[rows, place] - 1, attribute.values[1:])
        recipe = ImageClassifier(config.features, Shape.of(images), images, augment=True)
        found[attribute.name] = trained_net(recipe)
    return found


def unpacked(known: "Known", labels_N: "np.ndarray") -> "np.ndarray":
    """The digits of labels, int64 (N, A)."""
    import numpy as np

    return np.stack(digits_of(known.attributes, labels_N), axis=1)


def requests_of(known: "Known", count: int, least: int) -> "np.ndarray":
    """The labels of the commonest combinations in which nothing is open, at most `count`, int64 (R,)."""
    import numpy as np

    there = [label for label, pictures in known.counts.items() if pictures >= least]
    opened = np.array([attribute.open for attribute in known.attributes])
    labels = np.array(there, np.int64)
    return labels[(unpacked(known, labels) != opened).all(axis=1)][:count] if there else labels


def unseen_of(known: "Known", count: int, least: int, seed: int) -> "np.ndarray":
    """Labels that no training picture has, though each value occurs with the first attribute's, drawn by `seed`."""
    from itertools import product

    import numpy as np

    labels = np.array(list(known.counts), np.int64)
    pictures = np.array(list(known.counts.values()), np.int64)
    digits = unpacked(known, labels)
    choices = [[digit for digit in range(len(one.values)) if digit != one.open] for one in known.attributes]
    pairs = {
        (first, place, digit)
        for first in choices[0]
        for place in range(1, len(choices))
        for digit in choices[place]
        if pictures[(digits[:, 0] == first) & (digits[:, place] == digit)].sum() >= least
    }
    found = [
        number_of(known.attributes, chosen)
        for chosen in product(*choices)
        if all((chosen[0], place, chosen[place]) in pairs for place in range(1, len(chosen)))
    ]
    never = np.array([label for label in found if label not in known.counts], np.int64)
    return np.sort(np.random.default_rng(seed).permutation(never)[:count])


def _requests(
    context: Context,
    judge: Judge,
    splits: dict[str, "PreparedImages"],
    sampler: Any,
    name: str,
    say: Any,
) -> tuple[list[Score], dict[str, str]]:
    """Requests met, attribute by attribute and all of them; the same of held-out pictures, and by chance; variety."""
    import numpy as np

    from recipes.design.attributes import labels_of

    settings, known = context.config.evaluate, judge.known
    each = settings.pictures_a_request
    asked = requests_of(known, settings.requests, settings.least)
    if not len(asked):
        return [], {HELD: f"no combination of values has {settings.least} training pictures"}
    scores, missing = [], {}
    unseen = unseen_of(known, settings.unseen_requests, settings.least, seed=0)
    if settings.unseen_requests and not len(unseen):
        missing[f"{HELD}, never seen together"] = "every combination of values occurs in training"
    say(f"{len(asked) + len(unseen)} requests, {each} pictures of each")
    pictures = {
        name: _drawn(sampler, asked, each),
        **({UNSEEN + name: _drawn(sampler, unseen, each)} if len(unseen) else {}),
    }
    wanted = {name: asked, UNSEEN + name: unseen}
    for place, attribute in enumerate(known.attributes):
        if not judge.sees(place):
            missing[f"{HELD}, {attribute.name}"] = "nothing tells it: the recipe has no section `features`"
    for model, drawn in pictures.items():
        right = judge.right(drawn, unpacked(known, np.repeat(wanted[model], each)))
        scores += _met(judge, model, right, each, settings.resamples, PROTOCOL)
    held_out = splits["held_out"].images[:MOST_REAL]
    truth = unpacked(known, labels_of(context.inputs["attributes"], "held_out")[: len(held_out)])
    scores += _met(judge, REAL, judge.right(held_out, truth), 1, settings.resamples, REAL_PROTOCOL)
    labels = labels_of(context.inputs["attributes"], "train")
    chance = unpacked(known, labels)[:, None] == unpacked(known, asked)[None]  # (N, R, A)
    scores += [
        Score(title, CHANCE, float(share), None, "share", len(asked), CHANCE_PROTOCOL, "higher")
        for title, share, _ in _titles(judge, chance.reshape(-1, len(known.attributes)))
    ]
    return scores + _variety(judge, asked, splits["train"].images, labels, pictures[name], name, settings), (
        missing
    )


PROTOCOL = (
    "pictures in which the value asked for is found, the commonest combinations of training asked for alike; measured "
    "values by their measure, the others by classifiers; 95% bootstrap interval over requests"
)
REAL_PROTOCOL = (
    "held-out pictures in which their own value is found: what is missing is the classifiers' own error; 95% bootstrap "
    "interval over pictures"
)
CHANCE_PROTOCOL = "pairs of a training picture and a request in which the picture has the value asked for"


def _drawn(sampler: Any, labels: "np.ndarray", each: int) -> "np.ndarray":
    """`each` pictures of every label, label by label; picture i of each with seed i."""
    import numpy as np

    return sampler(list(range(each)) * len(labels), np.repeat(labels, each).tolist())


def _titles(judge: Judge, right_NA: "np.ndarray") -> list[tuple[str, float, "np.ndarray"]]:
    """(name of the score, share, the flags) of all attributes together, and of each that can be found."""
    seen = [place for place in range(right_NA.shape[1]) if judge.sees(place)]
    names = [HELD, *(f"{HELD}, {judge.known.attributes[place].name}" for place in seen)]
    columns = [right_NA[:, seen].all(axis=1), *right_NA.T[seen]]
    return [(name, float(column.mean()), column) for name, column in zip(names, columns, strict=True)]


def _met(
    judge: Judge, model: str, right_NA: "np.ndarray", each: int, resamples: int, protocol: str
) -> list[Score]:
    import numpy as np

    from pipeline.scores.intervals import bootstrap_interval

    found = []
    for title, share, column in _titles(judge, right_NA):
        by_request = column.reshape(-1, each).mean(axis=1)
        interval = bootstrap_interval(by_request, np.ones(len(by_request)), resamples, seed=0)
        found.append(Score(title, model, share, interval, "share", len(column), protocol, "higher"))
    return found


def _variety(
    judge: Judge,
    asked: "np.ndarray",
    train: "np.ndarray",
    labels: "np.ndarray",
    drawn: "np.ndarray",
    name: str,
    settings: Any,
) -> list[Score]:
    """The mean distance between two pictures of one request, of drawn ones and of training ones."""
    import numpy as np

    from pipeline.scores.intervals import bootstrap_interval

    each = settings.pictures_a_request
    places = [np.flatnonzero(labels == label)[:each] for label in asked]
    real = [judge.network(train[rows]) for rows in places]
    made = np.split(judge.network(drawn), len(asked))
    found = []
    for model, groups in ((name, made), (REAL, real)):
        values = np.array([_spread(group) for group in groups])
        interval = bootstrap_interval(values, np.ones(len(values)), settings.resamples, seed=0)
        protocol = (
            f"mean distance between two pictures of a request, up to {each} of each, {len(asked)} requests; in the "
            f"features of {judge.network.what}; real pictures: training ones; 95% bootstrap interval over requests"
        )
        found.append(
            Score(VARIETY, model, float(values.mean()), interval, "", len(asked), protocol, "higher")
        )
    return found


def _spread(rows_KD: "np.ndarray") -> float:
    import numpy as np

    apart = np.linalg.norm(rows_KD[:, None] - rows_KD[None], axis=-1)
    return float(apart[np.triu_indices(len(rows_KD), 1)].mean())


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
