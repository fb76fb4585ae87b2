"""Catches a sample that sees itself or what comes after, a likelihood that does not sum to one, queues that err."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recipes.common.audio.dataset import PreparedAudio, around
from recipes.wavenet.config import Model
from recipes.wavenet.generate import coins_of, generated, mel_of_clips, sampler_of
from recipes.wavenet.net import FULL_SCALE, MuLaw, WaveNet, mel_filters, mu_law
from recipes.wavenet.score import nats_of
from tests.benchmarks.siblings import generated_naively

MEL = {"bands": 6, "window": 32, "hop": 8}
SMALL = {
    "channels": 6,
    "skip_channels": 8,
    "stacks": 2,
    "layers": 3,
    "kernel": 2,
    "mixtures": 3,
    "classes": 2,
}
KINDS = {
    "mu-law": {"likelihood": "mu_law"},
    "logistics": {"likelihood": "logistic_mixture"},
    "mel": {"likelihood": "mu_law", "mel": MEL},
    "wide kernel": {"likelihood": "mu_law", "kernel": 3, "stacks": 1},
    "no classes": {"likelihood": "mu_law", "classes": 0},
}


def net_of(kind="mu-law", **fields) -> WaveNet:
    """A net whose weights are large enough that every path through it shows."""
    torch.manual_seed(0)
    net = WaveNet(**({"sample_rate": 1000, "mel": None} | SMALL | KINDS[kind] | fields))
    if net.label:
        torch.nn.init.normal_(net.label.weight)
    return net.eval().requires_grad_(False)


def waves(count: int, length: int, seed: int = 0) -> torch.Tensor:
    drawn = np.random.default_rng(seed).normal(0, 4000, (count, length))
    return torch.from_numpy(drawn.astype(np.int16))


@pytest.mark.parametrize(("kernel", "stacks", "layers"), [(2, 1, 4), (2, 2, 3), (3, 1, 3)])
def test_a_sample_sees_as_many_before_it_as_the_formula_says_and_none_after(kernel, stacks, layers):
    net = net_of(kernel=kernel, stacks=stacks, layers=layers).double()
    model = Model(
        channels=6, skip_channels=8, stacks=stacks, layers=layers, kernel=kernel, likelihood="mu_law"
    )
    assert net.receptive_field == model.receptive_field
    length = net.before + net.kernel + 4
    inputs = torch.randn(1, 3, length, dtype=torch.float64, requires_grad=True)
    numbers = net.numbers(inputs, net.told(None, torch.tensor([0])), 3)
    for place in range(3):
        [gradient] = torch.autograd.grad(numbers[0, :, place].abs().sum(), inputs, retain_graph=True)
        seen = (gradient[0].abs().sum(0) > 0).nonzero()[:, 0]
        last = length - 3 + place  # place t is told sample t - 1: inputs end one before what is predicted
        assert (seen.max().item(), len(seen)) == (last, model.receptive_field)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mu-law", "logistics"])
def test_the_probabilities_of_all_samples_sum_to_one(kind):
    sample = net_of(kind).sample
    numbers = torch.randn(2, sample.numbers, 1, generator=torch.manual_seed(1))
    if kind == "logistics":
        numbers[1, -3:] = -9.0  # a needle, narrower than a step of 8 bits
    every = torch.arange(-FULL_SCALE, FULL_SCALE)[None].expand(2, -1)
    before = torch.full_like(every, 700)
    found = sample.log_prob(numbers.expand(-1, -1, every.shape[1]), every, before)
    assert found.double().exp().sum(1).tolist() == pytest.approx(
        [1, 1], abs=2e-4
    )  # fp32; 5e-5 is the worst seen


def test_mu_law_is_the_standards_curve_and_its_codes_are_their_samples_means():
    values = torch.tensor([-FULL_SCALE, -1, 0, 1, 327, 3277, FULL_SCALE - 1])
    x = values.double() / FULL_SCALE
    curve = x.sign() * (1 + 255 * x.abs()).log() / math.log(256)
    assert mu_law(values).tolist() == ((curve + 1) / 2 * 256).floor().clamp(max=255).tolist()
    law = MuLaw()
    assert torch.equal(mu_law(torch.from_numpy(law.samples)), torch.arange(256))
    every = torch.arange(-FULL_SCALE, FULL_SCALE)
    assert torch.equal(torch.bincount(mu_law(every)).double().log().float(), law.log_counts)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_queues_generate_what_a_pass_over_the_wave_for_each_sample_does(kind):
    net = net_of(kind)
    if kind == "logistics":
        net = (
            net.double()
        )  # a logistic's draw is rounded to one of 65,536: in fp32 a last bit decides now and then
    labels, coins = (
        torch.tensor([0, 1, 1]),
        np.stack([coins_of(seed, 90) for seed in range(3)]),
    )
    mel = mel_of_clips(net, waves(3, 90)) if net.mel else None
    mel = mel.to(net.head.weight.dtype) if mel is not None else None
    found = generated(net, labels, coins, mel)
    assert len(np.unique(found)) > 100
    assert np.array_equal(found, generated_naively(net, labels, coins, mel))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mu-law", "mel"])
def test_a_clips_likelihood_does_not_depend_on_how_it_is_cut_into_segments(kind):
    net, clip = net_of(kind), waves(1, 203)[0].numpy()
    audio = PreparedAudio(clip, np.array([0, 203]), np.array([1]), ("a", "b"), ("clip",))
    whole = around(clip, -net.left, net.left + 208 + net.right)
    log_prob = net(torch.from_numpy(whole)[None], torch.tensor([net.left]), torch.tensor([1]))[0, :203]
    for segment in (64, 104):
        assert nats_of(net, audio, 1, segment)[0] == pytest.approx(-float(log_prob.double().sum()), rel=1e-6)


@torch.no_grad()
def test_the_likelihood_is_the_product_of_what_generation_draws_from():
    """Of each place: the numbers that queues give after the samples before it are those that forward scores."""
    from recipes.wavenet.generate import Queues

    net, wave = net_of("mel"), waves(1, 64)
    label = torch.tensor([1])
    padded = F.pad(wave, (net.left, net.right))
    scored = net(padded, torch.tensor([net.left]), label)[0]
    queues = Queues(net, net.told(mel_of_clips(net, wave), label))
    for place in range(64):
        now, before = (
            wave[:, place : place + 1].long(),
            padded[:, net.left + place - 1 : net.left + place].long(),
        )
        found = net.sample.log_prob(torch.from_numpy(queues.numbers())[..., None], now, before)
        assert float(found) == pytest.approx(float(scored[place]), abs=1e-4)
        queues.add(now[:, 0].numpy())


@torch.no_grad()
def test_class_and_frames_are_heard():
    net, coins = net_of("mel"), coins_of(0, 80)[None]
    quiet, loud = (mel_of_clips(net, waves(1, 80) // part) for part in (400, 1))
    first = generated(net, torch.tensor([0]), coins, quiet)
    assert not np.array_equal(first, generated(net, torch.tensor([1]), coins, quiet))
    assert not np.array_equal(first, generated(net, torch.tensor([0]), coins, loud))


@pytest.mark.parametrize("kind", ["mu-law", "mel"])
def test_wave_i_is_the_same_at_any_batch_size(kind):
    net = net_of(kind)
    like = [row.numpy() for row in waves(11, 50)] if net.mel else None
    labels = [seed % 2 for seed in range(11)]
    together = sampler_of(net, 50, like)(list(range(11)), labels)
    alone = [sampler_of(net, 50, like and [like[seed]])([seed], [labels[seed]])[0] for seed in range(11)]
    assert np.array_equal(together, np.stack(alone))


def test_mel_filters_are_those_of_a_trusted_library():
    from transformers.audio_utils import mel_filter_bank

    expected = mel_filter_bank(129, 20, 0.0, 4000.0, 8000, norm=None, mel_scale="htk")
    assert np.abs(mel_filters(8000, 20, 256).numpy() - expected).max() < 1e-6


def test_frames_are_a_trusted_librarys_spectrogram():
    from transformers.audio_utils import spectrogram, window_function

    net = net_of(sample_rate=8000, mel={"bands": 20, "window": 256, "hop": 64})
    wave = waves(1, 2000)[0].numpy() / FULL_SCALE
    expected = spectrogram(
        wave,
        window_function(256, "hann"),
        256,
        64,
        power=1.0,
        center=False,
        mel_filters=mel_filters(8000, 20, 256).double().numpy(),
        mel_floor=1e-5,
        log_mel="log",
    )
    found = net.mel(torch.from_numpy(wave)[None].float())[0].double().numpy()
    assert np.abs(found - expected).max() < 1e-4  # fp32; 1e-5 is the worst seen
