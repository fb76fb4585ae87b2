"""What a stage read from outside the run, such as a corpus or weights, and whether it is still the same.

`RUN/inputs/STAGE.json` holds {name: [size, mtime_ns, sha256]} of each file. A file of the same size and time is taken
as unchanged without reading it; one whose time alone differs is hashed. So "nothing to do" costs a `stat` a file.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.run.artifact import Decision
from pipeline.run.errors import UserError
from pipeline.run.files import digest_of, write_json
from pipeline.run.remote import stamp_of

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
    return {name: [*stamp_of(path), digest_of(path)] for name, path in files.items()}


def keep(path: Path, taken: dict[str, list[Any]]) -> None:
    """Write a snapshot beside the run, or take away the one of an earlier run where nothing is read from outside."""
    path.unlink(missing_ok=True)
    if taken:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, taken)


def judge(record: Path, reads: Callable[[], Files]) -> Decision:
    """Whether what a finished stage read is still the same: a conflict names the files that are not.

    Where that cannot be told, the stage stays up to date and the reason says so: no record was kept, or none of the
    files is there, as on another machine, so that there is nothing to make it from again.

    Raises:
        UserError: the record cannot be read.
    """
    try:
        now = reads()
    except UserError:
        now = {}
    if not record.is_file():
        return Decision("up to date", "no record of its files: a change is not seen" if now else "")
    before = _read(record)
    if not now:
        return Decision("up to date", f"none of the {len(before)} files that it read is there to compare")
    found = {
        "added": sorted(now.keys() - before.keys()),
        "changed": [name for name, path in now.items() if name in before and _differs(before[name], path)],
        "taken away": sorted(before.keys() - now.keys()),
    }
    changed = "; ".join(f"{kind} since: {_some(names)}" for kind, names in found.items() if names)
    return Decision("conflict", changed) if changed else Decision("up to date")


def refresh(record: Path, reads: Callable[[], Files]) -> None:
    """Note the new times of files that were touched and found the same, so that they are not read at every look.

    To be called where `judge` finds a stage up to date. A run that may not be written to stays as it is.
    """
    if not record.is_file() or not os.access(record.parent, os.W_OK):
        return
    before = _read(record)
    try:
        now = reads()
    except UserError:  # the files are gone, which `judge` says
        return
    if before.keys() == now.keys():
        fresh = {name: _seen(before[name], path) for name, path in now.items()}
        if fresh != before:
            write_json(record, fresh)


def _seen(before: list[Any], path: Path) -> list[Any]:
    """`before` with the file's new time, if it is still the same at that time; what changed meanwhile is seen later."""
    size, time, digest = before
    now = stamp_of(path)
    return [*now, digest] if now[0] == size and now[1] != time and digest_of(path) == digest else before


def _read(record: Path) -> dict[str, list[Any]]:
    try:
        found = json.loads(record.read_text())
        return {name: [int(size), int(time), str(digest)] for name, (size, time, digest) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        stage = record.stem
        raise UserError(
            f"{record} is damaged: {error}\nway out: `--replace {stage}`, or delete it, and changes so far are not seen"
        ) from None


def _differs(before: list[Any], path: Path) -> bool:
    size, time, digest = before
    now = stamp_of(path)
    return now != (size, time) and (now[0] != size or digest_of(path) != digest)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
