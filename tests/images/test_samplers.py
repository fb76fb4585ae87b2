"""Catches a sampler that does not lead from noise to data: wrong schedule, prediction, start, spacing or order.

Data are N(mu, s^2), for which the best prediction and the path of every point are known: at the path's beginning
x has standard deviation sqrt(alpha^2 s^2 + sigma^2), at its end s, and its place among its like stays.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.run.errors import UserError
from recipes.diffusion.config import TIMES, Model, Sampler, Unet
from recipes.diffusion.objectives import betas
from recipes.diffusion.samplers import check_sampler, network_calls, scheduler_of, title
from tests.helpers import refusal

MU, S, POINTS = 0.3, 0.5, 1024
NET = Unet(kind="unet", channels=(8,))
# diffusers 0.42 hands tensors to np.array; the mark can go with a release that does not.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
DIFFUSION = [("epsilon", "linear"), ("epsilon", "cosine"), ("v", "linear"), ("v", "cosine")]
FLOW = ("flow", None)


def model_of(prediction: str, schedule: str | None) -> Model:
    return Model(net=NET, prediction=prediction, schedule=schedule)


def level(model: Model, timestep: Tensor) -> tuple[float, float]:
    """alpha and sigma of a timestep; between two times sigma / alpha is on the straight line, as in Heun and Euler."""
    if model.schedule is None:
        return 1 - float(timestep) / TIMES, float(timestep) / TIMES
    kept = torch.cumprod(1 - betas(model.schedule), dim=0).numpy()
    ratio = float(np.interp(float(timestep), np.arange(TIMES), np.sqrt((1 - kept) / kept)))
    return (1 + ratio**2) ** -0.5, ratio * (1 + ratio**2) ** -0.5


def best_prediction(model: Model, x: Tensor, timestep: Tensor) -> Tensor:
    """What a perfect net says of x: the expected target."""
    alpha, sigma = level(model, timestep)
    spread = (x.double() - alpha * MU) / (alpha**2 * S**2 + sigma**2)
    picture, noise = MU + alpha * S**2 * spread, sigma * spread
    said = {"epsilon": noise, "v": alpha * noise - sigma * picture, "flow": noise - picture}
    return said[model.prediction].float()


def draw(model: Model, name: str, steps: int) -> tuple[Tensor, Tensor]:
    """Where the sampler ends, and where the exact path from the same noise ends."""
    scheduler = scheduler_of(model, name, clip=False)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(POINTS, 1, 1, 1, generator=generator)
    scaled = name in ("heun", "euler") and model.prediction != "flow"
    x = noise * scheduler.init_noise_sigma if scaled else noise
    extra = {"generator": generator} if name == "ddpm" else {}
    for place, timestep in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(x, timestep) if scaled else x
        if place == 0:
            alpha, sigma = level(model, timestep)
            start = seen.double()
        x = scheduler.step(best_prediction(model, seen, timestep), timestep, x, **extra).prev_sample
    return x.double(), MU + S * (start - alpha * MU) / (alpha**2 * S**2 + sigma**2) ** 0.5


def error(model: Model, name: str, steps: int) -> float:
    found, exact = draw(model, name, steps)
    return float((found - exact).square().mean().sqrt())


FIRST_ORDER = [(*pair, name) for pair in DIFFUSION for name in ("ddim", "euler")] + [(*FLOW, "euler")]
SECOND_ORDER = [(*pair, name) for pair in DIFFUSION for name in ("dpm_solver++", "heun")] + [(*FLOW, "heun")]


@pytest.mark.parametrize("prediction, schedule, name", FIRST_ORDER)
def test_four_times_the_steps_leave_a_quarter_of_the_error(prediction, schedule, name):
    model = model_of(prediction, schedule)
    errors = [error(model, name, steps) for steps in (10, 40, 125)]
    assert errors[0] < 0.15  # of a standard deviation of 0.5; measured at worst 0.1423
    assert errors[1] < errors[0] / 3.5
    assert errors[2] < errors[1] / 2.8


@pytest.mark.parametrize("prediction, schedule, name", SECOND_ORDER)
def test_eight_times_the_steps_leave_a_thirtieth_of_the_error(prediction, schedule, name):
    model = model_of(prediction, schedule)
    assert (
        error(model, name, 160) < error(model, name, 20) / 30
    )  # 64 were exact; at a point of the schedule's table
    assert error(model, name, 160) < 5e-4


@pytest.mark.parametrize("prediction, schedule", DIFFUSION)
def test_ddpm_draws_the_gaussian(prediction, schedule):
    found, _ = draw(model_of(prediction, schedule), "ddpm", 1000)
    assert float(found.mean()) == pytest.approx(MU, abs=4 * S / POINTS**0.5)
    assert float(found.std()) == pytest.approx(S, rel=4 / (2 * POINTS) ** 0.5)


@pytest.mark.parametrize("prediction, schedule", DIFFUSION)
def test_more_steps_of_ddpm_come_nearer_to_the_spread(prediction, schedule):
    model = model_of(prediction, schedule)
    few, more = (abs(float(draw(model, "ddpm", steps)[0].std()) - S) for steps in (8, 50))
    assert more < few / 2


@pytest.mark.parametrize("name", ["dpm_solver++", "heun", "euler"])
def test_mean_and_spread_are_the_datas(name):
    model = model_of(*FLOW) if name != "dpm_solver++" else model_of("v", "cosine")
    found, exact = draw(model, name, 200)
    assert float(found.mean()) == pytest.approx(float(exact.mean()), abs=2e-3)
    assert float(found.std()) == pytest.approx(float(exact.std()), rel=0.01)
    assert float(exact.std()) == pytest.approx(S, rel=4 / (2 * POINTS) ** 0.5)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm_solver++"])
def test_a_flow_refuses_samplers_that_have_no_flow(name):
    with pytest.raises(UserError, match="sampler.name = .* does not go with .* flow\nchoices: heun, euler"):
        check_sampler(model_of(*FLOW), Sampler(name=name, steps=20), "sampler")


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm_solver++", "heun", "euler"])
def test_every_sampler_goes_with_a_schedule(name):
    assert (
        refusal(check_sampler, model_of("epsilon", "cosine"), Sampler(name=name, steps=20), "sampler") is None
    )


def test_ddim_refuses_steps_between_which_it_would_leave_its_times():
    with pytest.raises(UserError, match="steps = 80 does not divide 1000.*\nway out: 100"):
        check_sampler(model_of("v", "cosine"), Sampler(name="ddim", steps=80), "sampler")
    astray, right = (draw(model_of("v", "cosine"), "ddim", steps) for steps in (80, 100))
    assert abs(float((astray[0] - astray[1]).mean())) > 5e-3  # what is refused
    assert abs(float((right[0] - right[1]).mean())) < 5e-4


def test_heun_refuses_a_single_step():
    with pytest.raises(UserError, match="2 or more"):
        check_sampler(model_of(*FLOW), Sampler(name="heun", steps=1), "sampler.others.0")


@pytest.mark.parametrize("name", ["ddim", "heun"])
def test_calls_of_the_net_are_those_that_happen(name):
    sampler = Sampler(name=name, steps=10)
    scheduler = scheduler_of(model_of("v", "linear"), name)
    scheduler.set_timesteps(10)
    assert network_calls(sampler) == len(scheduler.timesteps)
    assert network_calls(sampler.model_copy(update={"guidance": 2.0})) == 2 * len(scheduler.timesteps)


def test_a_title_says_what_was_drawn_with():
    assert title(Sampler(name="dpm_solver++", steps=20)) == "DPM-Solver++(2M), 20 steps"
    assert title(Sampler(name="ddim", steps=50, guidance=1.5)) == "DDIM, 50 steps, guidance 1.5, 100 calls"
    assert title(Sampler(name="heun", steps=10)) == "Heun, 10 steps, 19 calls"
