"""Catches a planted copy that goes unseen, a real picture taken for one, a nearest picture that is not the nearest."""

import numpy as np
import pytest

from recipes.common.scores.memorisation import (
    as_pixels,
    copies,
    duplicates,
    near_share,
    nearer_chance,
    nearest_distances,
)
from tests.images.pictures import digit_pictures


@pytest.fixture(scope="module")
def pictures():
    """Training pictures, and two sets of others, uint8 (N, 8, 8, 1)."""
    train, held_out = digit_pictures()
    return train.images, held_out.images[:150], held_out.images[150:]


def distances(queries: np.ndarray, train: np.ndarray) -> np.ndarray:
    return nearest_distances(as_pixels(queries), train, as_pixels)


def test_duplicates_are_all_that_occur_more_than_once(pictures):
    train, held_out, _ = pictures
    assert not duplicates(held_out).any()
    planted = np.concatenate([held_out, held_out[3:5], held_out[3:4]])
    assert np.flatnonzero(duplicates(planted)).tolist() == [3, 4, 150, 151, 152]


def test_a_copy_is_known_to_the_byte(pictures):
    train, held_out, _ = pictures
    planted = held_out.copy()
    planted[7], planted[9] = train[1000], train[0]
    nearly = train[5].copy()
    nearly[0, 0] ^= 1
    planted[11] = nearly
    assert np.flatnonzero(copies(planted, train)).tolist() == [7, 9]


def test_the_nearest_distance_is_the_least_of_all(pictures, monkeypatch):
    monkeypatch.setattr("recipes.common.scores.memorisation.ROWS", 100)
    monkeypatch.setattr("recipes.common.scores.memorisation.QUERIES", 7)
    train, held_out, _ = pictures
    planted = np.concatenate([held_out[:30], train[500:503]])
    apart = as_pixels(planted)[:, None].astype(float) - as_pixels(train)[None].astype(float)
    expected = np.sqrt(np.square(apart).sum(axis=2)).min(axis=1)
    found = distances(planted, train)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[-3:].tolist() == [0, 0, 0]


def test_real_pictures_that_nobody_trained_on_are_no_copies(pictures):
    train, unseen, others = pictures
    nearest = distances(others, train), distances(unseen, train)
    assert near_share(*nearest) <= 0.05  # 1 in 100 expected of 150
    assert nearer_chance(*nearest) == pytest.approx(0.5, abs=0.1)  # three standard errors


def test_planted_copies_are_counted_whether_noised_or_not(pictures):
    train, unseen, others = pictures
    noise = np.random.default_rng(0).integers(-2, 3, (15, 8, 8, 1))
    planted = others.copy()
    planted[:15] = (train[:15].astype(int) + noise).clip(0, 255).astype(np.uint8)
    clean, found = (
        near_share(distances(queries, train), distances(unseen, train)) for queries in (others, planted)
    )
    assert found - clean == pytest.approx(0.1, abs=0.02)
    assert copies(planted, train).mean() == 0
    assert nearer_chance(distances(train[:150], train), distances(unseen, train)) == 1


def test_the_share_is_one_percent_where_both_are_drawn_alike():
    random = np.random.default_rng(0)
    found = [near_share(random.random(1000), random.random(1000)) for _ in range(200)]
    assert np.mean(found) == pytest.approx(10 / 1001, abs=0.001)  # the tenth of 1,000 is the threshold


def test_the_chance_counts_ties_half():
    assert nearer_chance(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0.5
    assert nearer_chance(np.array([1.0]), np.array([1.0, 2.0, 0.0, 3.0])) == (0.5 + 2) / 4
    assert nearer_chance(np.zeros(3), np.ones(4)) == 1
    assert nearer_chance(np.ones(3), np.zeros(4)) == 0


def test_the_chance_is_that_of_two_gaussians():
    random = np.random.default_rng(0)
    found = nearer_chance(random.standard_normal(20_000), 1 + random.standard_normal(20_000))
    assert found == pytest.approx(0.7602, abs=0.008)  # Phi(1 / sqrt(2)); three standard errors
