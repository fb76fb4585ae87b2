"""Catches FLOPs of a step that leave out a turn, a backward, attention or work that is due only now and then."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.train.recipe import Loss
from recipes.common.estimate import flops_of
from recipes.diffusion.diffusion import Diffusion
from tests.helpers import ROOT
from tests.tiny_gan import tiny_gan

T, D = 7, 5


class Two:
    """a: (4 -> 3), b: (3 -> 5) on what a makes; at each even step b is asked twice."""

    turns = ("a", "b")

    def blank(self, count):
        return {"x": torch.zeros(count, 4)}

    def nets(self):
        return {"a": nn.Linear(4, 3, bias=False), "b": nn.Linear(3, 5, bias=False)}

    def loss(self, turn, nets, batch, clock):
        made = nets["a"](batch["x"])
        if turn == "b":
            made = nets["b"](torch.cat([made, made]) if clock.step % 2 == 0 else made)
        return Loss(made.sum())


@pytest.mark.parametrize(("steps", "twice"), [(1, 2), (2, 1.5)])
def test_each_turn_counts_its_forward_and_the_backward_of_what_learns_in_it(steps, twice):
    a, b = 2 * 4 * 3, 2 * 3 * 5  # FLOPs of a forward; a backward to weights alone costs as much again
    assert flops_of(Two(), steps) == (a + a) + a + twice * (b + b)


class Attention:
    turns = ("model",)

    def blank(self, count):
        return {"x": torch.zeros(count, T, D)}

    def nets(self):
        return {"model": nn.Linear(D, D, bias=False)}

    def loss(self, turn, nets, batch, clock):
        x = nets["model"](batch["x"])[:, None]
        return Loss(F.scaled_dot_product_attention(x, x, x).sum())


def test_attention_counts():
    linear, attention = 2 * T * D * D, 2 * (2 * T * T * D)
    assert flops_of(Attention()) == 2 * linear + 3 * attention


def test_a_penalty_every_fourth_step_costs_a_quarter_of_itself(tmp_path):
    always, fourth, never = (
        tiny_gan(tmp_path / str(place), "model.conditional=false", *given).flops_per_sample
        for place, given in enumerate(
            (["train.penalty_steps=1"], ["train.penalty_steps=4"], ["train.r1=0", "train.r2=0"])
        )
    )
    assert fourth - never == pytest.approx((always - never) / 4) and always > 1.2 * never


def test_a_u_net_counts_its_layers_three_times_and_its_attention():
    """A forward and twice as much backward of every convolution and linear layer, but for the first one's input."""
    from pipeline.run.stage import open_recipe
    from recipes.common.images.shape import Shape

    config = open_recipe(ROOT / "recipes" / "diffusion" / "digits.yaml", [])[0]
    recipe = Diffusion(config, ROOT, Shape(8, 1, 10))
    net, forward = recipe.nets()["model"], []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda layer, given, made: forward.append(
                    2 * layer.weight[0].numel() * made.numel() / made.shape[0]
                )
            )
    with torch.no_grad():
        net(torch.zeros(2, 1, 8, 8), torch.zeros(2), class_labels=torch.zeros(2, dtype=torch.long))
    layers = 3 * sum(forward) - forward[0]
    assert layers < recipe.flops_per_sample < 1.1 * layers  # attention comes on top


def test_the_count_does_not_touch_what_training_draws(tmp_path):
    recipe = tiny_gan(tmp_path)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert recipe.flops_per_sample > 0
    assert torch.equal(torch.get_rng_state(), before)
