"""Waves as files that any program plays."""

import wave
from pathlib import Path

import numpy as np


def write_wav(path: Path, samples_T: np.ndarray, rate: int) -> None:
    """One channel of 16 bits; samples int16, `rate` of them a second."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(samples_T.astype("<i2").tobytes())
