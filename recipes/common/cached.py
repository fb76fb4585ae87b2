"""Data of a package, unpacked: at a path that is given, or in the cache, where it appears whole or not at all."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.run.errors import UserError


def place_of(name: str) -> Path:
    """Where a download is kept for the next run."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "headwater" / name


def is_whole(directory: Path, holds: Sequence[str]) -> bool:
    return all((directory / name).exists() for name in holds)


def given(path: str, holds: Sequence[str]) -> Path:
    """The directory at `data.path`. Raises UserError where it lacks a part."""
    directory = Path(path).expanduser()
    missing = [name for name in holds if not (directory / name).exists()]
    if missing:
        raise UserError(f"data.path: {directory} has no {missing[0]}\nexpected: {', '.join(holds)}")
    return directory


def settle(unpacked: Path, place: Path, holds: Sequence[str]) -> Path:
    """Move what was unpacked beside its place into it, unless another run was faster."""
    if not is_whole(place, holds):
        shutil.rmtree(place, ignore_errors=True)
        os.replace(unpacked, place)
    return place
