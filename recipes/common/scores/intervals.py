"""95 % intervals of figures on sets of pictures, where neighbours and covariances forbid the bootstrap.

A bootstrap draws some pictures twice, and a picture's twin is its nearest neighbour: precision, coverage, duplicates
and Frechet distances of such sets are off by more than their spread. Half-sampling draws none twice.
"""

import math

import numpy as np

from pipeline.scores.intervals import NORMAL_QUANTILE, Interval, wilson_interval

PROTOCOL = "95% interval: delete-half jackknife over the pictures of both sets, of the figure at this n"
SHARE = f"{PROTOCOL}, or Wilson's over the pictures where that is wider"


def halves(count: int, resamples: int, seed: int) -> np.ndarray:
    """Which half of `count` units each resample holds, int64 (resamples, count // 2), each ascending."""
    random = np.random.default_rng(seed)
    drawn = random.random((resamples, count)).argsort(axis=1)[:, : count // 2]
    return np.sort(drawn, axis=1)


def jackknife_interval(
    value: float, halved: np.ndarray, lowest: float = -math.inf, highest: float = math.inf
) -> Interval:
    """value +- 1.96 standard errors, cut at `lowest` and `highest`.

    The variance of a figure of half of the units around its mean over such halves, drawn without replacement, is that
    of the figure of all of them (the delete-d jackknife of Shao and Wu 1989, doi:10.1214/aos/1176347263, d = n / 2).

    Args:
        halved: the figure of each of `halves`, (resamples,).
    """
    reach = NORMAL_QUANTILE * float(np.std(halved, ddof=1))
    return max(lowest, value - reach), min(highest, value + reach)


def share_interval(value: float, halved: np.ndarray, count: int) -> Interval:
    """The same of a share of `count` units, or Wilson's where that is wider: at 0 and 1 all halves may agree."""
    low, high = jackknife_interval(value, halved)
    lower, higher = wilson_interval(round(value * count), count)
    return max(0.0, min(low, lower)), min(1.0, max(high, higher))


def crossed_interval(values_SN: np.ndarray) -> Interval:
    """Of the mean over S seeds and N pictures, both of them samples; one seed alone says nothing of seeds.

    The variances of the seeds' means and of the pictures' means add; the few seeds are allowed for by Student's t with
    S - 1 degrees of freedom.
    """
    from scipy.stats import t

    seeds, pictures = values_SN.shape
    of_pictures = NORMAL_QUANTILE * values_SN.mean(axis=0).std(ddof=1) / math.sqrt(pictures)
    of_seeds = 0.0
    if seeds > 1:
        of_seeds = t.ppf(0.975, seeds - 1) * values_SN.mean(axis=1).std(ddof=1) / math.sqrt(seeds)
    reach, value = math.hypot(of_pictures, of_seeds), float(values_SN.mean())
    return value - reach, value + reach
