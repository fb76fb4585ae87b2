"""Catches a compressor that is weaker than `xz -9e`, counts characters for bytes, or compresses text by text."""

import lzma
import random
import shutil
import subprocess

import pytest

from pipeline.scores.compression import xz_bits_per_byte

CONTAINER = 96  # bytes of stream header, block header, index, check and footer at most


@pytest.fixture(scope="module")
def texts():
    """Text with repeats further apart than the window of weaker presets' match finders look, and with long letters."""
    words = [f"wörd{random.Random(seed).randrange(10**6)}" for seed in range(400)]
    return [" ".join(random.Random(seed).choices(words, k=3000)) for seed in range(8)]


def packed_bytes(texts):
    data = "".join(texts).encode()
    return xz_bits_per_byte(texts) * len(data) / 8, data


def test_it_is_the_raw_stream_of_preset_9_extreme_and_its_container(texts):
    packed, data = packed_bytes(texts)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    raw = len(lzma.compress(data, lzma.FORMAT_RAW, filters=filters))
    weaker = [{"id": lzma.FILTER_LZMA2, "preset": 1}]
    assert raw < packed <= raw + CONTAINER
    assert packed < len(lzma.compress(data, lzma.FORMAT_RAW, filters=weaker))


@pytest.mark.skipif(shutil.which("xz") is None, reason="the xz command is not installed")
def test_it_is_what_the_command_writes(texts):
    packed, data = packed_bytes(texts)
    command = subprocess.run(
        ["xz", "-9e", "--threads=1", "--stdout"], input=data, capture_output=True, check=True
    )
    assert abs(packed - len(command.stdout)) <= CONTAINER
