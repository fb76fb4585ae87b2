"""Is what training never saw told apart by a likelihood, or better by distance in pixels?

A simple picture is a likely one, seen or not, so a likelihood alone can call what it never saw the most normal of all
(arXiv:1810.09136): an area under the curve below one half is that. What a general coder needs for the picture says how
simple it is (arXiv:1909.11480, Equation 2). What was never seen is a class that was left out, or another data set.
"""

import math
import re
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.outside import Files
from pipeline.run.results import Score

if TYPE_CHECKING:
    import numpy as np

    from recipes.common.images.dataset import PreparedImages

BASELINE = "distance to the nearest training picture"


def check_unseen(config: Any) -> None:
    """Raises UserError where there is nothing that training never saw, or the other data set cannot be read."""
    from recipes.common.images.other import images_of
    from recipes.common.images.prepare import check_images

    if config.anomaly.other:
        try:
            check_images(images_of(config.data, config.anomaly.other))
        except UserError as error:
            raise UserError(re.sub(r"(?<![\w/.-])data\.", "anomaly.other.", str(error))) from None
    elif config.data.left_out_class is None:
        raise UserError(
            "anomaly needs pictures that training never saw\n"
            "way out: anomaly.other.source=digits, or data.left_out_class=NAME with another run.output_dir"
        )


def files_of(config: Any) -> Files:
    """The user's own files of the other data set."""
    from recipes.common.images.other import images_of
    from recipes.common.stages import pictures_of

    return pictures_of(images_of(config.data, config.anomaly.other)) if config.anomaly.other else {}


def ways_of_scoring(
    nats: "np.ndarray", name: str, images: "np.ndarray", train: "PreparedImages", eight_bits: bool
) -> dict[str, "np.ndarray"]:
    """Values that are to be larger for what was never seen: unlikelihood, less the file's size, and pixel distance.

    eight_bits: the likelihood is of 8-bit pixels, as the file's size is.
    """
    from recipes.common.images.sheet import file_sizes
    from recipes.common.scores.memorisation import as_pixels, nearest_distances

    found = {name: nats}
    if eight_bits:
        found[f"{name} less WebP's size"] = nats - 8 * math.log(2) * file_sizes(images, "WEBP")
    return found | {BASELINE: nearest_distances(as_pixels(images), train.images, as_pixels)}


def chosen(config: Any, held_out: "PreparedImages") -> tuple["np.ndarray", "np.ndarray", str]:
    """The first unseen pictures and the first held-out ones of what was trained on, half of each; which are unseen, and
    what these are, in words.

    Raises:
        UserError: the other data set has no picture that can be used.
    """
    import numpy as np

    from recipes.common.images.other import images_of, read

    half, other, left_out = config.anomaly.pictures // 2, config.anomaly.other, config.data.left_out_class
    own = held_out.labels != held_out.classes.index(left_out) if left_out else np.ones(len(held_out.images), bool)
    seen = held_out.images[np.flatnonzero(own)[:half]]
    if other:
        unseen, name = read(images_of(config.data, other), half), f"{other.source}, another data set"
    else:
        unseen, name = held_out.images[np.flatnonzero(~own)[:half]], f"{left_out}, left out of training"
    return np.concatenate([unseen, seen]), np.arange(len(unseen) + len(seen)) < len(unseen), name


def anomaly_scores(
    found: dict[str, "np.ndarray"], unseen: "np.ndarray", name_of_unseen: str, resamples: int, seed: int
) -> list[Score]:
    """Of each way of scoring its area under the ROC curve, and how far that is above the baseline's."""
    protocol = (
        f"area under the ROC curve of {int(unseen.sum())} held-out pictures of {name_of_unseen}, against "
        f"{int((~unseen).sum())} of what was trained on; below 0.5, the unseen ones look more normal than those; 95% "
        "bootstrap interval over pictures"
    )
    scores = []
    for name, values in found.items():
        area, interval = auroc(values, unseen), _interval(values, None, unseen, resamples, seed)
        scores.append(
            Score("anomaly detection", name, area, interval, "AUROC", len(unseen), protocol, "higher")
        )
    baseline = found.pop(BASELINE)
    for name, values in found.items():
        gain = auroc(values, unseen) - auroc(baseline, unseen)
        low, high = _interval(values, baseline, unseen, resamples, seed)
        wins = f"{name} wins" if low > 0 else "distance wins" if high < 0 else "neither wins"
        paired = f"beside the {BASELINE}, on the same pictures: {wins}; 95% paired bootstrap interval"
        model = f"{name}, over pixel distance"
        scores.append(Score("anomaly gain", model, gain, (low, high), "AUROC", len(unseen), paired, "higher"))
    return scores


def auroc(values: "np.ndarray", unseen: "np.ndarray") -> float:
    """The share of (unseen, seen) pairs in which the unseen one has the larger value; ties count half."""
    import numpy as np

    ordered = np.sort(values[~unseen])
    below = np.searchsorted(ordered, values[unseen], side="left")
    upto = np.searchsorted(ordered, values[unseen], side="right")
    return float((below + upto).mean() / (2 * len(ordered)))


def _interval(
    values: "np.ndarray", others: "np.ndarray | None", unseen: "np.ndarray", resamples: int, seed: int
) -> tuple[float, float]:
    """Bootstrap over pictures, unseen and seen ones drawn apart; of the difference to `others` where they are given."""
    import numpy as np

    random = np.random.default_rng(seed)
    places = [np.flatnonzero(unseen), np.flatnonzero(~unseen)]
    areas = []
    for _ in range(resamples):
        drawn = np.concatenate([random.choice(place, len(place)) for place in places])
        area = auroc(values[drawn], unseen[drawn])
        areas.append(area - (auroc(others[drawn], unseen[drawn]) if others is not None else 0.0))
    low, high = np.quantile(areas, (0.025, 0.975))
    return float(low), float(high)
