"""Catches batches whose sizes do not multiply to the step's samples, and refusals without a usable way out."""

import pytest

from pipeline.run.config import Optimizer, Training
from pipeline.run.errors import UserError
from pipeline.run.plan import Batches, check_optimizer


def derive(total, micro, processes):
    training = Training(
        learning_rate=1e-3, max_steps=1, train_batch_size=total, per_device_train_batch_size=micro
    )
    return Batches.derive(training, processes)


@pytest.mark.parametrize(
    ("total", "micro", "processes", "expected"),
    [
        (16, 16, 1, (16, 1)),
        (16, 4, 1, (4, 4)),
        (16, 4, 2, (4, 2)),
        (16, 8, 2, (8, 1)),
        (16, 32, 2, (8, 1)),  # a micro-batch larger than the share is cut to it
        (3, 8, 3, (1, 1)),
        (12, 3, 2, (3, 2)),
    ],
)
def test_micro_times_accumulation_times_processes_is_the_whole(total, micro, processes, expected):
    batches = derive(total, micro, processes)
    assert (batches.micro, batches.accumulation) == expected
    assert batches.micro * batches.accumulation * processes == total


@pytest.mark.parametrize(
    ("total", "processes", "nearest"),
    [(16, 3, "nearest: 15,"), (17, 2, "nearest: 16,"), (1, 4, "nearest: 4,")],
)
def test_samples_that_do_not_divide_over_processes_are_refused(total, processes, nearest):
    with pytest.raises(
        UserError, match=f"train_batch_size {total} does not divide over {processes} processes"
    ) as told:
        derive(total, 1, processes)
    assert nearest in str(told.value)


@pytest.mark.parametrize(("total", "micro", "nearest"), [(16, 5, 4), (14, 4, 2), (7, 2, 1)])
def test_samples_that_do_not_divide_over_micro_batches_are_refused(total, micro, nearest):
    with pytest.raises(UserError, match=f"per_device_train_batch_size {micro} does not divide") as told:
        derive(total, micro, 1)
    assert str(told.value).endswith(f"nearest: {nearest}")
    assert derive(total, nearest, 1).micro == nearest


def test_muon_with_clipping_is_refused_and_without_is_not():
    with pytest.raises(UserError, match="way out: max_grad_norm: 0"):
        check_optimizer(Optimizer(optim="muon", learning_rate=1e-3, max_grad_norm=1.0), 10)
    check_optimizer(Optimizer(optim="muon", learning_rate=1e-3, max_grad_norm=0), 10)
    check_optimizer(Optimizer(optim="adamw", learning_rate=1e-3, max_grad_norm=1.0), 10)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"warmup_steps": 11}, "warmup_steps 11 and decay_steps 0 do not fit into max_steps 10"),
        ({"warmup_steps": 5, "decay_steps": 6}, "warmup_steps 5 and decay_steps 6 do not fit"),
        ({"warmup_steps": 0.4, "decay_steps": 7}, "warmup_steps 4 and decay_steps 7 do not fit"),
        ({"lr_scheduler_type": "cosine", "decay_steps": 2}, "which decays from the warm-up on"),
    ],
)
def test_a_schedule_that_would_not_happen_is_refused(fields, told):
    settings = {"learning_rate": 1e-3, "lr_scheduler_type": "wsd"} | fields
    with pytest.raises(UserError, match=told):
        check_optimizer(Optimizer(**settings), 10)
    check_optimizer(Optimizer(**settings | {"lr_scheduler_type": "wsd"}), 11)
