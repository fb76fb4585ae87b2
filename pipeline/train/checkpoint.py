"""The one owner of checkpoints: reserve, write, hash, publish, prune; verified restore on any number of processes.

A checkpoint holds whole fp32 tensors by parameter name, spread over one safetensors file a process, so what eight
GPUs wrote under ZeRO-3 one CPU can resume. Nothing in it is a pickle.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from pipeline.run.errors import UserError
from pipeline.run.files import digest_of, sync, write_json
from pipeline.train.engine import Runtime

MANIFEST = "manifest.json"


def save(
    directory: Path,
    step: int,
    tensors: Iterable[tuple[str, Tensor]],
    progress: dict,
    keep: int,
    runtime: Runtime,
) -> Path:
    """Publish `directory/step-NNNNNNNN` and prune all but the `keep` newest, the new one included.

    tensors: (key, whole tensor) pairs, the same on every process (producing one may gather it). Pair i is written
    by process i modulo the number of processes. A process killed at any moment leaves the published ones whole.
    """
    staged = directory / f".step-{step:08d}"
    final = directory / f"step-{step:08d}"
    if runtime.is_main:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
    runtime.barrier()
    _write_share(staged, tensors, runtime)
    runtime.barrier()
    if runtime.is_main:
        _publish(staged, final, step, progress)
        _prune(directory, final, keep)
    runtime.barrier()
    return final


def _write_share(staged: Path, tensors: Iterable[tuple[str, Tensor]], runtime: Runtime) -> None:
    from safetensors.torch import save_file

    share = {}
    for index, (key, tensor) in enumerate(tensors):
        if index % runtime.world_size == runtime.rank:
            share[key] = tensor.detach().float().cpu().contiguous().clone()
    path = staged / f"tensors-{runtime.rank:05d}.safetensors"
    save_file(share, path)
    sync(path)


def _publish(staged: Path, final: Path, step: int, progress: dict) -> None:
    files = {
        path.name: {"size": path.stat().st_size, "sha256": digest_of(path)}
        for path in sorted(staged.iterdir())
    }
    manifest = {"step": step, "progress": progress, "files": files}
    write_json(staged / MANIFEST, {**manifest, "sha256": _digest_of_manifest(manifest)})
    sync(staged)
    if final.exists():  # written by this very run before a fall-back to an older one
        _remove(final)
    os.replace(staged, final)
    sync(final.parent)


def _digest_of_manifest(manifest: dict) -> str:
    """The sha256 of a manifest without its own."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _prune(directory: Path, newest_kept: Path, keep: int) -> None:
    """Keep `newest_kept` and the published ones before it; later ones were abandoned, others never published."""
    kept = [path for path in published(directory) if path.name <= newest_kept.name][-keep:]
    for path in [*directory.glob("step-*"), *directory.glob(".step-*")]:
        if path not in kept:
            _remove(path)


def _remove(checkpoint: Path) -> None:
    """The manifest goes first, so that half a removal is never taken for a checkpoint."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    sync(checkpoint)
    shutil.rmtree(checkpoint)


def published(directory: Path) -> list[Path]:
    """Published checkpoints, oldest first."""
    return sorted(path for path in directory.glob("step-*") if (path / MANIFEST).is_file())


def damage(checkpoint: Path) -> str | None:
    """What differs between a checkpoint and its manifest, or None where it verifies."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        stated = manifest.pop("sha256")
    except (ValueError, AttributeError, KeyError, TypeError):
        return f"{checkpoint / MANIFEST} cannot be read"
    if stated != _digest_of_manifest(manifest):
        return f"{checkpoint / MANIFEST} has another sha256"
    for name, expected in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != expected["size"]:
            return f"{path} is missing or has another size"
        if digest_of(path) != expected["sha256"]:
            return f"{path} has another sha256"
    return None


def newest(directory: Path, runtime: Runtime) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, chosen by process 0 for all, and what was wrong with newer ones.

    Raises:
        UserError: there are checkpoints and none verifies.
    """
    candidates = published(directory)[::-1]
    damages: list[str] = []
    for candidate in candidates if runtime.is_main else ():
        wrong = damage(candidate)
        if wrong is None:
            break
        damages.append(wrong)
    chosen = runtime.agree(len(damages))
    if chosen < len(candidates):
        return candidates[chosen], damages
    if candidates:
        raise UserError(
            f"no checkpoint in {directory} verifies: {'; '.join(damages)[:300]}\nway out: delete it to start over"
        )
    return None, []


class Reader:
    """Tensors and progress of one published checkpoint, read by key."""

    def __init__(self, checkpoint: Path):
        from safetensors import safe_open

        manifest = json.loads((checkpoint / MANIFEST).read_text())
        self.path = checkpoint
        self.step: int = manifest["step"]
        self.progress: dict = manifest["progress"]
        self._files = [safe_open(checkpoint / name, framework="pt") for name in manifest["files"]]
        self._owner = {key: file for file in self._files for key in file.keys()}

    def __call__(self, key: str) -> Tensor:
        if key not in self._owner:
            raise UserError(
                f"the checkpoint {self.path} holds no {key!r}: it belongs to another model or optimizer"
            )
        return self._owner[key].get_tensor(key)
