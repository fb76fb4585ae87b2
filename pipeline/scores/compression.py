"""What a general-purpose compressor needs for the same bytes: the yardstick beside a model's bits per byte."""

import lzma
from collections.abc import Iterable


def xz_bits_per_byte(texts: Iterable[str]) -> float:
    """Bits a byte that `xz -9e` needs for the UTF-8 bytes of `texts`, one after the other; its headers count."""
    data = "".join(texts).encode()
    packed = lzma.compress(data, lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)
    return 8 * len(packed) / len(data)
