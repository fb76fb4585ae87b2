"""A program: save checkpoints in forked children that are killed, and print as JSON what each one left behind."""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from pipeline import checkpoint
from pipeline.engine import Runtime

ALONE = Runtime(rank=0, world_size=1, device=torch.device("cpu"), zero_stage=None)
FILE_EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.scandir")


def save(directory: Path, step: int, rows: int = 8) -> None:
    weight = torch.full((rows, 256), float(step))
    checkpoint.save(directory, step, [("weight", weight), ("bias", weight[0])], {}, keep=2, runtime=ALONE)


def die_at(event_number: int) -> None:
    """Kill this process, unable to clean up, at its `event_number`-th file operation."""
    seen = 0

    def hook(event: str, _arguments: tuple) -> None:
        nonlocal seen
        if event in FILE_EVENTS:
            seen += 1
            if seen == event_number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def left_behind(directory: Path) -> dict:
    """Steps that look published, what is wrong with any, and what a later save leaves beside them."""
    found = checkpoint.published(directory)
    damages = [wrong for path in found if (wrong := checkpoint.damage(path))]
    save(directory, 9)
    after = sorted(path.name for path in directory.iterdir())
    return {"steps": [int(path.name[5:]) for path in found], "damages": damages, "after": after}


def interrupted(
    directory: Path, before: list[int], step: int, event: int | None, delay_seconds: float | None
) -> dict:
    """Publish `before` whole, save `step` in a child that dies, and report."""
    shutil.rmtree(directory, ignore_errors=True)
    for whole in before:
        save(directory, whole)
    child = os.fork()
    if child == 0:
        try:
            if event is not None:
                die_at(event)
            save(directory, step, rows=8 if delay_seconds is None else 20_000)
        finally:
            os._exit(0)
    if delay_seconds is not None:
        time.sleep(delay_seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return {"killed": os.WIFSIGNALED(status), **left_behind(directory)}


def at_every_file_operation(directory: Path, before: list[int], step: int) -> list[dict]:
    found = []
    while not found or found[-1]["killed"]:
        found.append(interrupted(directory, before, step, len(found) + 1, None))
    return found


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    moments = random.Random(0)
    delays = [moments.uniform(0.0, 0.2) for _ in range(12)]
    report = {
        "new step": at_every_file_operation(directory, [1, 2], 3),
        "same step again": at_every_file_operation(directory, [1, 2], 2),
        "random moments": [interrupted(directory, [1, 2], 3, None, delay) for delay in delays],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
