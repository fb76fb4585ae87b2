"""A program for every process of a launcher: a checkpoint that one of them cannot write. OUT gets what each one saw."""

import errno
import json
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch

from pipeline.run.errors import UserError
from pipeline.train import checkpoint
from pipeline.train.engine import Runtime, start_runtime, stop_runtime

FAILING = 1  # the process whose disk is full


def state(value: float) -> list[tuple[str, torch.Tensor]]:
    return [(name, torch.full((4, 4), value)) for name in ("a", "b", "c")]


def full(path: Path, tensors: dict) -> str:
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def seen(runtime: Runtime, directory: Path) -> dict:
    """What a second checkpoint becomes, and the one after."""
    found: dict = {}
    with checkpoint.Writer(directory, 2, runtime) as writer:
        writer.begin(1, state(1.0), {})
        writer.finish()
        failing = mock.patch.object(checkpoint, "write_tensors", full)
        with failing if runtime.rank == FAILING else mock.patch.object(checkpoint, "POLL_SECONDS", 0.01):
            writer.begin(2, state(2.0), {})
            try:
                writer.finish()
            except UserError as error:
                found["said"] = str(error)
        found["after"] = [path.name for path in checkpoint.published(directory)]
        runtime.barrier()
        writer.begin(3, state(3.0), {})
        writer.finish()
    found["published"] = [path.name for path in checkpoint.published(directory)]
    found["left"] = sorted(path.name for path in directory.iterdir())
    return found


def main(out: Path, shared: Path) -> None:
    runtime = start_runtime(1)
    found = seen(runtime, shared / "checkpoints")
    (shared / f"{runtime.rank}.json").write_text(json.dumps(found))
    runtime.barrier()
    if runtime.is_main:
        each = [json.loads((shared / f"{rank}.json").read_text()) for rank in range(runtime.world_size)]
        out.write_text(json.dumps(each))
    stop_runtime()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp()))
