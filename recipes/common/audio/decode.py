"""One encoded clip to samples of the rate asked for, or the reason why it cannot be used.

What is refused rather than guessed at: a name that says another format than the content has, a clip that is cut off,
empty or silent, several channels, another rate, peaks that are cut flat; each of the last three may be allowed. What is
converted is counted: channels averaged, rates resampled, other depths than 16 bits rounded.
"""

import io
import math
import struct
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.rows import BadRow
from recipes.common.audio.config import Audio

if TYPE_CHECKING:
    from soundfile import SoundFile

FULL_SCALE = 32768  # int16 samples are on [-1, 1) when divided by it
FLAT = 4  # neighbouring samples at full scale: a peak that was cut
# How a file's name may end, and the formats, in libsndfile's names, that it may then hold.
FORMATS = {
    ".wav": ("WAV", "WAVEX", "RF64"),
    ".flac": ("FLAC",),
    ".ogg": ("OGG",),
    ".oga": ("OGG",),
    ".opus": ("OGG",),
    ".mp3": ("MP3", "MPEG"),
    ".aiff": ("AIFF",),
    ".aif": ("AIFF",),
}
SUFFIXES = tuple(FORMATS)


def decoded(content: bytes, name: str, audio: Audio, notes: Counter[str]) -> np.ndarray:
    """Samples int16 (T,) of an encoded clip at audio.sample_rate.

    name: of its file; notes: what was converted on the way is counted in it.

    Raises:
        BadRow: it cannot be used; the message says why, and what was expected.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            _require_named(file, name)
            _require_whole(file.format, content)
            frames, rate, depth = file.frames, file.samplerate, file.subtype
            samples_TC = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise BadRow(
            f"{len(content):,} bytes are no clip, or are cut off: {error.error_string}\n"
            f"expected: {', '.join(SUFFIXES)}"
        ) from None
    if len(samples_TC) < frames and frames < 2**62:
        raise BadRow(f"it is cut off: {len(samples_TC):,} of {frames:,} samples\nexpected: a whole clip")
    if depth not in ("PCM_16", "VORBIS", "OPUS") and not depth.startswith("MPEG"):
        notes["rounded_to_16_bits"] += 1
    return _fitted(samples_TC, rate, audio, notes)


def _fitted(samples_TC: np.ndarray, rate: int, audio: Audio, notes: Counter[str]) -> np.ndarray:
    """The clip as one channel of the right rate and length."""
    if not len(samples_TC):
        raise BadRow("it has no sample: 0 seconds\nexpected: a clip with sound")
    if not np.isfinite(samples_TC).all():
        raise BadRow("it holds NaN or infinity\nexpected: finite samples")
    wave = _mixed(samples_TC, audio, notes)
    if not wave.any():
        raise BadRow("it is silent: every sample is 0\nexpected: a clip with sound")
    _require_peaks(wave, audio, notes)
    if rate != audio.sample_rate:
        wave = _resampled(wave, rate, audio, notes)
    limit = math.floor(audio.max_seconds * audio.sample_rate) if audio.max_seconds else len(wave)
    if len(wave) > limit and not audio.longer_are_cut:
        raise BadRow(
            f"{len(wave) / audio.sample_rate:.1f} s\nexpected: at most data.max_seconds = {audio.max_seconds:g}"
        )
    if len(wave) > limit:
        notes["cut_to_max_seconds"] += 1
    return to_int16(wave[:limit])


def to_int16(wave: np.ndarray) -> np.ndarray:
    """Samples on [-1, 1) as int16; what lies beyond is cut."""
    return np.clip(np.round(wave * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def _require_named(file: "SoundFile", name: str) -> None:
    suffix = name[name.rfind(".") :].lower()
    allowed = FORMATS.get(suffix)
    if allowed and file.format not in allowed:
        raise BadRow(
            f"its name ends in {suffix} and it holds {file.format}\nexpected: {' or '.join(allowed)}"
        )


def _require_whole(kind: str, content: bytes) -> None:
    """Containers that libsndfile reads to wherever they end."""
    if kind in ("WAV", "WAVEX"):
        (promised,) = struct.unpack("<I", content[4:8])
        if (
            content[:4] == b"RIFF" and promised + 8 > len(content) + 1
        ):  # some writers leave out the last pad byte
            raise BadRow(f"it is cut off: {len(content):,} of {promised + 8:,} bytes\nexpected: a whole clip")
    if kind == "AIFF":
        (promised,) = struct.unpack(">I", content[4:8])
        if promised + 8 > len(content) + 1:
            raise BadRow(f"it is cut off: {len(content):,} of {promised + 8:,} bytes\nexpected: a whole clip")
    if kind == "OGG":
        # A page (RFC 3533, section 6) has flags in byte 5, of which 4 marks the last one; byte 26 counts its segments,
        # whose lengths follow.
        page = content[content.rfind(b"OggS") :]
        whole = len(page) > 26 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
        if not whole or not page[5] & 4:
            raise BadRow("it is cut off: its last page is missing or not whole\nexpected: a whole clip")


def _mixed(samples_TC: np.ndarray, audio: Audio, notes: Counter[str]) -> np.ndarray:
    channels = samples_TC.shape[1]
    if channels == 1:
        return samples_TC[:, 0]
    if audio.on_channels == "error":
        raise BadRow(f"{channels} channels\nexpected: 1, or data.on_channels=mix to average them")
    notes["channels_averaged"] += 1
    return samples_TC.mean(axis=1)


def _require_peaks(wave: np.ndarray, audio: Audio, notes: Counter[str]) -> None:
    at_top = np.abs(wave) >= 1 - 1 / FULL_SCALE
    flat = at_top[: len(wave) - FLAT + 1].copy()
    for shift in range(1, FLAT):
        flat &= at_top[shift : len(wave) - FLAT + 1 + shift]
    if not flat.any():
        return
    if audio.on_clipped == "error":
        raise BadRow(
            f"it is clipped: {int(flat.sum()):,} places with {FLAT} samples in a row at full scale\n"
            "expected: peaks below full scale, or data.on_clipped=keep"
        )
    notes["clipped"] += 1


def _resampled(wave: np.ndarray, rate: int, audio: Audio, notes: Counter[str]) -> np.ndarray:
    """By scipy's polyphase filter, which takes off what the new rate cannot hold."""
    from scipy.signal import resample_poly

    if audio.on_rate == "error":
        raise BadRow(f"{rate:,} samples a second\nexpected: {audio.sample_rate:,}, or data.on_rate=resample")
    notes["resampled"] += 1
    common = math.gcd(rate, audio.sample_rate)
    return resample_poly(wave, audio.sample_rate // common, rate // common)
