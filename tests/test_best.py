"""Catches best weights that are not the best evaluation's, a stop that comes late, and a resume that forgets either."""

import json

import pytest
import torch

from pipeline.run.config import Run
from pipeline.run.errors import UserError
from pipeline.run.launch import check_best
from pipeline.train.engine import Runtime
from pipeline.train.fit import fit
from pipeline.train.loop import Trainer, steps
from pipeline.train.recipe import Sum
from tests.helpers import Toy, digest, toy_training
from tests.test_drawing import toy_context

ALONE = Runtime(rank=0, world_size=1, device=torch.device("cpu"), zero_stage=None)
STEPS = 12
ROUGH = {
    "learning_rate": 0.5,
    "lr_scheduler_type": "constant",
    "max_steps": STEPS,
    "metric_for_best_model": "loss",
    "ema_decay": 0.5,
}


def weights(trainer: Trainer) -> str:
    return digest([tensor for _, tensor in trainer.tensors()])


def evaluations(directory) -> dict[int, float]:
    lines = [json.loads(line) for line in (directory / "train.metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}


def begun(tmp_path, name: str, **run):
    (tmp_path / name).mkdir(exist_ok=True)
    return toy_context(tmp_path / name, eval_steps=1, eval_samples=0, **run)


class Forgetting(Toy):
    """Held-out figures that get worse after the fifth step, whatever is learnt."""

    def evaluate(self, nets, batch, clock):
        total, count = super().evaluate(nets, batch, clock)["loss"]
        return {"loss": Sum(total + 100 * count * max(0, clock.step - 5), count)}


@pytest.mark.parametrize("recipe", [Toy, Forgetting])
def test_the_trainer_ends_with_the_best_evaluations_weights(tmp_path, recipe):
    context = begun(tmp_path, "a")
    trainer = fit(recipe(toy_training(**ROUGH)), context, ALONE)
    found = evaluations(tmp_path / "a")
    best = min(found, key=found.get)
    assert len(found) == STEPS and best == (STEPS if recipe is Toy else 2)
    assert (context.made["best_step"], context.made["best_figure"]) == (best, found[best])
    plain = Trainer(Toy(toy_training(**ROUGH)), ALONE)
    for info in steps(plain):
        if info.step == best:
            assert weights(trainer) == weights(plain)


def test_the_largest_may_be_the_best(tmp_path):
    context = begun(tmp_path, "a")
    fit(Toy(toy_training(**ROUGH, greater_is_better=True)), context, ALONE)
    found = evaluations(tmp_path / "a")
    assert context.made["best_step"] == max(found, key=found.get)


def test_training_stops_when_patience_ends(tmp_path):
    context = begun(tmp_path, "a")
    trainer = fit(Forgetting(toy_training(**ROUGH, early_stopping_patience=2)), context, ALONE)
    found = evaluations(tmp_path / "a")
    assert trainer.updates == max(found) == context.made["best_step"] + 2 < STEPS


@pytest.mark.parametrize("patience", [None, 3])
@pytest.mark.parametrize("broken", [3, 5, 8])
def test_a_resumed_run_chooses_and_stops_as_an_uninterrupted_one(tmp_path, broken, patience):
    training = toy_training(**ROUGH, early_stopping_patience=patience)
    whole = fit(Toy(training), begun(tmp_path, "whole"), ALONE)

    class Killed(Exception):
        pass

    class Breaking(Toy):
        """Stops for good in the step after `broken`, behind a checkpoint or not."""

        def count(self, turn, batch):
            self.seen = getattr(self, "seen", 0) + 1
            if self.seen > broken:
                raise Killed
            return super().count(turn, batch)

        def evaluate(self, nets, batch, clock):
            seen = getattr(self, "seen", 0)
            found = super().evaluate(nets, batch, clock)
            self.seen = seen
            return found

    context = begun(tmp_path, "broken", save_steps=2)
    try:
        fit(Breaking(training), context, ALONE)
    except Killed:
        pass
    again = begun(tmp_path, "broken", save_steps=2)
    resumed = fit(Toy(training), again, ALONE)
    assert weights(resumed) == weights(whole) and resumed.updates == whole.updates
    assert evaluations(tmp_path / "broken") == evaluations(tmp_path / "whole")


def test_a_figure_that_is_not_evaluated_is_named(tmp_path):
    training = toy_training(**ROUGH | {"metric_for_best_model": "los"})
    with pytest.raises(UserError, match=r"metric_for_best_model: 'los' is not evaluated(.|\n)*eval_loss"):
        fit(Toy(training), begun(tmp_path, "a"), ALONE)


def test_settings_that_cannot_work_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="run.eval_steps=100"):
        check_best(Run(output_dir=tmp_path, eval_steps=0), toy_training(**ROUGH))
    with pytest.raises(UserError, match="metric_for_best_model=loss"):
        check_best(Run(output_dir=tmp_path), toy_training(early_stopping_patience=1))
    check_best(Run(output_dir=tmp_path, eval_steps=5), toy_training(**ROUGH))
