"""A file of pictures that a model has coded: header and checksum, reading it afresh, its size beside other files."""

import hashlib
import json
import lzma
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.results import Score
from pipeline.run.stage import Context
from recipes.common.afresh import run_afresh

if TYPE_CHECKING:
    import numpy as np

FILE = "pictures.bits"
Encode = Callable[..., bytes]  # (net, pictures, labels) -> a file
Pop = Callable[[Any, int], Any]  # (a Message, how many pictures) -> (pictures, labels)


class DamagedMessage(ValueError):
    """What was decoded is not what the file's checksum says."""


def with_header(images_BSSC: "np.ndarray", message: bytes) -> bytes:
    """A line of JSON, then the message."""
    header = {"pictures": len(images_BSSC), "sha256": checksum(images_BSSC), "made_by": machine()}
    return json.dumps(header).encode() + b"\n" + message


def decoded(content: bytes, lanes: int, pop: Pop) -> "tuple[np.ndarray, np.ndarray]":
    """Pictures uint8 (B, S, S, C) and labels int64 (B,) of a file whose message `pop` reads so many pictures from.

    Raises:
        DamagedMessage: it is no such file, or its checksum is another one: it was made on another machine, or its
            bytes have changed.
    """
    import torch

    from recipes.common.rans import Message
    from recipes.common.threads import one_thread

    line, _, rest = content.partition(b"\n")
    try:
        header, message = json.loads(line), Message.from_bytes(rest, lanes)
        count, made_by, expected = header["pictures"], header["made_by"], header["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedMessage(f"this is no file of coded pictures: {error}") from error
    damaged = DamagedMessage(f"the checksum differs: made by {made_by}, read by {machine()}")
    try:
        with one_thread(), torch.no_grad():
            images, labels = pop(message, count)
    except ValueError as error:
        raise damaged from error
    if checksum(images) != expected:
        raise damaged
    return images, labels


def checksum(images_BSSC: "np.ndarray") -> str:
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(images_BSSC).tobytes()).hexdigest()


def machine() -> str:
    """What decides how floating-point numbers round."""
    import torch

    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {platform.machine()}"


def write_coded(
    context: Context, encode: Encode, net: Any, weights: str, images: "np.ndarray", labels: "np.ndarray"
) -> int:
    """Code held-out pictures into FILE, and read them back in a fresh process; the file's bytes.

    net: the family's, with the weights of that name.

    Raises:
        RuntimeError: a fresh process reads other pictures; nothing is published.
    """
    context.terminal.write(f"compression: {len(images)} pictures to bits and back\n")
    content = encode(net, images, labels)
    (context.out / FILE).write_bytes(content)
    compare(
        decoded_afresh(context.config.recipe, context.inputs["train"], weights, context.out / FILE), images
    )
    return len(content)


def decoded_afresh(family: str, trained: Path, weights: str, file: Path) -> "np.ndarray":
    """The pictures in `file`, from a process that has never seen them.

    Raises:
        RuntimeError: it read none.
    """
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pictures.npy"
        done = run_afresh("recipes.common.read_coded", family, trained, weights, file, out)
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
