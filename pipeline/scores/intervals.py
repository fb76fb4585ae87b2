"""95 % intervals: the bootstrap over documents, Wilson's for shares, the normal one of a standard error."""

import math

import numpy as np

Interval = tuple[float, float]

NORMAL_QUANTILE = 1.959963984540054  # of 0.975


def bootstrap_interval(totals: np.ndarray, weights: np.ndarray, samples: int, seed: int) -> Interval:
    """Percentile interval of sum(totals) / sum(weights) over units drawn with replacement (Efron 1979).

    For a paired difference of two models on the same units give the difference of their totals.

    Args:
        totals, weights: float or int [D], such as nats and bytes of each document.
        samples: resamples drawn; the same `seed` draws the same ones.
    """
    random = np.random.default_rng(seed)
    units = len(totals)
    ratios = np.empty(samples)
    for sample in range(samples):
        drawn = random.integers(0, units, units)
        ratios[sample] = totals[drawn].sum() / weights[drawn].sum()
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def wilson_interval(successes: int, trials: int) -> Interval:
    """Wilson's score interval of a share (Wilson 1927): inside [0, 1], and not empty at 0 or all successes."""
    z2 = NORMAL_QUANTILE**2
    share = successes / trials
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    reach = NORMAL_QUANTILE * spread / (1 + z2 / trials)
    # Rounding must not leave the bound at 0 or 1 a hair outside.
    low = 0.0 if successes == 0 else centre - reach
    return low, 1.0 if successes == trials else centre + reach


def normal_interval(share: float, standard_error: float) -> Interval:
    """share +- 1.96 standard errors, cut to [0, 1]."""
    reach = NORMAL_QUANTILE * standard_error
    return max(0.0, share - reach), min(1.0, share + reach)
