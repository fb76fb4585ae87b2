"""Waves as pictures: the wave itself above its spectrogram, on sheets. T samples of a wave."""

from pathlib import Path

import numpy as np

from recipes.common.images.sheet import save_sheet

WIDTH, WAVE_HEIGHT, SPECTRUM_HEIGHT = 256, 48, 96  # pixels
DECIBELS = 80  # from the loudest to what is drawn as silence
PAPER, INK = (250, 250, 250), (40, 60, 120)
# Colours from quiet to loud: dark blue, purple, orange, pale yellow; their lightness grows evenly.
COLOURS = np.array([(10, 10, 40), (85, 25, 110), (190, 60, 90), (245, 145, 50), (252, 250, 190)], float)


def save_sheet_of_sounds(waves: np.ndarray, rate: int, path: Path, columns: int) -> None:
    """Write the pictures of int16 waves (N, T), row by row, as one PNG."""
    save_sheet(np.stack([picture_of(wave, rate) for wave in waves]), path, columns)


def picture_of(wave_T: np.ndarray, rate: int) -> np.ndarray:
    """uint8 (WAVE_HEIGHT + SPECTRUM_HEIGHT, WIDTH, 3): time runs to the right, frequency upwards to rate / 2."""
    return np.concatenate([envelope(wave_T), spectrogram(wave_T, rate)])


def envelope(wave_T: np.ndarray) -> np.ndarray:
    """The range that the wave covers in each column, full scale from edge to edge, uint8 (WAVE_HEIGHT, WIDTH, 3)."""
    edges = np.linspace(0, len(wave_T), WIDTH + 1).astype(int)
    parts = [
        wave_T[low : max(low + 1, high)].astype(float) / 32768
        for low, high in zip(edges, edges[1:], strict=False)
    ]
    rows = np.arange(WAVE_HEIGHT)[:, None]
    top = [(1 - part.max()) / 2 * (WAVE_HEIGHT - 1) for part in parts]
    bottom = [(1 - part.min()) / 2 * (WAVE_HEIGHT - 1) for part in parts]
    drawn = (rows >= np.floor(top)) & (rows <= np.ceil(bottom))
    return np.where(drawn[..., None], INK, PAPER).astype(np.uint8)


def spectrogram(wave_T: np.ndarray, rate: int) -> np.ndarray:
    """Loudness of 32 ms by frequency, uint8 (SPECTRUM_HEIGHT, WIDTH, 3); the darkest is DECIBELS below full scale."""
    window = 2 * round(0.016 * rate)
    centres = np.linspace(0, len(wave_T), WIDTH).astype(int)
    padded = np.pad(wave_T.astype(float) / 32768, window // 2)
    frames = np.stack([padded[centre : centre + window] for centre in centres]) * np.hanning(window)
    magnitude = np.abs(np.fft.rfft(frames)) / (window / 4)  # a sine at full scale is 1
    loudness = 1 + 20 * np.log10(np.maximum(magnitude, 1e-9)) / DECIBELS
    bins = np.linspace(magnitude.shape[1] - 1, 0, SPECTRUM_HEIGHT).round().astype(int)
    place = np.clip(loudness.T[bins], 0, 1) * (len(COLOURS) - 1)
    low = np.minimum(place.astype(int), len(COLOURS) - 2)
    share = (place - low)[..., None]
    return ((1 - share) * COLOURS[low] + share * COLOURS[low + 1]).round().astype(np.uint8)
