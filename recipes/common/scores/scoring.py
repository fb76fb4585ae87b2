"""Scores of generated pictures: distances to held-out real ones, coverage, copies; beside each the same of real ones.

Every sampler is asked for the labels of the first n training pictures, and those pictures themselves are scored as one
more model, `real pictures`: what perfect memory of the training data would score at this n.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.run.errors import UserError
from pipeline.run.results import Score
from pipeline.scores.intervals import Interval, wilson_interval
from recipes.common.images.config import Classifier, ImageScores
from recipes.common.scores import intervals, memorisation
from recipes.common.scores.distances import KernelDistance, frechet_distance
from recipes.common.scores.manifold import Distances, manifold, radii
from recipes.common.scores.real import Real
from recipes.common.threads import one_thread

if TYPE_CHECKING:
    from recipes.common.scores.features import FeatureNetwork

Sampler = Callable[[list[int], list[int]], np.ndarray]  # (seeds, labels) -> uint8 (N, H, W, C)
Pictures = dict[str, np.ndarray]  # model -> uint8 (N, H, W, C)

REAL = "real pictures"
SEED = 0  # of the halves behind an interval


def check_scores(settings: ImageScores, features: Classifier | None) -> None:
    """Refuse, at plan time, networks that will not be there.

    Raises:
        UserError: the classifier is asked for and the recipe has no section `features`; a package is missing.
    """
    if "classifier" in settings.features and features is None:
        raise UserError(
            "evaluate.features: classifier, and the recipe has no section `features:` that trains it\n"
            "way out: add the section, or evaluate.features=[efficientnet_lite0]"
        )
    if "efficientnet_lite0" in settings.features:
        from recipes.common.scores.efficientnet import weights_path

        weights_path()


def image_scores(
    samplers: dict[str, Sampler],
    prepared: Path,
    features: "Path | FeatureNetwork | None",
    settings: ImageScores,
    say: Callable[[str], None],
    conditional: bool = True,
) -> tuple[list[Score], dict[str, str]]:
    """Every score of every sampler and of real pictures; and what was not measured, or less than asked, and why.

    Args:
        samplers: by what a reader calls them; picture i is drawn with seed i.
        prepared: the `prepare` artifact; features: the `features` artifact, or a network of the family's own; None:
            there is no classifier.
        say: told in one line what is being done.
        conditional: whether labels are classes to the samplers; else nobody asks whether they drew the right one, and
            a held-out picture counts whose label no training picture has.

    Raises:
        UserError: a package that a network needs is not installed.
    """
    real = Real.open(prepared, settings.samples, conditional)
    networks, missing = _networks(features, settings)
    if real.count < settings.samples:
        missing["pictures compared"] = (
            f"{real.count:,} of the {settings.samples:,} asked for: {real.shortage}"
        )
    drawn = _drawn(samplers, real, say)
    sheet = Sheet(real, settings)
    for network in networks:
        say(f"scores in {network.name} features")
        _network_scores(sheet, network, drawn, conditional)
        if not network.cheap:
            missing[f"near copies, {network.name} features"] = (
                "not taken of the whole training split: too slow"
            )
    say("copies in pixels")
    _copies(sheet, drawn)
    _near_copies(sheet, drawn, "pixels", memorisation.as_pixels)
    return sheet.scores, missing


def _drawn(samplers: dict[str, Sampler], real: Real, say: Callable[[str], None]) -> Pictures:
    drawn = {}
    for name, sampler in samplers.items():
        say(f"drawing {real.count:,} pictures: {name}")
        drawn[name] = sampler(list(range(real.count)), real.labels)
    return drawn


def _networks(
    features: "Path | FeatureNetwork | None", settings: ImageScores
) -> tuple[list["FeatureNetwork"], dict[str, str]]:
    from recipes.common.scores.efficientnet import load_efficientnet_lite0
    from recipes.common.scores.features import load_features

    found, missing = [], {}
    for name in settings.features:
        if name == "efficientnet_lite0":
            found.append(load_efficientnet_lite0())
        elif features is not None:
            found.append(load_features(features) if isinstance(features, Path) else features)
        else:
            missing["scores in classifier features"] = "the recipe has no section `features`"
    return found, missing


@dataclass
class Sheet:
    """The scores so far, and what all of them need."""

    real: Real
    settings: ImageScores
    scores: list[Score] = field(default_factory=list)

    def add(
        self, name: str, model: str, value: float, interval: Interval, protocol: str, **more: str
    ) -> None:
        """A score of the pictures of `model`; a share of which less is better, unless `more` says otherwise."""
        facts = {"unit": "share", "better": "lower"} | more
        self.scores.append(
            Score(name, model, float(value), interval, count=self.real.count, protocol=protocol, **facts)
        )

    def halves(self, count: int) -> np.ndarray:
        return intervals.halves(count, self.settings.resamples, SEED)


def _network_scores(sheet: Sheet, network: "FeatureNetwork", drawn: Pictures, conditional: bool) -> None:
    real = sheet.real
    reference = network(real.reference)
    rows = {model: network(pictures) for model, pictures in drawn.items()}
    compared = rows | {REAL: network(real.floor)}
    with one_thread():
        for model, generated in compared.items():
            _distance_scores(sheet, network, model, reference, generated)
            _manifold_scores(sheet, network, model, Distances.of(reference, generated))
    if conditional and network.tells_classes and real.train.classes:
        held_out_labels = real.held_out.labels[: real.count]
        for model, features in rows.items():
            _class_score(sheet, network, model, features, np.array(real.labels))
        _class_score(sheet, network, REAL, reference, held_out_labels)
    if network.cheap:
        _near_copies(sheet, drawn, f"{network.name} features", network)


def _distance_scores(
    sheet: Sheet, network: "FeatureNetwork", model: str, reference: np.ndarray, generated: np.ndarray
) -> None:
    drawn = sheet.halves(sheet.real.count)
    against = f"n = {sheet.real.count:,} against as many held-out pictures; {network.what}"
    value = frechet_distance(reference, generated)
    halved = np.array([frechet_distance(reference[rows], generated[rows]) for rows in drawn])
    interval = intervals.jackknife_interval(value, halved, lowest=0.0)
    protocol = (
        f"squared Frechet distance of Gaussians, biased upwards at small n; {against}; {intervals.PROTOCOL}"
    )
    sheet.add(f"Frechet distance, {network.name} features", model, value, interval, protocol, unit="")
    kernel = KernelDistance(reference, generated)
    value = kernel.whole()
    interval = intervals.jackknife_interval(value, kernel.of(drawn))
    protocol = f"unbiased squared MMD with kernel (x.y / D + 1)^3, in blocks of 1,000; {against}; {intervals.PROTOCOL}"
    sheet.add(f"kernel distance, {network.name} features", model, value, interval, protocol, unit="")


def _manifold_scores(sheet: Sheet, network: "FeatureNetwork", model: str, distances: Distances) -> None:
    count, neighbours = sheet.real.count, sheet.settings.neighbours
    found = vars(manifold(distances, neighbours))
    halved = [vars(manifold(distances.among(rows), neighbours)) for rows in sheet.halves(count)]
    for name, value in found.items():
        values = np.array([one[name] for one in halved])
        protocol = f"{MANIFOLD[name]}; k = {neighbours}, n = {count:,} of each; {network.what}"
        title = f"{name}, {network.name} features"
        if name == "density":
            interval = intervals.jackknife_interval(value, values, lowest=0.0)
            sheet.add(
                title, model, value, interval, f"{protocol}; {intervals.PROTOCOL}", better="higher", unit=""
            )
        else:
            interval = intervals.share_interval(value, values, count)
            sheet.add(title, model, value, interval, f"{protocol}; {intervals.SHARE}", better="higher")
    _near_duplicates(sheet, network, model, distances)


MANIFOLD = {
    "precision": "generated pictures within the k-th neighbour's distance of a held-out one (arXiv:1904.06991)",
    "recall": "held-out pictures within the k-th neighbour's distance of a generated one (arXiv:1904.06991)",
    "density": "held-out neighbourhoods that a generated picture is in, over k; 1 is real (arXiv:2002.09797)",
    "coverage": "held-out pictures with a generated one among their k nearest (arXiv:2002.09797)",
}


def _near_duplicates(sheet: Sheet, network: "FeatureNetwork", model: str, distances: Distances) -> None:
    real, generated = (radii(matrix, 1).numpy() for matrix in (distances.real_NN, distances.generated_MM))
    value, interval = _near_share(sheet, generated, real)
    protocol = (
        "generated pictures nearer to another one of the set than the 1st percentile of held-out pictures is to "
        f"another of theirs; n = {len(real):,} of each; {network.what}; {intervals.SHARE}"
    )
    sheet.add(f"near duplicates, {network.name} features", model, value, interval, protocol)


def _near_share(sheet: Sheet, distances: np.ndarray, real: np.ndarray) -> tuple[float, Interval]:
    value = memorisation.near_share(distances, real)
    return value, intervals.share_interval(
        value, _halved(sheet, memorisation.near_share, distances, real), len(distances)
    )


def _halved(
    sheet: Sheet,
    figure: Callable[[np.ndarray, np.ndarray], float],
    distances: np.ndarray,
    real: np.ndarray,
) -> np.ndarray:
    pairs = zip(sheet.halves(len(distances)), sheet.halves(len(real)), strict=True)
    return np.array([figure(distances[rows], real[others]) for rows, others in pairs])


def _class_score(
    sheet: Sheet, network: "FeatureNetwork", model: str, features: np.ndarray, asked: np.ndarray
) -> None:
    right = int((network.classes_of(features) == asked).sum())
    protocol = f"pictures that the classifier takes for the class asked for; {network.what}; Wilson interval"
    interval = wilson_interval(right, len(asked))
    sheet.add(
        "pictures of the class asked for", model, right / len(asked), interval, protocol, better="higher"
    )


def _copies(sheet: Sheet, drawn: Pictures) -> None:
    """What is equal byte for byte: within a set, and to a training picture."""
    real = sheet.real
    for model, pictures in (drawn | {REAL: real.floor}).items():
        _flag_score(sheet, "duplicates", model, memorisation.duplicates(pictures), DUPLICATES)
    for model, pictures in (drawn | {REAL: real.reference}).items():
        found = memorisation.copies(pictures, real.train.images)
        _flag_score(sheet, "copies of training pictures", model, found, COPIES)


DUPLICATES = "pictures that occur more than once in the set, byte for byte; Wilson interval"
COPIES = "pictures that are a training picture, byte for byte; real pictures: held-out ones; Wilson interval"


def _flag_score(sheet: Sheet, name: str, model: str, flags: np.ndarray, protocol: str) -> None:
    sheet.add(name, model, flags.mean(), wilson_interval(int(flags.sum()), len(flags)), protocol)


def _near_copies(
    sheet: Sheet, drawn: Pictures, space: str, rows_of: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Distances to the nearest training picture, against those of held-out ones that decide what is near."""
    real = sheet.real
    sets = {**drawn, REAL: real.others, "": real.unseen}
    places = np.cumsum([len(pictures) for pictures in sets.values()])[:-1]
    queries = np.concatenate([rows_of(pictures) for pictures in sets.values()])
    nearest = memorisation.nearest_distances(queries, real.train.images, rows_of)
    *parts, unseen = np.split(nearest, places)
    for model, distances in zip([*drawn, REAL], parts, strict=True):
        _nearness_scores(sheet, space, model, distances, unseen)


def _nearness_scores(sheet: Sheet, space: str, model: str, distances: np.ndarray, unseen: np.ndarray) -> None:
    real = sheet.real
    basis = f"n = {real.count:,} against {real.part:,} held-out pictures, all {len(real.train.labels):,} training ones"
    value, interval = _near_share(sheet, distances, unseen)
    protocol = f"pictures nearer to a training one than the 1st percentile of held-out ones is; {basis}"
    sheet.add(f"near copies, {space}", model, value, interval, f"{protocol}; {intervals.SHARE}")
    value = memorisation.nearer_chance(distances, unseen)
    halved = _halved(sheet, memorisation.nearer_chance, distances, unseen)
    interval = intervals.jackknife_interval(value, halved, 0.0, 1.0)
    protocol = (
        f"chance that a picture is nearer to a training one than a held-out one is: 0.5 is real; {basis}"
    )
    sheet.add(
        f"nearer to training, {space}",
        model,
        value,
        interval,
        f"{protocol}; {intervals.PROTOCOL}",
        unit="chance",
    )
