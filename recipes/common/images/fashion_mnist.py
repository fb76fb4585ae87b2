"""Fashion-MNIST: its Debian package, and the reader of its files.

60,000 pictures to train on and 10,000 held out, grey, 28 x 28, in the idx format of MNIST (arXiv:1708.07747).
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from pipeline.run.errors import UserError
from recipes.common.debian import Package

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SIDE = 28
PREFIXES = {"train": "train", "held_out": "t10k"}  # split -> how its files' names begin
IMAGES, LABELS = "images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"

NAMES = tuple(f"{prefix}-{kind}" for prefix in PREFIXES.values() for kind in (IMAGES, LABELS))
PACKAGE = Package(
    title="Fashion-MNIST",
    name="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    megabytes=31,
    place=Path("usr/share/datasets/fashion-mnist"),
    holds=NAMES,
    way_out="way out: data.path=DIRECTORY that holds the four files *-ubyte.gz",
)


def read(directory: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The pictures uint8 (N, 28, 28, 1) and labels int64 (N,) of a split.

    Raises:
        UserError: a file is damaged, or is not what its name says.
    """
    paths = [directory / f"{PREFIXES[split]}-{kind}" for kind in (IMAGES, LABELS)]
    images, labels = (_idx(path, dimensions) for path, dimensions in zip(paths, (3, 1), strict=True))
    if images.shape[1:] != (SIDE, SIDE) or len(images) != len(labels):
        size = " x ".join(map(str, images.shape))
        raise UserError(
            f"{paths[0]} holds {size} pixels beside {len(labels)} labels\nexpected: N x 28 x 28 beside N"
        )
    return images[..., None], labels.astype(np.int64)


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an idx file: 0, 0, 8 (unsigned bytes), the number of dimensions, their sizes, the bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read: {error}\nexpected: an idx file, compressed by gzip"
        ) from None
    start = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist()) if len(content) >= start else ()
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) != start + np.prod(shape, dtype=int):
        raise UserError(f"{path} is no idx file of {dimensions} dimensions, or is cut off")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
