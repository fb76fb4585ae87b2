"""Seeds as pure functions of what they are for."""

import hashlib


def derived_seed(seed: int, purpose: str, *progress: int) -> int:
    """A 63-bit seed that is a pure function of (seed, purpose, progress): no generator state to save or restore."""
    text = "/".join(map(str, (seed, purpose, *progress)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
