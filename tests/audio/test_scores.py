"""Catches baselines that flatter: a predictor that is not one, FLAC estimated sizes, a distance without a zero."""

import io
import math

import numpy as np
import pytest
import soundfile
import torch

from recipes.common.audio import pictures, spectra
from recipes.common.audio.linear import LinearPredictor, flac_bits
from recipes.common.audio.spectra import griffin_lim, stft_distance
from recipes.wavenet.net import Mel

RATE = 8000


def noise(seed: int, length: int, scale: float = 300.0) -> np.ndarray:
    return np.random.default_rng(seed).logistic(0, scale, length)


def filtered(seed: int, length: int) -> np.ndarray:
    """A resonance driven by logistic noise: its entropy is the noise's."""
    from scipy.signal import lfilter

    return lfilter([1], [1, -1.6, 0.9], noise(seed, length)).round().clip(-32768, 32767).astype(np.int16)


def test_a_linear_predictor_reaches_the_entropy_of_what_is_linear():
    predictor = LinearPredictor(filtered(seed, 4000) for seed in range(6))
    bits = predictor.bits(filtered(9, 20000)) / 20000
    entropy = (math.log(300) + 2) / math.log(2)  # of a logistic of scale 300
    assert entropy == pytest.approx(11.11, abs=0.01)
    # Not below what is possible but for the chance of one draw, and at most 0.15 bits above: the running scale's price.
    assert entropy - 0.03 < bits < entropy + 0.15
    assert np.allclose(predictor.weights[-2:], [-0.9, 1.6], atol=0.05)


def test_flac_bits_are_those_of_a_file_that_reads_back():
    clip = filtered(0, 4000)
    written = io.BytesIO()
    soundfile.write(written, clip, RATE, format="FLAC", subtype="PCM_16", compression_level=1.0)
    assert flac_bits(clip, RATE) == 8 * len(written.getvalue())
    assert np.array_equal(soundfile.read(io.BytesIO(written.getvalue()), dtype="int16")[0], clip)


def test_the_distance_is_nothing_to_itself_and_grows_with_noise():
    real = torch.from_numpy(filtered(0, 8000) / 32768)[None]
    assert float(stft_distance(real, real, RATE)) == 0
    apart = [
        float(stft_distance(real + size * torch.randn_like(real), real, RATE)) for size in (0.001, 0.01, 0.1)
    ]
    assert 0 < apart[0] < apart[1] < apart[2]
    # Half as loud: convergence 1/2 and log 2 in every bin above the floor.
    assert float(stft_distance(real / 2, real, RATE)) == pytest.approx(0.5 + math.log(2), abs=0.02)


def test_griffin_and_lims_wave_has_the_frames_it_is_made_from(monkeypatch):
    time = torch.arange(8000) / RATE
    wave = (0.3 * torch.sin(2 * torch.pi * (300 + 400 * time) * time))[None]
    mel = Mel(RATE, 40, 256, 64)
    frames = mel(torch.nn.functional.pad(wave, (128, 128)))[0]
    found = griffin_lim(frames, mel.filters, 256, 64, 8000)
    assert len(found) == 8000
    near = float(stft_distance(torch.from_numpy(found)[None], wave, RATE))
    monkeypatch.setattr(spectra, "ITERATIONS", 0)
    random = griffin_lim(frames, mel.filters, 256, 64, 8000)  # the same spectrum, its phase by chance
    assert (
        near < 0.4 < 0.8 < float(stft_distance(torch.from_numpy(random)[None], wave, RATE))
    )  # 0.33 and 0.89 seen


def test_a_tone_is_drawn_at_its_frequency_and_a_wave_within_its_range():
    time = np.arange(8000) / RATE
    tone = (16384 * np.sin(2 * np.pi * 1000 * time)).astype(np.int16)
    brightness = pictures.spectrogram(tone, RATE).sum(-1)[:, 128]
    row = (1 - 1000 / (RATE / 2)) * (pictures.SPECTRUM_HEIGHT - 1)
    assert abs(int(brightness.argmax()) - row) <= 1
    inked = (pictures.envelope(tone)[:, 128] == pictures.INK).all(-1)
    assert inked.mean() == pytest.approx(0.5, abs=0.05)
    silence = pictures.picture_of(np.zeros(8000, np.int16), RATE)
    assert silence.shape == (pictures.WAVE_HEIGHT + pictures.SPECTRUM_HEIGHT, pictures.WIDTH, 3)
    assert (silence[pictures.WAVE_HEIGHT :] == pictures.COLOURS[0]).all()
