"""A stage's output: a directory that appears by rename, described by the `artifact.json` written last into it."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.run.errors import UserError
from pipeline.run.files import digest_of, digest_of_tree, sealed, sync, write_json

MANIFEST = "artifact.json"


@dataclass(frozen=True)
class Artifact:
    """A published directory and what its manifest says.

    stage, name: which stage of which run; identity: the settings that decided what was made; inputs: upstream stage
    -> {path, digest}; files: relative path -> {size, sha256}; metrics: deterministic figures; made: how and when it
    was made (commit, versions, host, seconds, memory), which no digest covers.
    """

    path: Path
    stage: str
    identity: dict[str, Any]
    inputs: dict[str, dict[str, str]]
    files: dict[str, dict[str, Any]]
    metrics: dict[str, Any]
    made: dict[str, Any]
    config: dict[str, Any]

    @property
    def digest(self) -> str:
        """sha256 over everything but how it was made; through `inputs` it reaches the bytes of the data."""
        covered = [self.stage, self.identity, self._input_digests(), self.files, self.metrics]
        return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()

    def _input_digests(self) -> dict[str, str]:
        return {name: given["digest"] for name, given in self.inputs.items()}


def read(directory: Path) -> Artifact | None:
    """The artifact published in `directory`, or None where there is none.

    Raises:
        UserError: its manifest cannot be read.
    """
    path = directory / MANIFEST
    if not path.is_file():
        return None
    try:
        tree = json.loads(path.read_text())
        stated = tree.pop("sha256", None)
        if stated != digest_of_tree(tree):
            raise ValueError("its sha256 is another than it says")
        return Artifact(path=directory, **tree)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}\nway out: delete {directory} and run again") from None


def publish(staged: Path, final: Path, artifact: dict[str, Any]) -> Artifact:
    """Hash the files of `staged`, write its manifest last and rename it to `final`."""
    files = {}
    for path in sorted(p for p in staged.rglob("*") if p.is_file()):
        sync(path)
        files[path.relative_to(staged).as_posix()] = {"size": path.stat().st_size, "sha256": digest_of(path)}
    write_json(staged / MANIFEST, sealed({**artifact, "files": files}))
    sync(staged)
    os.replace(staged, final)
    sync(final.parent)
    published = read(final)
    assert published is not None, "a manifest that was just written is there"
    return published


def missing_or_resized(artifact: Artifact) -> str | None:
    """A cheap look: the first file that is gone or has another size."""
    for name, expected in artifact.files.items():
        path = artifact.path / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{path} has {path.stat().st_size} bytes, not {expected['size']}"
    return None


def damage(artifact: Artifact) -> str | None:
    """Every byte hashed: the first file that differs from the manifest."""
    wrong = missing_or_resized(artifact)
    if wrong:
        return wrong
    for name, expected in artifact.files.items():
        if digest_of(artifact.path / name) != expected["sha256"]:
            return f"{artifact.path / name} has another sha256 than its manifest"
    return None


def verify_chain(directory: Path) -> list[Artifact]:
    """Re-hash the artifact in `directory` and all that it was made from, upstream first.

    Raises:
        UserError: there is no artifact, a file differs, or an input is not the one that was used.
    """
    artifact = read(directory)
    if artifact is None:
        raise UserError(f"no artifact in {directory}: it holds no {MANIFEST}")
    chain: list[Artifact] = []
    for name, given in artifact.inputs.items():
        upstream = verify_chain((directory / given["path"]).resolve())
        if upstream[-1].digest != given["digest"]:
            raise UserError(
                f"{directory} was made from another {name} than the one now in {upstream[-1].path}"
            )
        chain += [link for link in upstream if link.path not in {known.path for known in chain}]
    wrong = damage(artifact)
    if wrong:
        raise UserError(f"{wrong}\nway out: delete {directory} and run again")
    return [*chain, artifact]


@dataclass(frozen=True)
class Decision:
    """What `headwater run` will do for a stage, and why in one line."""

    action: Literal["up to date", "resume", "run", "conflict"]
    reason: str = ""


def decide(
    final: Path, unfinished: Path, identity: dict[str, Any], inputs: dict[str, str | None]
) -> Decision:
    """Compare what is asked for with what is there.

    final: where the artifact is or will be; unfinished: directory of checkpoints of a run of it, with an
    `identity.json`; inputs: digest of each upstream artifact, None where that one is still to be made.
    """
    artifact = read(final)
    if artifact is not None:
        return _compare(artifact, identity, inputs)
    started = unfinished / "identity.json"
    if started.is_file() and any(unfinished.glob("step-*")):
        then = json.loads(started.read_text())
        now = {
            name: then["inputs"].get(name) if digest is None else digest for name, digest in inputs.items()
        }
        changed = differences(then, {"identity": identity, "inputs": now})
        if changed:
            return Decision("conflict", "its checkpoints were made with " + "; ".join(changed))
        return Decision("resume", f"from {sorted(unfinished.glob('step-*'))[-1].name}")
    return Decision("run", "nothing there yet")


def _compare(artifact: Artifact, identity: dict[str, Any], inputs: dict[str, str | None]) -> Decision:
    changed = differences(artifact.identity, identity)
    if changed:
        return Decision("conflict", "; ".join(changed))
    wrong = missing_or_resized(artifact)
    if wrong:
        return Decision("conflict", wrong)
    known = {name: given["digest"] for name, given in artifact.inputs.items()}
    stale = [name for name, digest in inputs.items() if digest is not None and known.get(name) != digest]
    if stale:
        return Decision("conflict", f"made from another {' and '.join(stale)}")
    if dropped := sorted(known.keys() - inputs.keys()):
        return Decision("conflict", f"made from {' and '.join(dropped)} too, which the recipe no longer has")
    return Decision("up to date")


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`section.key: old -> new` for every leaf in which two settings trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        ]
    return [] if old == new else [f"{prefix}: {old!r} -> {new!r}"]


def discard(directory: Path) -> None:
    """Remove an artifact or its checkpoints; the manifest goes first, so that half a removal is never complete."""
    (directory / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
