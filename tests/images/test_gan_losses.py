"""Catches a game with a sign turned round, a pairing that is off, and a penalty that is not the squared gradient."""

import math

import numpy as np
import pytest
import torch

from pipeline.train.recipe import Clock
from recipes.gan.losses import critic_loss, generator_loss, squared_slope
from tests.tiny_gan import tiny_gan

REAL, FAKE = torch.tensor([2.0, -1.0, 0.25]), torch.tensor([-3.0, 0.5, 0.25])


def log(value):
    """log(1 + e^value), in fp64."""
    return math.log1p(math.exp(value))


# game: of one pair (real, fake), what the critic minimises and what the generator does.
FORMULAS = {
    "relativistic": (lambda r, f: log(f - r), lambda r, f: log(r - f)),
    "non_saturating": (lambda r, f: log(-r) + log(f), lambda r, f: log(-f)),
    "hinge": (lambda r, f: max(0, 1 - r) + max(0, 1 + f), lambda r, f: -f),
}


@pytest.mark.parametrize("game", FORMULAS)
def test_each_game_is_its_formula_pair_by_pair(game):
    for loss, formula in zip((critic_loss, generator_loss), FORMULAS[game], strict=True):
        expected = [formula(*pair) for pair in zip(REAL.tolist(), FAKE.tolist(), strict=True)]
        assert loss(game, REAL, FAKE).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("game", FORMULAS)
def test_the_two_pull_scores_of_generated_samples_apart(game):
    real, fake = (torch.zeros(1, requires_grad=True) for _ in range(2))
    pulls = [
        torch.autograd.grad(loss(game, real, fake).sum(), fake)[0] for loss in (critic_loss, generator_loss)
    ]
    assert pulls[0] > 0 > pulls[1]


def test_the_slope_of_a_linear_critic_is_its_squared_gradient():
    gradient = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nudges = torch.randn(20_000, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = squared_slope(torch.zeros(20_000), 0.1 * nudges @ gradient, 0.1)
    error = float(found.std()) / 20_000**0.5
    assert abs(float(found.mean()) - float(gradient.square().sum())) < 3 * error


def test_the_slope_does_not_depend_on_how_short_the_nudge_is():
    nudges = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for std in (1e-3, 1.0):
        assert torch.allclose(squared_slope(torch.ones(100), 1 + 3 * std * nudges, std), 9 * nudges.square())


class Linear(torch.nn.Module):
    """A critic with one known gradient, the same at every picture."""

    def __init__(self, gradient):
        super().__init__()
        self.gradient = gradient

    def forward(self, x, labels):
        return (x * self.gradient).sum(dim=(1, 2, 3))


def penalty_of(loss):
    return float(loss.total.detach() - loss.parts["adversarial"])


def test_the_penalty_of_a_batch_is_its_weights_times_the_exact_squared_gradient(tmp_path):
    recipe = tiny_gan(tmp_path, "train.r1=3.0", "train.r2=5.0", "train.augment=[]")
    torch.manual_seed(0)
    gradient = torch.randn(1, 8, 8)
    nets = {**recipe.nets(), "critic": Linear(gradient)}
    items = [recipe.data().item(index) for index in range(64)]
    loss = recipe.loss("critic", nets, recipe.collate(items), Clock(0, 0))
    along = np.array([(item["nudge"] * gradient.numpy()).sum() for item in items])
    assert penalty_of(loss) == pytest.approx((3.0 + 5.0) / 2 * np.square(along).sum(), rel=1e-4)
    norm = float(gradient.square().sum())
    assert np.square(along).mean() == pytest.approx(norm, rel=0.5)  # 64 nudges: 0.53 at three standard errors
    assert loss.parts["slope_real"] == pytest.approx(float(loss.parts["slope_fake"]), rel=1e-4)


def test_a_penalty_every_fourth_step_weighs_four_times_as_much(tmp_path):
    every, fourth = (tiny_gan(tmp_path, f"train.penalty_steps={steps}") for steps in (1, 4))
    torch.manual_seed(0)
    nets = every.nets()
    batch = every.collate([every.data().item(index) for index in range(16)])

    def penalty(recipe, step):
        return penalty_of(recipe.loss("critic", nets, batch, Clock(step, 0)))

    assert [penalty(fourth, step) > 0 for step in range(6)] == [True, False, False, False, True, False]
    assert penalty(fourth, 4) == pytest.approx(4 * penalty(every, 4), rel=1e-4)
    assert all(penalty(every, step) == penalty(every, 0) for step in range(4))
