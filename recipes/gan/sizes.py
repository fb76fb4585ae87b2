"""Which pictures the convolutional pairs can make, and how wide they are at each resolution."""

SMALLEST, LARGEST = 8, 64  # pixels a side
BASES = range(4, 8)  # pixels a side of the coarsest feature maps


def sizes() -> list[int]:
    """Pixels a side that halve down to one of BASES."""
    found = {base << halvings for base in BASES for halvings in range(1, 5)}
    return sorted(size for size in found if SMALLEST <= size <= LARGEST)


def halvings_of(image_size: int) -> int:
    """How often a side of one of `sizes()` is halved."""
    return next(count for count in range(1, 5) if image_size >> count in BASES)


def widths(channels: int, most: int, resolutions: int) -> list[int]:
    """Feature maps from the widest resolution to the coarsest: each halving doubles them, up to `most`."""
    return [min(channels << level, most) for level in range(resolutions)]
