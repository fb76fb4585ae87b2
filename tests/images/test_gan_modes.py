"""Catches channels read in the wrong order, noise counted as modes, and a histogram whose divergence is off."""

import math

import numpy as np
import pytest

from recipes.common.images.dataset import PreparedImages
from recipes.gan.config import Modes
from recipes.gan.modes import covered, digit_classifier, divergence, numbers_of, scores, single_digits


def sure_of_level(pictures_NHW):
    """A classifier that takes a picture's level for its digit, and is unsure above 9."""
    levels = pictures_NHW[:, 0, 0].astype(int)
    found = np.full((len(levels), 10), 0.01)
    found[np.arange(len(levels)), levels % 10] = np.where(levels < 10, 0.91, 0.5)
    return found


def stacks(*levels):
    """A stack of constant channels for each triple."""
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, :], (len(levels), 8, 8, 3))


def test_a_stack_is_read_from_its_first_channel_to_its_last():
    assert numbers_of(sure_of_level, stacks((1, 2, 3), (0, 0, 7), (9, 9, 9))).tolist() == [123, 7, 999]


def test_a_stack_with_an_unsure_digit_is_not_counted():
    assert numbers_of(sure_of_level, stacks((1, 2, 13), (11, 2, 3), (4, 5, 6))).tolist() == [456]


def test_modes_and_divergence_of_known_histograms():
    every = np.arange(1000)
    assert covered(every) == 1000 and divergence(every) == pytest.approx(0, abs=1e-12)
    half = np.repeat(np.arange(500), 3)
    assert covered(half) == 500 and divergence(half) == pytest.approx(math.log(2))
    assert covered(np.zeros(10, int)) == 1 and divergence(np.zeros(10, int)) == pytest.approx(math.log(1000))
    assert covered(every[:0]) == 0 and divergence(every[:0]) == math.log(1000)


def test_the_share_that_is_recognised_is_told_beside():
    told = {score.name: score for score in scores("a", np.arange(50), 200, 0.97)}
    assert told["recognised stacks"].value == 0.25 and told["modes covered"].value == 50
    assert "97.0%" in told["modes covered"].protocol and told["modes covered"].count == 200


@pytest.fixture
def prepared():
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels, random = np.rint(digits.images * (255 / 16)).astype(np.uint8), np.random.default_rng(0)
    chosen = random.integers(0, 1500, (600, 3))
    labels = (digits.target[chosen] * [100, 10, 1]).sum(axis=1)
    names = tuple(f"{number:03}" for number in range(1000))
    return PreparedImages(np.moveaxis(pixels[chosen], 1, -1), labels, names), digits.target[chosen]


def test_the_channels_of_stacks_are_labelled_digits(prepared):
    images, digits = prepared
    singles = single_digits(images)
    assert singles.images.shape == (1800, 8, 8, 1)
    assert singles.labels.reshape(600, 3).tolist() == digits.tolist()
    assert np.array_equal(singles.images[4, ..., 0], images.images[1, ..., 1])


def test_real_stacks_are_recognised_and_noise_is_not(prepared):
    images, _ = prepared
    settings = Modes(
        classifier={
            "max_steps": 150,
            "train_batch_size": 64,
            "per_device_train_batch_size": 64,
            "learning_rate": 3e-3,
            "bf16": False,
            "channels": 16,
        }
    )
    classify, accuracy = digit_classifier(settings, images, images)
    assert accuracy > 0.99  # measured: 1.0
    numbers = numbers_of(classify, images.images)
    assert len(numbers) > 570 and set(numbers.tolist()) <= set(images.labels.tolist())  # measured: 597 of 600
    noise = np.random.default_rng(1).integers(0, 256, (600, 8, 8, 3)).astype(np.uint8)
    assert len(numbers_of(classify, noise)) < 100  # measured: 29
