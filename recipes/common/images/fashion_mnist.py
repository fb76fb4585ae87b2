"""Fashion-MNIST from its Debian package: found, or downloaded and unpacked without root; and the reader of its files.

60,000 pictures to train on and 10,000 held out, grey, 28 x 28, in the idx format of MNIST (arXiv:1708.07747).
"""

import gzip
import os
import shutil
import subprocess
import tempfile
import zlib
from pathlib import Path

import numpy as np

from pipeline.run.errors import UserError
from pipeline.run.files import digest_of

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SIDE = 28
PREFIXES = {"train": "train", "held_out": "t10k"}  # split -> how its files' names begin
IMAGES, LABELS = "images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"

PACKAGE, VERSION = "dataset-fashion-mnist", "0.0~git20200523.55506a9-1"
MEGABYTES = 31
DEB_SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
PLACE = Path("usr/share/datasets/fashion-mnist")  # within the package
INSTALLED = Path("/") / PLACE
DOWNLOAD_SECONDS = 600
WAY_OUT = "way out: data.path=DIRECTORY that holds the four files *-ubyte.gz"


def find(path: str | None) -> Path | None:
    """The directory with the four files: `path`, the installed package or the cache; None: it is to be downloaded.

    Raises:
        UserError: `path` is given and lacks one of them.
    """
    if path is not None:
        directory = Path(path).expanduser()
        missing = [name for name in _names() if not (directory / name).is_file()]
        if missing:
            raise UserError(f"data.path: {directory} has no {missing[0]}\nexpected: {', '.join(_names())}")
        return directory
    return next((place for place in (INSTALLED, cached()) if _is_whole(place)), None)


def cached() -> Path:
    """Where a download is kept for the next run."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "headwater" / f"{PACKAGE}_{VERSION}"


def check_download() -> None:
    """Raises UserError where this machine has not what a download needs."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise UserError(
                f"Fashion-MNIST is downloaded as a Debian package, and {tool} is not here\n{WAY_OUT}"
            )


def download() -> Path:
    """Download, check and unpack the package; the directory appears in the cache whole or not at all.

    Raises:
        UserError: no apt, no network, no such version, or other bytes than expected.
    """
    check_download()
    place = cached()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".download-") as scratch:
        package = _package(Path(scratch))
        found = digest_of(package)
        if found != DEB_SHA256:
            raise UserError(f"{package.name} has the sha256 {found}\nexpected: {DEB_SHA256}\n{WAY_OUT}")
        subprocess.run(["dpkg-deb", "-x", package, Path(scratch) / "root"], check=True, capture_output=True)
        if not _is_whole(place):  # another run may have been faster
            shutil.rmtree(place, ignore_errors=True)
            os.replace(Path(scratch) / "root" / PLACE, place)
    return place


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


def _names() -> list[str]:
    return [f"{prefix}-{kind}" for prefix in PREFIXES.values() for kind in (IMAGES, LABELS)]


def _is_whole(directory: Path) -> bool:
    return all((directory / name).is_file() for name in _names())


def _package(scratch: Path) -> Path:
    """The .deb in `scratch`: by the machine's package lists, or, where they are missing or old, by lists of our own."""
    try:
        _apt(scratch, [], "download", f"{PACKAGE}={VERSION}")
    except subprocess.SubprocessError:
        private = _private_lists(scratch)
        try:
            _apt(scratch, private, "update")
            _apt(scratch, private, "download", f"{PACKAGE}={VERSION}")
        except subprocess.SubprocessError as error:
            raise UserError(
                f"cannot download the Debian package {PACKAGE} {VERSION}\n{_reason(error)}\n{WAY_OUT}"
            ) from None
    return next(scratch.glob("*.deb"))


def _apt(scratch: Path, options: list[str], *command: str) -> None:
    # root, too, downloads as itself: apt's own user may not write here.
    unsandboxed = ["-o", "APT::Sandbox::User=root"]
    environment = os.environ | {"LC_ALL": "C"}
    subprocess.run(
        ["apt-get", *unsandboxed, *options, *command],
        cwd=scratch,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_SECONDS,
    )


def _private_lists(scratch: Path) -> list[str]:
    """Options that keep apt's state below `scratch`; where packages come from stays the machine's own choice."""
    for name in ("lists/partial", "archives/partial"):
        (scratch / "apt" / name).mkdir(parents=True)
    (scratch / "apt" / "status").touch()
    state = {"State": "", "State::Lists": "lists", "State::status": "status", "Cache": ""}
    return [
        part for name, below in state.items() for part in ("-o", f"Dir::{name}={scratch / 'apt' / below}")
    ]


def _reason(error: subprocess.SubprocessError) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in error.stderr.splitlines() if line.startswith(("E:", "Err:"))]
        return (lines or [f"apt-get ended with {error.returncode}"])[0][:300]
    return str(error)[:300]


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
