"""Catches a distance between equal sets, one that is not its formula, a biased one, an interval too short."""

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from recipes.common.scores.distances import KernelDistance, frechet_distance
from recipes.common.scores.intervals import crossed_interval, halves, jackknife_interval, share_interval
from recipes.common.threads import one_thread


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


def normal(seed: int, rows: int, features: int, mean: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return mean + scale * np.random.default_rng(seed).standard_normal((rows, features))


def exactly(mean: np.ndarray, covariance: np.ndarray, rows: int = 500) -> np.ndarray:
    """Rows whose own mean and unbiased covariance are exactly these."""
    points = normal(0, rows, len(mean))
    points = points - points.mean(axis=0)
    white = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points.T))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_two_gaussians_are_apart_by_the_closed_form():
    means, variances = (
        np.array([[0.0, 1.0, -2.0], [1.0, 1.0, 0.0]]),
        np.array([[1.0, 4.0, 9.0], [4.0, 4.0, 1.0]]),
    )
    found = frechet_distance(
        *(exactly(mean, np.diag(spread)) for mean, spread in zip(means, variances, strict=True))
    )
    expected = (
        np.square(means[0] - means[1]).sum() + np.square(np.sqrt(variances[0]) - np.sqrt(variances[1])).sum()
    )
    assert expected == 5 + 1 + 0 + 4
    assert found == pytest.approx(expected, abs=1e-10)  # measured 4e-14


def test_a_set_is_at_no_distance_from_itself():
    for rows, features in ((200, 16), (20, 50)):
        points = normal(1, rows, features)
        assert frechet_distance(points, points[::-1]) == pytest.approx(0, abs=1e-9)  # measured 3e-14


class Pass(torch.nn.Module):
    """Features are what is given."""

    num_features = 6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_the_frechet_distance_is_torchmetrics():
    sets = normal(2, 100, 6), normal(3, 130, 6, 0.5, 2.0) @ np.diag([1, 2, 3, 1, 0.1, 1])
    metric = FrechetInceptionDistance(feature=Pass(), normalize=False).set_dtype(torch.float64)
    for rows, is_real in zip(sets, (True, False), strict=True):
        metric.update(torch.from_numpy(rows), real=is_real)
    assert frechet_distance(*sets) == pytest.approx(
        float(metric.compute()), rel=1e-5
    )  # torchmetrics ends in fp32


def test_fewer_rows_than_features_are_no_special_case():
    sets = normal(4, 12, 30), normal(5, 15, 30, 1.0)
    spreads = [np.cov(rows.T) for rows in sets]
    root = np.sqrt(np.linalg.eigvals(spreads[0] @ spreads[1]).astype(complex)).real.sum()
    apart = np.square(sets[0].mean(axis=0) - sets[1].mean(axis=0)).sum()
    expected = apart + np.trace(spreads[0]) + np.trace(spreads[1]) - 2 * root
    assert frechet_distance(*sets) == pytest.approx(
        expected, rel=1e-5
    )  # the roots of 1e-17 in `expected` are 3e-9


def test_one_row_has_no_covariance():
    with pytest.raises(ValueError, match="two rows of each set, not 1 and 5"):
        frechet_distance(normal(0, 1, 3), normal(0, 5, 3))


def test_the_kernel_distance_is_torchmetrics():
    sets = normal(6, 80, 5), normal(7, 80, 5, 0.3)
    expected = float(poly_mmd(*map(torch.from_numpy, sets)))
    assert KernelDistance(*sets).whole() == pytest.approx(expected, rel=1e-12)


def test_the_kernel_distance_of_some_rows_is_that_of_sets_of_them():
    sets, drawn = (normal(8, 60, 5), normal(9, 60, 5, 0.3)), halves(60, 3, 0)
    found = KernelDistance(*sets).of(drawn)
    expected = [KernelDistance(*(rows[places] for rows in sets)).whole() for places in drawn]
    assert found == pytest.approx(expected, rel=1e-9)


