"""Pieces to look at and to hear: piano rolls, and FluidSynth's sound or, without it, additive tones."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from symusic import Score

RATE = 12_000  # samples a second
WIDTH, ROW, LOWEST, HIGHEST = 720, 3, 28, 100  # pixels; pixels a semitone; pitches that are drawn
PAPER, SHADE, LINE = (252, 252, 250), (240, 240, 236), (205, 205, 200)
INKS = ((40, 70, 140), (190, 80, 40), (50, 120, 70), (120, 60, 130), (90, 90, 90))
BLACK_KEYS = {1, 3, 6, 8, 10}
FONTS = ("/usr/share/sounds/sf2", "/usr/share/soundfonts", "/usr/local/share/soundfonts")
HARMONICS = (1.0, 0.5, 0.28, 0.14, 0.08)


def roll(score: Score, bars: int = 16) -> np.ndarray:
    """The first bars of four beats as a piano roll, uint8 (H, WIDTH, 3): time to the right, pitch upwards."""
    height = (HIGHEST - LOWEST) * ROW
    page = np.full((height, WIDTH, 3), PAPER, np.uint8)
    for pitch in range(LOWEST, HIGHEST):
        if pitch % 12 in BLACK_KEYS:
            page[_rows(pitch)] = SHADE
    quarter, span = score.ticks_per_quarter, bars * 4 * score.ticks_per_quarter
    for bar in range(bars):
        page[:, bar * 4 * quarter * WIDTH // span] = LINE
    for number, track in enumerate(score.tracks):
        for note in () if track.is_drum else track.notes:
            if note.time < span and LOWEST <= note.pitch < HIGHEST:
                begin = note.time * WIDTH // span
                end = max(begin + 1, min(WIDTH, (note.time + note.duration) * WIDTH // span - 1))
                page[_rows(note.pitch), begin:end] = INKS[number % len(INKS)]
    return page


def _rows(pitch: int) -> slice:
    top = (HIGHEST - 1 - pitch) * ROW
    return slice(top, top + ROW)


def sound(score: Score, seconds: float) -> tuple[np.ndarray, str]:
    """(int16 samples at RATE, what made them) of the beginning of a piece; the loudest is at 0.9 of full scale."""
    font = _font()
    if font and shutil.which("fluidsynth"):
        return _loud(_fluidsynth(score, font, seconds)), "FluidSynth"
    return _loud(tones(score, seconds)), "additive tones"


def _loud(wave: np.ndarray) -> np.ndarray:
    """At FluidSynth's own gain a chorale peaks at a fiftieth of full scale."""
    peak = np.abs(wave).max(initial=0)
    return (wave * (0.9 * 32767 / peak if peak else 0)).astype(np.int16)


def _font() -> Path | None:
    return next((font for folder in FONTS for font in sorted(Path(folder).glob("*.sf[23]"))), None)


def _fluidsynth(score: Score, font: Path, seconds: float) -> np.ndarray:
    import wave

    with tempfile.TemporaryDirectory() as folder:
        midi, out = Path(folder) / "piece.mid", Path(folder) / "piece.wav"
        score.dump_midi(str(midi))
        command = ["fluidsynth", "-ni", "-r", str(RATE), "-F", str(out), str(font), str(midi)]
        subprocess.run(command, check=True, capture_output=True)
        with wave.open(str(out)) as file:
            frames = np.frombuffer(file.readframes(round(seconds * RATE)), "<i2")
        return frames.reshape(-1, 2).mean(1)


def tones(score: Score, seconds: float) -> np.ndarray:
    """Every note as a decaying sum of harmonics, fp64 [seconds * RATE]."""
    timed = score.to("second")
    wave = np.zeros(round(seconds * RATE))
    for track in timed.tracks:
        for note in () if track.is_drum else track.notes:
            begin = round(note.time * RATE)
            length = min(round((note.duration + 0.08) * RATE), len(wave) - begin)
            if length > 0:
                wave[begin : begin + length] += _tone(note.pitch, length, note.duration)
    return wave


def _tone(pitch: int, length: int, held: float) -> np.ndarray:
    time = np.arange(length) / RATE
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    parts = [
        weight * np.sin(2 * np.pi * frequency * number * time) * np.exp(-time * number)
        for number, weight in enumerate(HARMONICS, 1)
        if frequency * number < RATE / 2
    ]
    attack, release = np.minimum(1, time / 0.008), np.clip(1 - (time - held) / 0.08, 0, 1)
    return sum(parts, np.zeros(length)) * attack * release
