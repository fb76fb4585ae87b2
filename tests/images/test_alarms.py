"""Catches an alarm that does not ring where it should, or rings where nothing is wrong."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.train.engine import Runtime
from pipeline.train.loop import Trainer
from recipes.gan import alarms
from tests.tiny_gan import prepared_digits, tiny_gan

ALONE = Runtime(rank=0, world_size=1, device=torch.device("cpu"), zero_stage=None)
NAMES = ("alarm_recall", "alarm_coverage", "alarm_duplicates", "alarm_critic")
FINE = {
    "recall": 0.5,
    "coverage": 0.5,
    "real_recall": 0.9,
    "real_coverage": 0.9,
    "duplicates": 0.0,
    "critic_order": 0.8,
    "generator_gradient": 0.1,
}


def rings(**figures):
    found = alarms.rung(FINE | figures)
    return {name.removeprefix("alarm_") for name in NAMES if found[name]}


def test_nothing_rings_where_all_is_fine():
    assert rings() == set()
    assert all(alarms.rung(FINE)[name] == 0.0 for name in NAMES)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"recall": 0.22}, {"recall"}),  # a quarter of 0.9 is 0.225
        ({"recall": 0.23}, set()),
        ({"coverage": 0.22}, {"coverage"}),
        ({"duplicates": 0.26}, {"duplicates"}),
        ({"critic_order": 1.0}, {"critic"}),
        ({"generator_gradient": 1e-5}, {"critic"}),
    ],
)
def test_each_rings_by_its_own_figures(figures, expected):
    assert rings(**figures) == expected


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Three disjoint sets of 250 real digits, uint8 (250, 8, 8, 1)."""
    directory = prepared_digits(tmp_path_factory.mktemp("digits"), 1000)
    pictures = np.random.default_rng(0).permutation(np.load(directory / "train.images.npy"))
    return pictures[:250], pictures[250:500], pictures[500:750]


def test_real_pictures_ring_nothing(digits):
    found = alarms.likeness(*digits)
    assert found["recall"] > 0.8 * found["real_recall"] and found["coverage"] > 0.8 * found["real_coverage"]
    assert found["duplicates"] < 0.02


def test_one_picture_over_and_over_rings_recall_coverage_and_duplicates(digits):
    real, others, generated = digits
    found = alarms.likeness(real, others, np.repeat(generated[:1], 250, axis=0))
    assert found["duplicates"] == 1 and found["recall"] < 0.05 and found["coverage"] < 0.1


def test_a_generator_that_lost_all_but_one_digit_rings_recall_and_coverage(digits):
    real, others, generated = digits
    shaken = real[:1].astype(int) + np.random.default_rng(0).integers(-60, 60, generated.shape)
    found = alarms.likeness(real, others, shaken.clip(0, 255).astype(np.uint8))
    assert found["recall"] < found["real_recall"] / 4 and found["coverage"] < found["real_coverage"] / 4
    assert found["duplicates"] < 0.1


class Brightness(nn.Module):
    """A critic that scores by `scale` times a bounded or unbounded look at the mean pixel."""

    def __init__(self, scale: float, flat: bool = False):
        super().__init__()
        self.scale, self.flat = nn.Parameter(torch.tensor(scale)), flat

    def forward(self, x, labels):
        level = x.mean(dim=(1, 2, 3))
        return self.scale * (torch.sigmoid(1e4 * level) if self.flat else level)


def judged(critic, real_level, fake_level, game="non_saturating"):
    real, fake = (
        np.random.default_rng(seed).integers(level - 20, level + 20, (100, 8, 8, 1)).astype(np.uint8)
        for seed, level in enumerate((real_level, fake_level))
    )
    return alarms.judgement(critic, game, real, fake, [0] * 100)


@pytest.mark.parametrize("game", ["relativistic", "non_saturating", "hinge"])
def test_a_critic_that_tells_all_apart_is_saturated_and_one_that_guesses_is_not(game):
    assert judged(Brightness(10.0), 200, 50, game)["critic_order"] == 1.0
    guessing = judged(Brightness(10.0), 100, 100, game)
    assert 0.2 < guessing["critic_order"] < 0.8 and guessing["generator_gradient"] > 1e-2


def test_a_critic_without_slope_leaves_no_gradient():
    assert judged(Brightness(10.0, flat=True), 200, 50)["generator_gradient"] < alarms.VANISHED
    # The mean over 64 pixels has a gradient of 1 / 8; the non-saturating loss passes half of it at a score of 0.
    level = judged(Brightness(1.0), 127, 127)["generator_gradient"]
    assert level == pytest.approx(1 / 16, rel=0.05)


@pytest.fixture
def drawn(tmp_path):
    """`drawn(change)`: the figures of the loop's drawing after `change(nets)`, and the sheet's path."""

    def draw(change):
        recipe = tiny_gan(tmp_path / "prepared", "train.alarm_samples=64", "run.sample_steps=1", count=400)
        trainer = Trainer(recipe, ALONE)
        with trainer.resting(shadows=True) as nets:
            change(nets)
            return recipe.sample(nets, list(range(20)), tmp_path), tmp_path / "samples.png"

    return draw


def test_a_collapsed_generator_rings_through_the_recipe(drawn):
    def collapse(nets):
        nets["generator"].start.linear.weight.zero_()

    figures, sheet = drawn(collapse)
    assert figures["duplicates"] == 1.0 and sheet.is_file()
    assert [figures[name] for name in NAMES[:3]] == [1.0, 1.0, 1.0]


def test_a_saturated_critic_rings_through_the_recipe(drawn):
    def saturate(nets):
        nets["critic"].forward = Brightness(1e3).forward
        nets["generator"].layers[-1].bias.fill_(-5.0)

    figures, _ = drawn(saturate)
    assert figures["critic_order"] == 1.0 and figures["alarm_critic"] == 1.0


def test_figures_are_plain_numbers(drawn):
    figures, _ = drawn(lambda nets: None)
    assert set(NAMES) < set(figures) and json.loads(json.dumps(figures)) == figures
