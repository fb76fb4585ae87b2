"""Damage to every kind of file that a run leaves, and whether it is caught before anything of it is read as data."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.run.artifact import verify_chain
from pipeline.run.errors import UserError
from pipeline.train import checkpoint

READERS = ("safetensors", "safetensors.torch", "transformers", "tokenizers", "datasets", "pickle5")


@dataclass(frozen=True)
class Damage:
    """One file, one kind of damage, and what was said; said is empty where it was believed."""

    file: str
    kind: str
    said: str


def truncated(path: Path, other: Path | None) -> bool:
    path.write_bytes(path.read_bytes()[:-2])  # of JSON, the last brace too
    return True


def flipped(path: Path, other: Path | None) -> bool:
    """One bit in the middle; of JSON, in the middle of a value, so that it stays JSON."""
    data = bytearray(path.read_bytes())
    if not data:
        return False
    at = len(data) // 2
    while path.suffix == ".json" and at < len(data) - 1 and not chr(data[at]).isalnum():
        at += 1
    data[at] ^= 1
    path.write_bytes(data)
    return True


def emptied(path: Path, other: Path | None) -> bool:
    if not path.stat().st_size:
        return False
    path.write_bytes(b"")
    return True


def deleted(path: Path, other: Path | None) -> bool:
    path.unlink()
    return True


def swapped(path: Path, other: Path | None) -> bool:
    """Another process's share in its place, or another file of the same directory."""
    if other is None or other.read_bytes() == path.read_bytes():
        return False
    held = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(held)
    return True


KINDS: dict[str, Callable[[Path, Path | None], bool]] = {
    "truncated": truncated,
    "one bit flipped": flipped,
    "zero length": emptied,
    "deleted": deleted,
    "swapped with its neighbour": swapped,
}


def damages(run: Path, scratch: Path, stages: tuple[str, ...]) -> Iterator[Damage]:
    """Every kind of damage to every file of the artifacts `stages` and of the newest checkpoint of each.

    run: is not changed. scratch: an empty directory.
    """
    copy = scratch / "run"
    for stage in stages:
        files = sorted(path for path in (run / stage).rglob("*") if path.is_file())
        yield from _each(run, copy, files, lambda stage=stage: _said_of_artifact(copy / stage))
        published = checkpoint.published(run / "checkpoints" / stage)
        if published:
            relative = published[-1].relative_to(run)
            files = sorted(published[-1].iterdir())
            yield from _each(run, copy, files, lambda relative=relative: _said_of_checkpoint(copy / relative))
            yield from _older(run, copy, published)


def _each(run: Path, copy: Path, files: list[Path], said: Callable[[], str]) -> Iterator[Damage]:
    for number, file in enumerate(files):
        others = [path for path in files if path != file and path.parent == file.parent]
        other = others[number % len(others)] if others else None
        for kind, harm in KINDS.items():
            with _copied(run, copy):
                moved = other and copy / other.relative_to(run)
                if harm(copy / file.relative_to(run), moved):
                    yield Damage(file.relative_to(run).as_posix(), kind, said())


def _older(run: Path, copy: Path, published: list[Path]) -> Iterator[Damage]:
    """A share, and a manifest, of the step before in the place of the newest's."""
    for file in sorted(published[-1].iterdir()) if len(published) > 1 else ():
        with _copied(run, copy):
            newest, older = (copy / each.relative_to(run) for each in (published[-1], published[-2]))
            shutil.copy(older / file.name, newest / file.name)
            yield Damage(
                file.relative_to(run).as_posix(), "an older step's file", _said_of_checkpoint(newest)
            )


@contextmanager
def _copied(run: Path, copy: Path) -> Iterator[None]:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    try:
        yield
    finally:
        shutil.rmtree(copy)


def _said_of_artifact(directory: Path) -> str:
    with _no_reader():
        try:
            verify_chain(directory)
        except UserError as error:
            return str(error).split("\n")[0]
    return ""


def _said_of_checkpoint(directory: Path) -> str:
    with _no_reader():
        if directory not in checkpoint.published(directory.parent):
            return "is no checkpoint: its manifest is not there"
        return checkpoint.damage(directory) or ""


@contextmanager
def _no_reader() -> Iterator[None]:
    """Within, nothing that deserialises weights, tokenizers or tables can be imported or called."""
    kept = {name: sys.modules.get(name) for name in READERS}
    for name in READERS:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def table(found: list[Damage]) -> str:
    """A line a kind of damage: files, and how many were caught."""
    lines = ["| damage | files | caught | believed |", "|---|---|---|---|"]
    for kind in dict.fromkeys(each.kind for each in found):
        of_kind = [each for each in found if each.kind == kind]
        believed = [each.file for each in of_kind if not each.said]
        lines.append(
            f"| {kind} | {len(of_kind)} | {len(of_kind) - len(believed)} | {json.dumps(believed)[1:-1]} |"
        )
    return "\n".join(lines)
