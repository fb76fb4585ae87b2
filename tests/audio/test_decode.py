"""Catches a clip that is taken for what it is not: cut off, mislabelled, silent, clipped, of another rate or depth."""

import io
from collections import Counter

import numpy as np
import pytest
import soundfile

from pipeline.data.rows import BadRow
from recipes.common.audio.decode import decoded
from tests.audio.conftest import RATE, tone


def encoded(wave, kind="WAV", subtype=None, rate=RATE) -> bytes:
    written = io.BytesIO()
    soundfile.write(written, wave, rate, format=kind, subtype=subtype)
    return written.getvalue()


def square(length=400) -> np.ndarray:
    return np.where(np.arange(length) % 40 < 20, 1.0, -1.0)


@pytest.mark.parametrize(
    "kind, subtype, step",
    [
        ("WAV", "PCM_16", 0),
        ("FLAC", "PCM_16", 0),
        ("AIFF", "PCM_16", 0),
        ("WAV", "PCM_24", 1),
        ("WAV", "FLOAT", 1),
        ("WAV", "PCM_U8", 256),
    ],
)
def test_every_depth_becomes_16_bits_and_that_is_counted(settings, kind, subtype, step):
    notes: Counter[str] = Counter()
    wave = np.round(tone(1) * 32768) / 32768
    found = decoded(encoded(wave, kind, subtype), f"a.{kind.lower()}", settings(), notes)
    assert found.dtype == np.int16
    assert np.abs(found - wave * 32768).max() <= step
    assert notes == ({"rounded_to_16_bits": 1} if subtype != "PCM_16" else {})


def test_a_lossy_clip_keeps_its_length_and_most_of_its_shape(settings):
    found = decoded(encoded(tone(1), "OGG", "VORBIS"), "a.ogg", settings(), Counter())
    assert len(found) == len(tone(1))
    assert np.corrcoef(found, tone(1))[0, 1] > 0.95


NOT_WHOLE = {
    "WAV": (encoded(tone(1))[:-500], "a.wav", "cut off: .* of .* bytes"),
    "AIFF": (encoded(tone(1), "AIFF")[:-500], "a.aiff", "cut off: .* of .* bytes"),
    "MP3": (encoded(tone(1, rate=8000), "MP3", rate=8000)[:-200], "a.mp3", "cut off"),
    "FLAC": (encoded(tone(1), "FLAC")[:-500], "a.flac", "cut off"),
    "OGG": (encoded(tone(1), "OGG")[:-500], "a.ogg", "cut off: its last page is missing or not whole"),
    "text": (b"not a clip", "a.wav", "no clip, or are cut off"),
    "nothing": (b"", "a.wav", "no clip, or are cut off"),
    "another format": (encoded(tone(1), "FLAC"), "a.wav", "its name ends in .wav and it holds FLAC"),
    "no sample": (encoded(np.zeros(0)), "a.wav", "0 seconds"),
    "silence": (encoded(np.zeros(400)), "a.wav", "it is silent"),
    "NaN": (encoded(np.full(400, np.nan), subtype="FLOAT"), "a.wav", "NaN"),
    "stereo": (
        encoded(np.stack([tone(1), tone(2)], 1)),
        "a.wav",
        "2 channels\nexpected: 1, or data.on_channels=mix",
    ),
    "rate": (
        encoded(tone(1), rate=8000),
        "a.wav",
        "8,000 samples a second\nexpected: 4,000, or data.on_rate=resample",
    ),
    "clipped": (encoded(square()), "a.wav", "clipped: .* places .*\nexpected: .* or data.on_clipped=keep"),
}


@pytest.mark.parametrize("case", NOT_WHOLE)
def test_what_cannot_be_used_says_why_and_what_was_expected(settings, case):
    content, name, said = NOT_WHOLE[case]
    with pytest.raises(BadRow, match=said) as refused:
        decoded(content, name, settings(), Counter())
    assert "\nexpected: " in str(refused.value)


def test_what_is_allowed_is_done_and_counted(settings):
    allowed = settings(on_channels="mix", on_rate="resample", on_clipped="keep", max_seconds=0.25)
    both = np.stack([0.5 * square(8000), 1.5 * square(8000)], 1)
    notes: Counter[str] = Counter()
    found = decoded(encoded(both, subtype="FLOAT", rate=8000), "a.wav", allowed, notes)
    assert len(found) == 1000
    assert notes == {
        "rounded_to_16_bits": 1,
        "channels_averaged": 1,
        "clipped": 1,
        "resampled": 1,
        "cut_to_max_seconds": 1,
    }


def test_resampling_keeps_a_tone_and_takes_off_what_the_new_rate_cannot_hold(settings):
    time = np.arange(16000) / 8000
    kept, lost = 0.3 * np.sin(2 * np.pi * 500 * time), 0.3 * np.sin(2 * np.pi * 3000 * time)
    found = decoded(encoded(kept + lost, rate=8000), "a.wav", settings(on_rate="resample"), Counter())
    expected = 0.3 * np.sin(2 * np.pi * 500 * np.arange(8000) / 4000) * 32768
    assert np.abs(found[100:-100] - expected[100:-100]).max() < 0.01 * 32768
