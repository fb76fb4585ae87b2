"""Catches a density passed off as a probability of 8-bit values, digits lost in a tail, a mean or draw of another law.

B pictures, P numbers of the decoder, C channels; every case is one row of pixels.
"""

import math

import numpy as np
import pytest
import torch

from recipes.vae.likelihoods import Bernoulli, Gaussian, LogisticMixture

VALUES = torch.arange(256.0)
CASES = {
    "mixture": LogisticMixture(3),
    "one logistic": LogisticMixture(1),
    "gaussian": Gaussian(),
}


def numbers(likelihood, columns: int, scale: float = 1.5, seed: int = 0) -> torch.Tensor:
    """Random (1, P, 1, 1, columns), wide enough for saturated ends and narrow scales."""
    drawn = torch.randn(1, likelihood.numbers, 1, 1, columns, generator=torch.Generator().manual_seed(seed))
    return scale * drawn


def of_all_values(likelihood, given: torch.Tensor) -> torch.Tensor:
    """log-probability of each of the 256 values in each column, (256, columns)."""
    pixels = VALUES[:, None, None, None].expand(256, 1, 1, given.shape[-1])
    return likelihood.log_prob(given.expand(256, -1, -1, -1, -1), pixels)[:, 0, 0]


@pytest.mark.parametrize("name", CASES)
def test_the_256_values_share_out_one(name):
    given = numbers(CASES[name], 200, scale=3.0)
    sums = of_all_values(CASES[name], given).double().exp().sum(dim=0)
    assert torch.allclose(sums, torch.ones(200, dtype=torch.float64), atol=2e-5, rtol=0)  # measured 2.6e-6


def test_the_two_values_of_a_binary_pixel_share_out_one():
    given = numbers(Bernoulli(), 50)
    pair = torch.tensor([0.0, 255.0])[:, None, None, None].expand(2, 1, 1, 50)
    sums = Bernoulli().log_prob(given.expand(2, -1, -1, -1, -1), pair).exp().sum(dim=0)
    assert torch.allclose(sums, torch.ones(1, 1, 50), atol=1e-6)


def test_bernoulli_is_torchs_at_both_ends_and_its_expectation_between():
    given = numbers(Bernoulli(), 50)
    reference = torch.distributions.Bernoulli(logits=given[:, 0])
    for value in (0.0, 255.0):
        found = Bernoulli().log_prob(given, torch.full((1, 1, 1, 50), value))
        assert torch.allclose(found, reference.log_prob(torch.tensor(value / 255)), atol=1e-6)
    found = Bernoulli().log_prob(given, torch.full((1, 1, 1, 50), 51.0))
    expected = 0.2 * reference.log_prob(torch.tensor(1.0)) + 0.8 * reference.log_prob(torch.tensor(0.0))
    assert torch.allclose(found, expected, atol=1e-6)


def test_gaussian_is_the_mass_that_torch_gives_to_the_pixels_bin():
    given = numbers(Gaussian(), 100).double()
    law = torch.distributions.Normal(given[0, 0, 0, 0], given[0, 1, 0, 0].clamp(min=-7).exp())
    edges = ((torch.arange(257, dtype=torch.float64) - 0.5) / 127.5 - 1)[:, None]
    below = law.cdf(edges)
    below[0], below[-1] = 0, 1
    mass = below.diff(dim=0)
    found = of_all_values(Gaussian(), given).double()
    seen = mass > 1e-6  # where a difference of fp64 CDFs keeps its digits
    assert torch.allclose(
        found[seen], mass[seen].log(), rtol=0, atol=1e-3
    )  # measured 5.0e-4, of a wide scale


def test_logistic_mixture_is_the_mass_of_torchs_logistics():
    from torch.distributions import AffineTransform, SigmoidTransform, TransformedDistribution, Uniform

    likelihood, columns = LogisticMixture(3), 40
    given = numbers(likelihood, columns).double()
    logits, means, log_scales = given[0, :, 0, 0].chunk(3)
    uniform = Uniform(
        torch.zeros(3, columns, dtype=torch.float64), torch.ones(3, columns, dtype=torch.float64)
    )
    law = TransformedDistribution(
        uniform, [SigmoidTransform().inv, AffineTransform(means, log_scales.clamp(min=-7).exp())]
    )
    edges = ((torch.arange(1, 256, dtype=torch.float64) - 0.5) / 127.5 - 1)[:, None, None]
    inner = (logits.softmax(dim=0) * law.cdf(edges.expand(-1, 3, columns))).sum(dim=1)
    below = torch.cat([torch.zeros(1, columns), inner, torch.ones(1, columns)])
    mass = below.diff(dim=0)
    seen = mass > 1e-6
    assert torch.allclose(of_all_values(likelihood, given).double()[seen], mass[seen].log(), atol=2e-4)


@pytest.mark.parametrize("name", [*CASES, "bernoulli"])
def test_gradients_are_those_of_finite_differences(name, monkeypatch):
    likelihood = CASES.get(name, Bernoulli())
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # the formulas in fp64
    given = numbers(likelihood, 6, scale=0.7).double().requires_grad_()
    pixels = torch.tensor([0.0, 1.0, 77.0, 128.0, 254.0, 255.0], dtype=torch.float64).reshape(1, 1, 1, 6)
    assert torch.autograd.gradcheck(lambda numbers: likelihood.log_prob(numbers, pixels), (given,))


@pytest.mark.parametrize("name", CASES)
def test_far_tails_and_narrow_scales_stay_finite_and_learn(name):
    likelihood = CASES[name]
    given = torch.full((1, likelihood.numbers, 1, 1, 3), -9.0)  # far below black, scales at their floor
    given.requires_grad_()
    found = likelihood.log_prob(given, torch.tensor([0.0, 128.0, 255.0]).reshape(1, 1, 1, 3))
    found.sum().backward()
    assert torch.isfinite(found).all() and torch.isfinite(given.grad).all()
    assert found[..., 0].item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", [*CASES, "bernoulli"])
def test_draws_have_the_frequencies_that_log_prob_says(name):
    likelihood = CASES.get(name, Bernoulli())
    draws = 20_000
    given = numbers(likelihood, 1, scale=0.8, seed=3)
    coins = torch.from_numpy(np.random.default_rng(0).random((1, 2, 1, 1, draws), dtype=np.float32))
    drawn = likelihood.sample(given.expand(-1, -1, -1, -1, draws), coins).flatten()
    if name == "bernoulli":
        probability = given[:, 0].sigmoid().item()
        assert (drawn == 255).float().mean().item() == pytest.approx(
            probability, abs=4 * 0.5 / math.sqrt(draws)
        )
        return
    expected = of_all_values(likelihood, given)[:, 0].exp().cumsum(dim=0)
    found = torch.bincount(drawn.long(), minlength=256).cumsum(dim=0) / draws
    assert (found - expected).abs().max() < 0.0136  # Kolmogorov: 1.92 / sqrt(20,000), exceeded once in 1,000


def test_the_mean_of_a_narrow_law_is_its_centre():
    narrow = torch.tensor([0.2, -6.0]).reshape(1, 2, 1, 1, 1)
    assert Gaussian().mean(narrow).item() == pytest.approx(1.2 * 127.5, rel=1e-6)
    mixture = torch.tensor([0.0, 0.0, -0.2, 0.6, -6.0, -6.0]).reshape(1, 6, 1, 1, 1)
    assert LogisticMixture(2).mean(mixture).item() == pytest.approx(1.2 * 127.5, rel=1e-6)
    assert Bernoulli().mean(torch.zeros(1, 1, 1, 1, 1)).item() == 127.5
