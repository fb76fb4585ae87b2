"""Is a class that training never saw told apart by a likelihood, or better by distance in pixels?

A simple picture is a likely one, seen or not, so a likelihood alone can call what it never saw the most normal of all
(arXiv:1810.09136). What a general coder needs for the picture says how simple it is (arXiv:1909.11480, Equation 2).
"""

import math
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.results import Score

if TYPE_CHECKING:
    import numpy as np

    from recipes.common.images.dataset import PreparedImages

BASELINE = "distance to the nearest training picture"


def check_left_out(config: Any) -> None:
    """Raises UserError where no class is left out of training."""
    if config.data.left_out_class is None:
        raise UserError(
            "anomaly needs a class that training never saw\n"
            "way out: data.left_out_class=NAME, with another run.output_dir"
        )


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


def chosen(held_out: "PreparedImages", left_out: int, count: int) -> tuple["np.ndarray", "np.ndarray"]:
    """The first held-out pictures of the left-out class and of the others, half of each, and which are unseen."""
    import numpy as np

    unseen = np.flatnonzero(held_out.labels == left_out)[: count // 2]
    seen = np.flatnonzero(held_out.labels != left_out)[: count // 2]
    rows = np.concatenate([unseen, seen])
    return held_out.images[rows], np.arange(len(rows)) < len(unseen)


def anomaly_scores(
    found: dict[str, "np.ndarray"], unseen: "np.ndarray", left_out: str, resamples: int, seed: int
) -> list[Score]:
    """Of each way of scoring its area under the ROC curve, and how far that is above the baseline's."""
    protocol = (
        f"area under the ROC curve of {int(unseen.sum())} held-out pictures of {left_out}, left out "
        f"of training, against {int((~unseen).sum())} of the other classes; 95% bootstrap interval over pictures"
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
