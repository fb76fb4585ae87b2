"""What tests of image data share: small pictures in files, and the stage that prepares them."""

import gzip
import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from recipes.common.images import prepare
from recipes.common.images.config import Images


def _encode(pixels: np.ndarray, kind: str = "png", **options) -> bytes:
    written = io.BytesIO()
    squeezed = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    Image.fromarray(squeezed).save(written, kind, **options)
    return written.getvalue()


@pytest.fixture(scope="session")
def encode():
    """`encode(pixels, kind="png")`: uint8 (H, W, C) as the bytes of a picture."""
    return _encode


@pytest.fixture(scope="session")
def picture():
    """`picture(number, side=8, channels=3)`: pixels unlike every other number's, and number in the first of them."""

    def make(number: int, side: int = 8, channels: int = 3) -> np.ndarray:
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, channels), np.uint8)
        pixels[0, 0] = number
        return pixels

    return make


@pytest.fixture
def folder(tmp_path, picture, encode):
    """A folder of classes: 60 pictures in `a`, numbers 0 to 59, and 40 in `b`, numbers 60 to 99."""
    for number in range(100):
        path = tmp_path / "pictures" / ("a" if number < 60 else "b") / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(number)))
    return tmp_path / "pictures"


@pytest.fixture
def settings():
    """`settings(**given)`: an Images section of 8 x 8 colour pictures in a folder, unless said otherwise."""

    def make(**given) -> Images:
        if "path" in given:
            given["path"] = str(given["path"])
        return Images(**{"source": "folder", "image_size": 8, "channels": 3, "held_out": 0.2} | given)

    return make


@pytest.fixture
def run_prepare(tmp_path, settings):
    """`run_prepare(**given)`: (metrics, directory) of the stage, its check before it."""

    def run(**given):
        config = SimpleNamespace(data=settings(**given))
        out = tmp_path / f"prepared{len(list(tmp_path.glob('prepared*')))}"
        out.mkdir()
        prepare.check(config)
        return prepare.run(SimpleNamespace(config=config, out=out, terminal=sys.stderr)), out

    return run


@pytest.fixture
def write_idx():
    """`write_idx(path, array)`: an array of bytes as a compressed idx file."""

    def write(path, array):
        header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))

    return write


@pytest.fixture
def fashion_files(tmp_path, write_idx):
    """A directory like the package's with 30 and 12 pictures, and ((images, labels), ...) of the two splits."""
    random, arrays = np.random.default_rng(0), []
    for prefix, count in (("train", 30), ("t10k", 12)):
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        labels = random.integers(0, 10, count)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", labels)
        arrays.append((images, labels))
    return tmp_path, tuple(arrays)
