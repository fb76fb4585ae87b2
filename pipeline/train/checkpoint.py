"""The one owner of checkpoints: copy, write, hash, publish, prune; verified restore on any number of processes.

A checkpoint holds whole fp32 tensors by parameter name, spread over one safetensors file a process, so what eight
GPUs wrote under ZeRO-3 one CPU can resume. Nothing in it is a pickle. Training waits for the copy alone: a thread of
each process writes its share, and process 0 publishes once all of them are there.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from pipeline.run.errors import UserError
from pipeline.run.files import digest_of, digest_of_tree, sealed, sync, write_json
from pipeline.run.supervise import gone
from pipeline.train.engine import Runtime

MANIFEST = "manifest.json"
WRITTEN = ".written"  # beside a share: its size and sha256, for process 0
POLL_SECONDS = 0.02  # how often process 0 looks for them
# That a run which ends in an error leaves to a checkpoint under way; torchrun kills 30 s after it has asked to end.
LAST_SECONDS = 20.0
LOOK_SECONDS = 0.5  # between two looks whether its other processes are there
BEHIND = 15  # nice value of the thread that writes
CHUNK = 1 << 24  # bytes that are hashed and written at a time


class Writer:
    """Publishes checkpoints below one directory while training goes on.

    At most one is under way: `begin` waits for the one before, so a disk that is too slow slows training down rather
    than filling memory. A process killed at any moment leaves the published ones whole.
    """

    def __init__(self, directory: Path, keep: int, runtime: Runtime):
        """keep: published ones that stay, the newest included."""
        self.directory, self.keep, self.runtime = directory, keep, runtime
        self._writing: _Writing | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        """Where an error ends the run, without a word to other processes: they may be gone, and with them a share."""
        if self._writing:
            self._writing.last(LAST_SECONDS)

    @property
    def failed(self) -> bool:
        """Whether this process could not write what was begun; `finish` tells the others."""
        return self._writing is not None and self._writing.error is not None

    def begin(self, step: int, tensors: Iterable[tuple[str, Tensor]], progress: dict) -> None:
        """Copy the state, and write `directory/step-NNNNNNNN` behind the loop's back.

        tensors: (key, whole tensor) pairs, the same on every process (producing one may gather it). Pair i is written
        by process i modulo the number of processes.

        Raises:
            UserError: as `finish`, of the one before.
        """
        self.finish()
        staged = self.directory / f".step-{step:08d}"
        self._agree(step, _emptied(staged) if self.runtime.is_main else None)
        share = _copied(tensors, self.runtime)
        self._writing = _Writing(staged, step, share, progress, self.keep, self.runtime)

    def finish(self) -> None:
        """Wait until what was begun is published.

        Raises:
            UserError: on every process, where one could not write.
        """
        if self._writing is None:
            return
        writing = self._writing
        for done in (writing.share_written, writing.finished):
            done.wait()
            self._agree(writing.step, writing.error)
        self._writing = None

    def _agree(self, step: int, error: Exception | None) -> None:
        """Every process learns what went wrong on any."""
        codes = torch.zeros(self.runtime.world_size, device=self.runtime.device)
        if error is not None:
            codes[self.runtime.rank] = getattr(error, "errno", None) or errno.EIO
        found = self.runtime.sum(codes).int().tolist()
        if not any(found):
            return
        if self._writing:
            self._writing.given_up.set()
        self._writing = None
        rank, code = next((rank, code) for rank, code in enumerate(found) if code)
        before = published(self.directory)
        raise UserError(
            f"the checkpoint of step {step} was not written: {os.strerror(code)} on process {rank}\n"
            f"the last one that is whole: {before[-1] if before else 'none'}\n"
            f"way out: make room or mend {self.directory}; the same command resumes there"
        ) from error


def _emptied(staged: Path) -> OSError | None:
    """Make the directory that a checkpoint is written in; what the disk says where it refuses."""
    shutil.rmtree(staged, ignore_errors=True)
    try:
        staged.mkdir(parents=True)
    except OSError as error:
        return error
    return None


class _Writing:
    """A checkpoint under way: a thread that writes this process's share and, on process 0, publishes."""

    def __init__(
        self, staged: Path, step: int, share: dict[str, Tensor], progress: dict, keep: int, runtime: Runtime
    ):
        self.staged, self.step, self.share, self.progress = staged, step, share, progress
        self.keep, self.runtime = keep, runtime
        self.error: Exception | None = None
        self.share_written, self.finished, self.given_up = (threading.Event() for _ in range(3))
        threading.Thread(target=self._run, name=f"checkpoint {step}", daemon=True).start()

    def _run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own: training's come first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BEHIND)
        try:
            path = self.staged / _name(self.runtime.rank)
            digest = write_tensors(path, self.share)
            self.share = {}
            written = {"size": path.stat().st_size, "sha256": digest}
            write_json(path.with_name(path.name + WRITTEN), written)
            self.share_written.set()
            if self.runtime.is_main:
                self._publish()
        except Exception as error:  # told to every process by Writer.finish
            self.error = error
        finally:
            self.share_written.set()
            self.finished.set()

    def last(self, seconds: float) -> None:
        """Wait until it is published, as long as all that write it are there."""
        patience = time.monotonic() + seconds
        while not self.finished.wait(LOOK_SECONDS) and time.monotonic() < patience:
            if gone():
                self.given_up.set()
        self.given_up.set()

    def _publish(self) -> None:
        names = [_name(rank) for rank in range(self.runtime.world_size)]
        marks = [self.staged / (name + WRITTEN) for name in names]
        given_up = False
        while not all(mark.is_file() for mark in marks):
            if given_up:  # seen before this look: who is gone has written its share or never will
                return
            given_up = self.given_up.wait(POLL_SECONDS)
        files = {name: json.loads(mark.read_text()) for name, mark in zip(names, marks, strict=True)}
        for mark in marks:
            mark.unlink()
        manifest = {"step": self.step, "progress": self.progress, "files": files}
        write_json(self.staged / MANIFEST, sealed(manifest))
        sync(self.staged)
        final = self.staged.with_name(self.staged.name.removeprefix("."))
        if final.exists():  # written by this very run before a fall-back to an older one
            _remove(final)
        os.replace(self.staged, final)
        sync(final.parent)
        _prune(final.parent, final, self.keep)


