"""Files that appear whole or not at all, their hashes, and places where none can be made."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.remote import version_of

ELSEWHERE = "way out: run.output_dir=DIRECTORY where you may write"


def digest_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex; of one elsewhere, of the version that its store tells."""
    if not isinstance(path, Path | str):
        return version_of(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of_tree(tree: dict[str, Any]) -> str:
    """The sha256 of JSON data, whatever the order of its keys: what a manifest says of itself."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def sealed(tree: dict[str, Any]) -> dict[str, Any]:
    """A manifest with its own sha256 in it. As it will be read: JSON knows no tuples, and no keys but strings."""
    plain = json.loads(json.dumps({key: value for key, value in tree.items() if key != "sha256"}))
    return {**plain, "sha256": digest_of_tree(plain)}


def sync(path: Path) -> None:
    """Make a written file, or a directory's entries, survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; the file is replaced in one step and synced."""
    staged = path.with_name(f".{path.name}")
    staged.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    sync(staged)
    os.replace(staged, path)


def check_name(directory: Path) -> None:
    """Raises UserError where no file system takes the name of `directory`, so that nothing can be looked up there."""
    try:
        directory.exists()
    except (OSError, ValueError) as error:
        raise UserError(f"run.output_dir {str(directory)[:120]}: {_reason(error)}\n{ELSEWHERE}") from None


def check_writable(directory: Path) -> None:
    """Refuse a directory that cannot be made or written to, by making it under another name and taking it away.

    Permissions alone do not tell: root has all of them, also where nothing can be made, as in /proc.

    Raises:
        UserError: with the place and the system's reason.
    """
    directory = directory.absolute()
    parent = next(place for place in (directory, *directory.parents) if place.exists())
    if not parent.is_dir():
        raise UserError(f"run.output_dir {directory}: {parent} is a file\n{ELSEWHERE}")
    try:
        trial = Path(tempfile.mkdtemp(prefix=".writable-", dir=parent))
    except OSError as error:
        raise UserError(
            f"run.output_dir {directory}: nothing can be made in {parent}: {_reason(error)}\n{ELSEWHERE}"
        ) from None
    try:
        (trial / directory.relative_to(parent)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run.output_dir {directory}: {_reason(error)}\n{ELSEWHERE}") from None
    finally:
        shutil.rmtree(trial)


def _reason(error: OSError | ValueError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
