"""A file of pictures that a model has coded: header and checksum, reading it afresh, its size beside other files."""

import hashlib
import json
import lzma
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.export import ROOT
from pipeline.run.results import Score

if TYPE_CHECKING:
    import numpy as np

FILE = "pictures.bits"


class DamagedMessage(ValueError):
    """What was decoded is not what the file's checksum says."""


def with_header(images_BSSC: "np.ndarray", message: bytes) -> bytes:
    """A line of JSON, then the message."""
    header = {"pictures": len(images_BSSC), "sha256": checksum(images_BSSC), "made_by": machine()}
    return json.dumps(header).encode() + b"\n" + message


def split_header(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The inverse of with_header.

    Raises:
        DamagedMessage: there is none.
    """
    line, _, message = content.partition(b"\n")
    try:
        return json.loads(line), message
    except ValueError as error:
        raise DamagedMessage(f"this is no file of coded pictures: {error}") from error


def damaged(header: dict[str, Any]) -> DamagedMessage:
    return DamagedMessage(f"the checksum differs: made by {header['made_by']}, read by {machine()}")


def checksum(images_BSSC: "np.ndarray") -> str:
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(images_BSSC).tobytes()).hexdigest()


def machine() -> str:
    """What decides how floating-point numbers round."""
    import torch

    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {platform.machine()}"


def decoded_afresh(module: str, trained: Path, weights: str, file: Path) -> "np.ndarray":
    """The pictures in `file`, from a process of `module` that has never seen them.

    Raises:
        RuntimeError: it read none.
    """
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pictures.npy"
        command = [sys.executable, "-m", module, str(trained), weights, str(file), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"{file.name} could not be read back:\n{done.stderr[-2000:]}")
        return np.load(out)


def compare(decoded: "np.ndarray", images: "np.ndarray") -> None:
    """Raises RuntimeError where a byte differs."""
    import numpy as np

    if not np.array_equal(decoded, images):
        raise RuntimeError(f"{FILE} holds other pictures than those that were coded")


def lossless_scores(images: "np.ndarray", name: str, size: int, how: str, parameters: int) -> list[Score]:
    """Bytes a picture of the model's file, beside PNG and WebP a picture each, and one xz over all."""
    from recipes.common.images.sheet import file_sizes

    count = len(images)
    own = (
        f"{how}; one file with its header, read back bit for bit by a fresh process; "
        f"the model's {parameters:,} parameters are not counted"
    )
    sizes = {
        name: (size, own),
        "PNG": (int(file_sizes(images, "PNG").sum()), "a file a picture, Pillow's optimize=True"),
        "WebP lossless": (int(file_sizes(images, "WEBP").sum()), "a file a picture, method 6"),
        "xz": (
            len(lzma.compress(images.tobytes(), preset=9 | lzma.PRESET_EXTREME)),
            "xz -9e over all pixels",
        ),
        "raw": (images.size, "a byte a pixel and channel"),
    }
    return [
        Score("bytes a picture, lossless", codec, total / count, None, "bytes", count, protocol, "lower")
        for codec, (total, protocol) in sizes.items()
    ]
