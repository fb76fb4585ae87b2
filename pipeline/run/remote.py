"""Files that lie elsewhere, by URL: s3://, gs://, https:// and whatever else fsspec opens. They are read as they come.

Credentials are the environment's: nothing here takes, keeps or prints any.
"""

from __future__ import annotations

import glob
import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from upath import UPath

UNPACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")


def is_url(path: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]*://", path) is not None


def place_of(url: str, key: str) -> UPath:
    """The file, folder or pattern that a URL names.

    Args:
        key: the setting that has it, for messages.

    Raises:
        UserError: what reads such URLs is not installed, or the URL has a password in it.
    """
    if "@" in urlsplit(url).netloc:
        shown = f"{urlsplit(url).scheme}://...@{urlsplit(url).netloc.rpartition('@')[2]}"
        raise UserError(
            f"{key}: {shown} has a name or password in it\nway out: give credentials by the environment"
        )
    try:
        from upath import UPath
    except ImportError:
        raise UserError(
            f"{key}: {url} is elsewhere, and universal-pathlib is not installed\n"
            "way out: pip install headwater[remote]"
        ) from None
    try:
        place = UPath(url)
        assert place.fs is not None
        return place
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{key}: {url}: {error}\nexpected: a URL that fsspec reads, and its package: s3fs, gcsfs or adlfs"
        ) from None


@contextmanager
def told(place: Any, key: str) -> Iterator[None]:
    """Whatever a store answers, as an error of the user's setting.

    Raises:
        UserError: it refused, or did not answer.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{key}: nothing at {place}") from None
    except PermissionError as error:
        raise UserError(
            f"{key}: no permission to read {place}: {_line(error)}\nway out: credentials in the environment"
        ) from None
    except UserError:
        raise
    except Exception as error:  # each store has exceptions of its own
        raise UserError(
            f"{key}: {place} did not answer: {type(error).__name__}: {_line(error)}\n"
            "way out: the same command again, once it does"
        ) from None


def matching(place: UPath, pattern: str, key: str) -> tuple[str, list[UPath]]:
    """(URL that names are relative to, files): a file, all of a folder that fit `pattern`, or those of a glob."""
    with told(place, key):
        text = str(place)
        if glob.has_magic(text):
            hits = [type(place)(place.fs.unstrip_protocol(hit)) for hit in place.fs.glob(place.path)]
            return re.split(r"[*?\[]", text, maxsplit=1)[0].rpartition("/")[0], [
                hit for hit in hits if hit.is_file()
            ]
        if place.is_file():
            return str(place.parent), [place]
        if not place.is_dir():
            raise UserError(f"{key}: nothing at {place}")
        return text, [hit for hit in place.glob(pattern) if hit.is_file()]


def opened(path: UPath, key: str = "path") -> BinaryIO:
    """The bytes as they come, unpacked where the name says that they are squeezed."""
    import fsspec

    with told(path, key):
        packed = UNPACKED.get(path.suffix.lower())
        raw = path.fs.open(path.path, "rb")
        return io.BufferedReader(fsspec.core.compr[packed](raw, mode="rb") if packed else raw)


def stamp_of(path: Path | UPath) -> tuple[int, int]:
    """(size, time in ns) of a file; of one elsewhere its time is a number made of what its store calls its version."""
    if isinstance(path, Path):
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    return int(_info(path).get("size") or 0), int(version_of(path)[:15], 16)


def version_of(path: UPath) -> str:
    """A sha256 of the size and version that the store tells of a file elsewhere: reading it would fetch it whole."""
    info = _info(path)
    version = next((str(info[name]) for name in VERSIONS if info.get(name)), "")
    return hashlib.sha256(f"{info.get('size')}\0{version}".encode()).hexdigest()


def _info(path: UPath) -> dict[str, Any]:
    with told(path, "path"):
        return path.fs.info(path.path)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