def _name(rank: int) -> str:
    return f"tensors-{rank:05d}.safetensors"


def save(
    directory: Path,
    step: int,
    tensors: Iterable[tuple[str, Tensor]],
    progress: dict,
    keep: int,
    runtime: Runtime,
) -> Path:
    """Publish `directory/step-NNNNNNNN`, and return once it is there. Raises as Writer."""
    with Writer(directory, keep, runtime) as writer:
        writer.begin(step, tensors, progress)
        writer.finish()
    return directory / f"step-{step:08d}"


def _copied(tensors: Iterable[tuple[str, Tensor]], runtime: Runtime) -> dict[str, Tensor]:
    """This process's share in fp32 on the CPU, whole before the next step changes what it was copied from."""
    share = {}
    for index, (key, tensor) in enumerate(tensors):
        if index % runtime.world_size == runtime.rank:
            # Pinned memory takes a GPU's tensors at the speed of the bus; it is kept for the next checkpoint.
            pinned = tensor.device.type == "cuda"
            share[key] = torch.empty(tensor.shape, dtype=torch.float32, pin_memory=pinned)
            share[key].copy_(tensor.detach())
    return share


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """A safetensors file of fp32 CPU tensors, on the disk; returns its sha256.

    Written here, in chunks: one pass writes and sums, and what a disk refuses comes as an OSError with its number,
    which every process is told; safetensors' own function gives words alone.
    """
    header: dict[str, dict] = {}
    begin = 0
    for key, tensor in tensors.items():
        header[key] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [begin, begin := begin + tensor.nbytes],
        }
    told = json.dumps(header, separators=(",", ":")).encode()
    told += b" " * (-len(told) % 8)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for part in (len(told).to_bytes(8, "little"), told, *tensors.values()):
            whole = memoryview(part.numpy().reshape(-1).view("u1") if isinstance(part, Tensor) else part)
            for place in range(0, len(whole), CHUNK):
                chunk = whole[place : place + CHUNK]
                digest.update(chunk)
                file.write(chunk)
    sync(path)
    return digest.hexdigest()


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
    if stated != digest_of_tree(manifest):
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

    def keys(self) -> set[str]:
        return set(self._owner)

    def __call__(self, key: str) -> Tensor:
        if key not in self._owner:
            raise UserError(
                f"the checkpoint {self.path} holds no {key!r}: it belongs to another model or optimizer"
            )
        return self._owner[key].get_tensor(key)
