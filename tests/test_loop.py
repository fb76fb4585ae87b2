"""Catches a frozen net that learns or is saved, a shadow nobody asked for, and signals that stay caught after a run."""

import os
import signal

import torch
from torch import nn

from pipeline.train.engine import Runtime
from pipeline.train.fit import listening
from pipeline.train.loop import Trainer, evaluate, steps
from tests.helpers import Toy, small_gan, toy_training

ALONE = Runtime(rank=0, world_size=1, device=torch.device("cpu"), zero_stage=None)


class Taught(Toy):
    """The toy beside a teacher that is no turn; it keeps what it saw of the teacher."""

    def nets(self) -> dict[str, nn.Module]:
        return super().nets() | {"teacher": nn.Sequential(nn.Linear(2, 2), nn.Dropout())}

    def loss(self, turn, nets, batch, clock):
        self.teacher = nets["teacher"]
        assert not self.teacher.training
        return super().loss(turn, nets, batch, clock)


def test_a_net_that_is_no_turn_is_there_and_frozen():
    trainer = Trainer(Taught(toy_training()), ALONE)
    before = [parameter.clone() for parameter in trainer.frozen["teacher"].parameters()]
    list(steps(trainer))
    after = list(trainer.recipe.teacher.parameters())
    assert all(map(torch.equal, before, after)) and not any(parameter.requires_grad for parameter in after)
    assert not any("teacher" in key for key, _ in trainer.tensors())
    evaluate(trainer, trainer.recipe.held_out())
    assert not trainer.frozen["teacher"].training


def test_only_the_nets_that_a_recipe_names_have_a_shadow():
    recipe = small_gan()
    assert recipe.training.ema_decay
    shadowed = {key.split("/")[0] for key, _ in Trainer(recipe, ALONE).tensors() if "/ema/" in key}
    assert shadowed == {"generator"}


def test_signals_are_heard_within_a_run_and_go_where_they_went_before_after_it():
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with listening() as asked:
            assert not asked()
            os.kill(os.getpid(), signal.SIGUSR1)
            assert asked() and not heard
        os.kill(os.getpid(), signal.SIGUSR1)
        assert heard == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)
