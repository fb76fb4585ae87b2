"""Catches a learning rate that is off by one at an end, or that depends on anything but the step."""

import math

import pytest

from pipeline.run.config import Optimizer
from pipeline.train.schedule import learning_rate_factor

STEPS = 10


def factors(kind, **fields):
    optimizer = Optimizer(learning_rate=1.0, lr_scheduler_type=kind, **fields)
    return [learning_rate_factor(step, STEPS, optimizer) for step in range(STEPS + 1)]


def test_constant_stays_at_the_peak():
    assert factors("constant") == [1.0] * 11


def test_linear_starts_at_the_peak_and_ends_at_zero_one_past_the_last_update():
    assert factors("linear") == [1 - step / 10 for step in range(11)]


def test_cosine_is_half_a_period():
    assert factors("cosine") == [(1 + math.cos(math.pi * step / 10)) / 2 for step in range(11)]
    assert factors("cosine")[0] == 1 and factors("cosine")[5] == pytest.approx(0.5, abs=1e-15)
    assert factors("cosine")[10] == 0


def test_wsd_is_flat_and_then_linear():
    assert factors("wsd", decay_steps=4) == [1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]


def test_wsd_without_decay_steps_is_flat_through_the_last_update():
    assert factors("wsd")[:STEPS] == [1.0] * STEPS


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "wsd"])
def test_warm_up_is_linear_and_reaches_the_peak_at_update_warmup_steps(kind):
    found = factors(kind, warmup_steps=3, decay_steps=2)
    assert found[:4] == [1 / 4, 2 / 4, 3 / 4, 1]


def test_after_the_warm_up_the_remaining_updates_make_the_whole_shape():
    assert factors("linear", warmup_steps=2)[2:] == [1 - step / 8 for step in range(9)]


@pytest.mark.parametrize(("kind", "end"), [("constant", 1.0), ("linear", 0.1), ("cosine", 0.1), ("wsd", 0.1)])
def test_the_end_is_the_floor(kind, end):
    found = factors(kind, min_lr_ratio=0.1, decay_steps=4)
    assert found[0] == 1
    assert found[-1] == end
    assert min(found) == end


def test_the_floor_lifts_the_shape_linearly():
    assert factors("linear", min_lr_ratio=0.2)[5] == 0.2 + 0.8 * 0.5


def test_lengths_below_one_are_shares_of_all_steps():
    assert factors("wsd", warmup_steps=0.2, decay_steps=0.4) == factors("wsd", warmup_steps=2, decay_steps=4)
    assert factors("wsd", warmup_steps=0.2) != factors("wsd")
