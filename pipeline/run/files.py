"""Files that appear whole or not at all, and their hashes."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def digest_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


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
