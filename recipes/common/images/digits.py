"""scikit-learn's digits, zero download: as they are, and three of them stacked as the channels of one picture.

1,797 handwritten digits, grey, 8 x 8, values 0 to 16. Stacks have 1,000 classes, 000 to 999, so that a generator that
drops modes is counted out (arXiv:1612.02136 stacks MNIST's).
"""

from collections.abc import Iterator

import numpy as np

from pipeline.data.sources import is_held_out
from pipeline.run.errors import UserError
from recipes.common.images.config import Images
from recipes.common.rows import Row, Source

SIDE = 8
LARGEST = 16  # of the package's values
STACKS = 20_000  # pictures, unless data.max_images says otherwise
FILE = "sklearn.datasets.load_digits"
CLASSES = {"digits": tuple("0123456789"), "stacked_digits": tuple(f"{number:03}" for number in range(1000))}


def digits(images: Images) -> Source:
    """Each digit, held out by a hash of its number. Raises UserError where scikit-learn is missing."""
    pixels, labels = load()
    rows = [
        Row(f"digit:{number}", FILE, number, int(label), is_held_out(f"digit:{number}", images.held_out))
        for number, label in enumerate(labels)
    ]
    return Source(CLASSES["digits"], rows, lambda wanted: (pixels[row.row] for row in wanted))


def stacked_digits(images: Images) -> Source:
    """data.max_images or 20,000 stacks; number i depends on i alone, and no digit is in both splits.

    Raises:
        UserError: as digits.
    """
    from pipeline.train.seeds import derived_seed

    pixels, labels = load()
    held = np.array([is_held_out(f"digit:{number}", images.held_out) for number in range(len(labels))])
    pools = {split: np.flatnonzero(held == split) for split in (False, True)}

    def members(number: int, held_out: bool) -> np.ndarray:
        pool = pools[held_out]
        return pool[[derived_seed(0, "stack", number, place) % len(pool) for place in range(3)]]

    def row_of(number: int) -> Row:
        held_out = is_held_out(f"stack:{number}", images.held_out)
        hundreds, tens, ones = labels[members(number, held_out)]
        return Row(f"stack:{number}", FILE, number, int(100 * hundreds + 10 * tens + ones), held_out)

    def read(wanted: list[Row]) -> Iterator[np.ndarray]:
        for row in wanted:
            yield np.concatenate(pixels[members(row.row, row.held_out)], axis=-1)

    rows = [row_of(number) for number in range(images.max_images or STACKS)]
    return Source(CLASSES["stacked_digits"], rows, read)


def load() -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (1797, 8, 8, 1), 0 to 255, and labels (1797,).

    Raises:
        UserError: scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "the digits come with scikit-learn\nway out: pip install 'headwater[image]'"
        ) from None
    found = load_digits()
    return np.round(found.images * 255 / LARGEST).astype(np.uint8)[..., None], found.target
