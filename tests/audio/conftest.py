"""What tests of sound share: tones in files, and the section that reads them."""

import numpy as np
import pytest
import soundfile

from recipes.common.audio.config import Audio

RATE = 4000


def tone(number: int, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    """A decaying tone with a little noise, unlike every other number's, on [-1, 1)."""
    random = np.random.default_rng(number)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 200 + 37 * (number % 20)
    return 0.5 * np.exp(-3 * time) * np.sin(2 * np.pi * pitch * time) + 0.01 * random.standard_normal(
        len(time)
    )


@pytest.fixture
def folder(tmp_path):
    """A folder of classes: 30 clips in `high`, 20 in `low`, in three formats."""
    for number in range(50):
        place = tmp_path / "clips" / ("high" if number < 30 else "low")
        place.mkdir(parents=True, exist_ok=True)
        suffix = ("wav", "flac", "ogg")[number % 3]
        soundfile.write(place / f"{number:02}.{suffix}", tone(number), RATE)
    return tmp_path / "clips"


@pytest.fixture
def settings():
    """`settings(**given)`: an Audio section of a folder, unless said otherwise."""

    def make(**given) -> Audio:
        if "path" in given:
            given["path"] = str(given["path"])
        return Audio(**{"source": "folder", "sample_rate": RATE, "held_out": 0.2} | given)

    return make
