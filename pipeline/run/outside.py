"""What a stage read from outside the run, such as a corpus or weights, and whether it is still the same.

`RUN/inputs/STAGE.json` holds {name: [size, mtime_ns, sha256]} of each file. A file of the same size and time is taken
as unchanged without reading it; one whose time alone differs is hashed. So "nothing to do" costs a `stat` a file.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.files import digest_of, write_json

Files = Mapping[str, Path]  # a name for people -> where it lies
SHOWN = 3  # names of each kind of change in a message


def files_below(path: Path) -> dict[str, Path]:
    """A file under its own name, or every file of a folder under its path in there; hidden ones are left out."""
    if path.is_file():
        return {path.name: path}
    inside = {file.relative_to(path): file for file in path.rglob("*")}
    return {
        name.as_posix(): file
        for name, file in sorted(inside.items())
        if not any(part.startswith(".") for part in name.parts) and file.is_file()
    }


def record_of(output_dir: Path, stage: str) -> Path:
    return output_dir / "inputs" / f"{stage}.json"


def snapshot(files: Files) -> dict[str, list[Any]]:
    """What `files` are now, to be taken before they are read: a change while they are read is then seen later."""
    return {name: [*_stamp(path), digest_of(path)] for name, path in files.items()}


def keep(path: Path, taken: dict[str, list[Any]]) -> None:
    """Write a snapshot beside the run, or take away the one of an earlier run where nothing is read from outside."""
    path.unlink(missing_ok=True)
    if taken:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, taken)


def changes(record: Path, reads: Callable[[], Files]) -> str:
    """Which files were added, changed or taken away since `record` was written; "" where none was, or none is known.

    A source that is not there at all, as on another machine, is no change: there is nothing to make the stage from.
    """
    if not record.is_file():
        return ""
    before = json.loads(record.read_text())
    try:
        now = reads()
    except UserError:
        now = {}
    if not now:
        return ""
    found = {
        "added": sorted(now.keys() - before.keys()),
        "changed": [name for name, path in now.items() if name in before and _differs(before[name], path)],
        "taken away": sorted(before.keys() - now.keys()),
    }
    return "; ".join(f"{kind} since: {_some(names)}" for kind, names in found.items() if names)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _differs(before: list[Any], path: Path) -> bool:
    size, time, digest = before
    now = _stamp(path)
    return now != (size, time) and (now[0] != size or digest_of(path) != digest)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
