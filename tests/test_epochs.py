"""Catches epochs that end early, are counted per process, or leave a schedule without its length."""

import pytest
from pydantic import ValidationError

from pipeline.lm.config import Finetune, Pretrain
from pipeline.run.errors import UserError
from pipeline.run.plan import check_optimizer


def finetune(**fields) -> Finetune:
    return Finetune(**{"train_batch_size": 8, "learning_rate": 1e-3} | fields)


@pytest.mark.parametrize(
    ("epochs", "rows", "steps"), [(1, 80, 10), (1, 81, 11), (3, 80, 30), (0.5, 80, 5), (0.01, 9, 1)]
)
def test_every_row_is_seen_as_often_as_asked(epochs, rows, steps):
    training = finetune(num_train_epochs=epochs).over(rows)
    assert training.max_steps == steps
    assert training.max_steps * training.train_batch_size >= epochs * rows


def test_steps_stay_steps():
    assert finetune(max_steps=7).over(1000).max_steps == 7


@pytest.mark.parametrize("fields", [{}, {"max_steps": 5, "num_train_epochs": 1}])
@pytest.mark.parametrize("section", [Pretrain, Finetune])
def test_one_of_the_two_is_asked_for(section, fields):
    with pytest.raises(ValidationError, match="max_steps or num_train_epochs"):
        section(train_batch_size=8, learning_rate=1e-3, **fields)


def test_a_warm_up_that_does_not_fit_is_refused_when_the_steps_are_known():
    training = finetune(num_train_epochs=1, warmup_steps=20)
    check_optimizer(training, training.max_steps)
    with pytest.raises(UserError, match="do not fit into max_steps 10"):
        training.over(80)


def test_shares_that_never_fit_are_refused_at_once():
    training = finetune(num_train_epochs=1, warmup_steps=0.6, decay_steps=0.6, lr_scheduler_type="wsd")
    with pytest.raises(UserError, match="do not fit"):
        check_optimizer(training, training.max_steps)


def test_the_length_is_said_in_what_was_asked():
    words = [
        finetune(**fields).length
        for fields in ({"max_steps": 1200}, {"num_train_epochs": 1}, {"num_train_epochs": 2.5})
    ]
    assert words == ["1,200 steps", "1 epoch", "2.5 epochs"]
    stopping = {"metric_for_best_model": "loss", "early_stopping_patience": 3}
    assert finetune(max_steps=1200, **stopping).length == "at most 1,200 steps"
