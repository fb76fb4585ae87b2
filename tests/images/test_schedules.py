"""Catches a schedule that is not its formula or not its sampler's, a target without its inverse, a wrong weight."""

import math

import pytest
import torch

from recipes.diffusion.config import TIMES, Model, Unet
from recipes.diffusion.objectives import betas, noisy, signal_and_noise, target, timestep_of, weight
from recipes.diffusion.samplers import scheduler_of

EVERY = torch.arange(TIMES).float()
NET = Unet(kind="unet", channels=(8,))
# diffusers 0.42 hands tensors to np.array; the mark can go with a release that does not.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
PREDICTIONS = [("epsilon", "linear"), ("epsilon", "cosine"), ("v", "linear"), ("v", "cosine"), ("flow", None)]


def test_the_linear_schedule_is_its_formula():
    steps = betas("linear")
    assert steps[0] == 1e-4 and steps[-1] == 0.02
    assert torch.allclose(steps.diff(), torch.tensor((0.02 - 1e-4) / 999, dtype=torch.float64), rtol=1e-9)
    alpha, _ = signal_and_noise("linear", torch.tensor([0.0, 1.0]))
    assert alpha.square().tolist() == pytest.approx([1 - 1e-4, (1 - 1e-4) * (1 - float(steps[1]))], rel=1e-6)


def test_the_cosine_schedule_is_its_formula():
    alpha, _ = signal_and_noise("cosine", EVERY)
    for time in (0, 1, 250, 500, 750, 950):
        kept = [math.cos((end / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for end in (0, time + 1)]
        assert float(alpha[time]) ** 2 == pytest.approx(kept[1] / kept[0], rel=1e-5)
    assert float(betas("cosine").max()) == 0.999


@pytest.mark.parametrize("schedule", ["linear", "cosine", None])
def test_signal_falls_as_noise_grows(schedule):
    alpha, sigma = signal_and_noise(schedule, EVERY)
    assert (alpha.diff() < 0).all() and (sigma.diff() >= 0).all()
    total = alpha + sigma if schedule is None else alpha.double().square() + sigma.double().square()
    assert torch.allclose(total.double(), torch.ones(TIMES, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("prediction, schedule", PREDICTIONS[:4])
@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm_solver++", "heun", "euler"])
def test_every_sampler_has_the_schedule_that_was_trained(name, prediction, schedule):
    scheduler = scheduler_of(Model(net=NET, prediction=prediction, schedule=schedule), name)
    alpha, _ = signal_and_noise(schedule, EVERY[: len(scheduler.alphas_cumprod)])
    # fp32 products of a thousand factors against fp64: measured at worst 3e-5, at the cosine's end
    assert torch.allclose(scheduler.alphas_cumprod.sqrt(), alpha, rtol=1e-4, atol=1e-9)
    assert len(scheduler.alphas_cumprod) > 900


def picture_of(prediction, said, x_t, alpha, sigma):
    """The picture that solves x_t = alpha x + sigma noise for what was said."""
    alpha, sigma = alpha[:, None, None, None], sigma[:, None, None, None]
    if prediction == "epsilon":
        return (x_t - sigma * said) / alpha
    return alpha * x_t - sigma * said if prediction == "v" else x_t - sigma * said


@pytest.mark.parametrize("prediction, schedule", PREDICTIONS)
def test_each_prediction_gives_back_the_picture(prediction, schedule):
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(500, 1, 4, 4, generator=generator) for _ in range(2))
    alpha, sigma = signal_and_noise(schedule, EVERY[:500])
    x_t = noisy(x, noise, alpha, sigma)
    found = picture_of(prediction, target(prediction, x, noise, alpha, sigma), x_t, alpha, sigma)
    assert torch.allclose(found, x, atol=2e-6)  # measured at worst 9e-7


def test_targets_of_one_noisy_picture_are_those_of_the_papers():
    x, noise = torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), -2.0)
    alpha, sigma = torch.tensor([0.8]), torch.tensor([0.6])
    values = {name: float(target(name, x, noise, alpha, sigma)) for name in ("epsilon", "v", "flow")}
    assert values == pytest.approx({"epsilon": -2.0, "v": 0.8 * -2 - 0.6 * 0.5, "flow": -2.5})


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_min_snr_weighs_the_error_of_the_picture_by_the_smaller_of_snr_and_gamma(schedule):
    alpha, sigma = signal_and_noise(schedule, EVERY)
    snr = (alpha.double() / sigma.double()).square()
    x, noise = torch.zeros(TIMES, 1, 1, 1), torch.zeros(TIMES, 1, 1, 1)
    for prediction in ("epsilon", "v"):
        x_t = noisy(x, noise, alpha, sigma)
        off = torch.full_like(x, 1e-3)
        wrong = picture_of(prediction, off, x_t, alpha, sigma)
        of_picture = (wrong - x).double().square().flatten() / 1e-6
        assert torch.allclose(
            weight(prediction, alpha, sigma, 5.0).double(), of_picture * snr.clamp(max=5), rtol=1e-4
        )


def test_without_gamma_every_time_weighs_the_same():
    alpha, sigma = signal_and_noise("linear", EVERY)
    assert (weight("v", alpha, sigma, None) == 1).all()


def test_a_schedule_has_whole_times_and_a_flow_has_all():
    u = torch.tensor([0.0, 0.4997, 1 - 2**-24])
    assert timestep_of("cosine", u).tolist() == [0, 499, 999]
    assert timestep_of(None, u).tolist() == pytest.approx([0, 499.7, 1000])