def test_blocks_are_averaged_and_a_partial_one_is_left_out():
    sets = normal(10, 50, 4), normal(11, 50, 4, 1.0)
    blocks = [
        KernelDistance(*(rows[place] for rows in sets)).whole() for place in (slice(0, 20), slice(20, 40))
    ]
    assert KernelDistance(*sets, block=20).whole() == pytest.approx(np.mean(blocks), rel=1e-12)


def test_the_kernel_distance_has_the_mean_of_its_closed_form():
    shift, repeats = 0.5, 400
    # Of (xy + 1)^3: 3, 3 and 1 times the squared differences of the first three moments.
    expected = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    for mean, closed in ((0.0, 0.0), (shift, expected)):
        found = [
            KernelDistance(normal(2 * seed, 100, 1), normal(2 * seed + 1, 100, 1, mean)).whole()
            for seed in range(repeats)
        ]
        error = np.std(found) / np.sqrt(repeats)
        assert np.mean(found) == pytest.approx(closed, abs=3 * error)
        assert error < 0.15  # counting the diagonals, the biased estimate, would add 0.56 and more


def test_halves_hold_no_unit_twice_and_every_unit_as_often():
    drawn = halves(40, 500, seed=1)
    assert drawn.shape == (500, 20)
    assert all(len(set(places)) == 20 for places in drawn.tolist())
    assert np.bincount(drawn.ravel(), minlength=40) == pytest.approx(
        np.full(40, 250), abs=60
    )  # 5 standard errors
    assert (halves(40, 500, seed=1) == drawn).all() and (halves(40, 500, seed=2) != drawn).any()


@pytest.mark.parametrize("shift, lowest, highest", [(0.5, 0.90, 0.99), (0.0, 0.97, 1.0)])
def test_intervals_hold_the_mean_of_frechet_distances_as_often_as_they_say(shift, lowest, highest):
    found = []
    for seed in range(120):
        sets = normal(2 * seed, 100, 4), normal(2 * seed + 1, 100, 4, shift)
        value = frechet_distance(*sets)
        halved = np.array(
            [frechet_distance(*(rows[places] for rows in sets)) for places in halves(100, 40, seed)]
        )
        found.append((value, *jackknife_interval(value, halved, lowest=0.0)))
    values, lows, highs = np.array(found).T
    # Where both sets are drawn alike the distance is all bias, which halves overstate: the interval is too wide.
    assert lowest <= ((lows <= values.mean()) & (values.mean() <= highs)).mean() <= highest


def test_a_bootstrap_would_miss_them():
    """Why there is a jackknife: a set drawn with replacement is further from the other than the set itself."""
    sets = normal(0, 100, 20), normal(1, 100, 20)
    random = np.random.default_rng(0)
    drawn = [frechet_distance(*(rows[random.integers(0, 100, 100)] for rows in sets)) for _ in range(100)]
    assert np.quantile(drawn, 0.025) > frechet_distance(*sets)


def test_a_share_that_every_half_agrees_on_has_wilsons_interval():
    low, high = share_interval(1.0, np.ones(50), 100)
    assert (low, high) == (pytest.approx(0.963, abs=1e-3), 1.0)
    assert share_interval(0.5, np.array([0.0, 1.0]), 100) == (0.0, 1.0)


@pytest.mark.parametrize("of_seeds, of_pictures", [(0.02, 0.0), (0.0, 0.1), (0.02, 0.1)])
def test_intervals_over_seeds_and_pictures_hold_the_mean(of_seeds, of_pictures):
    random, held = np.random.default_rng(0), []
    for _ in range(400):
        table = of_seeds * random.standard_normal((5, 1)) + of_pictures * random.standard_normal((1, 100))
        low, high = crossed_interval(table + 0.05 * random.standard_normal((5, 100)))
        held.append(low <= 0 <= high)
    assert np.mean(held) >= 0.92


def test_one_seed_has_the_interval_of_its_pictures():
    table = np.random.default_rng(0).random((1, 100)) < 0.7
    low, high = crossed_interval(table.astype(float))
    share = table.mean()
    assert (low + high) / 2 == pytest.approx(share)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 99), rel=1e-3)
