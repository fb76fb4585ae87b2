"""Catches a learning rate that is off by one at an end, or that depends on anything but the step."""

import math

import pytest

from pipeline.run.config import Optimizer
from pipeline.run.errors import UserError
from pipeline.run.plan import check_optimizer
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


@pytest.mark.parametrize(
    ("kind", "fields", "theirs", "given"),
    [
        (
            "polynomial",
            {"lr_power": 2.5},
            "get_polynomial_decay_schedule_with_warmup",
            {"power": 2.5, "lr_end": 0.0},
        ),
        (
            "cosine_with_restarts",
            {"lr_num_cycles": 3},
            "get_cosine_with_hard_restarts_schedule_with_warmup",
            {"num_cycles": 3},
        ),
        ("inverse_sqrt", {}, "get_inverse_sqrt_schedule", {}),
        ("constant_with_warmup", {}, "get_constant_schedule_with_warmup", {}),
        ("linear", {}, "get_linear_schedule_with_warmup", {}),
        ("cosine", {}, "get_cosine_schedule_with_warmup", {}),
        *[
            (
                "wsd",
                {"decay_steps": 8, "lr_decay_type": shape},
                "get_wsd_schedule",
                {"num_decay_steps": 8, "decay_type": shape},
            )
            for shape in ("linear", "cosine", "1-sqrt")
        ],
    ],
)
@pytest.mark.parametrize("warmup", [4, 0])
def test_after_the_warm_up_it_is_transformers_closed_form(kind, fields, theirs, given, warmup):
    """Its rate of step s, counted as ours: at the warm-up's end both are at the peak."""
    import inspect

    import torch
    import transformers

    if kind == "constant_with_warmup" and not warmup:
        pytest.skip("constant has that shape")
    steps = 40
    rate = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = getattr(transformers, theirs)
    takes = inspect.signature(schedule).parameters
    given = given | ({"num_training_steps": steps} if "num_training_steps" in takes else {})
    shape = schedule(rate, num_warmup_steps=warmup, **given).lr_lambdas[0]
    ours = Optimizer(learning_rate=1.0, lr_scheduler_type=kind, warmup_steps=warmup, **fields)
    found = [learning_rate_factor(step, steps, ours) for step in range(warmup, steps)]
    assert found == pytest.approx([shape(step) for step in range(warmup, steps)], abs=1e-12)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lr_scheduler_type": "linear", "lr_power": 2}, "lr_power with lr_scheduler_type: linear"),
        ({"lr_num_cycles": 2}, "lr_num_cycles with lr_scheduler_type: cosine"),
        ({"lr_decay_type": "1-sqrt"}, "lr_decay_type with lr_scheduler_type: cosine"),
        ({"lr_scheduler_type": "constant_with_warmup"}, "without a warm-up"),
    ],
)
def test_settings_of_another_shape_are_refused(fields, said):
    with pytest.raises(UserError, match=said):
        check_optimizer(Optimizer(learning_rate=1.0, **fields), 10)
