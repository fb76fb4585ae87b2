"""A program: save checkpoints in forked children that are killed, and print as JSON what each one left behind."""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from pipeline.train import checkpoint
from pipeline.train.engine import Runtime

ALONE = Runtime(rank=0, world_size=1, device=torch.device("cpu"), zero_stage=None)
NEXT = 10_000  # a step after any that a child reaches
FILE_EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.scandir")


def save(directory: Path, step: int) -> None:
    weight = torch.full((64, 256), float(step))
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
    save(directory, NEXT)
    after = sorted(path.name for path in directory.iterdir())
    return {"steps": [int(path.name[5:]) for path in found], "damages": damages, "after": after}


def interrupted(directory: Path, before: list[int], die: Callable[[int], None], saves: Iterable[int]) -> dict:
    """Publish `before` whole, let a child make `saves` until `die(its process id)` has its way, and report."""
    shutil.rmtree(directory, ignore_errors=True)
    for whole in before:
        save(directory, whole)
    child = os.fork()
    if child == 0:
        try:
            die(0)
            for step in saves:
                save(directory, step)
        finally:
            os._exit(0)
    die(child)
    _, status = os.waitpid(child, 0)
    return {"killed": os.WIFSIGNALED(status), **left_behind(directory)}


def at_operation(number: int) -> Callable[[int], None]:
    """The child kills itself there."""
    return lambda child: None if child else die_at(number)


def after(delay_seconds: float) -> Callable[[int], None]:
    """The parent kills the child then."""

    def die(child: int) -> None:
        if child:
            time.sleep(delay_seconds)
            os.kill(child, signal.SIGKILL)

    return die


def at_every_file_operation(directory: Path, before: list[int], step: int) -> list[dict]:
    found = []
    while not found or found[-1]["killed"]:
        found.append(interrupted(directory, before, at_operation(len(found) + 1), [step]))
    return found


def main(directory: Path, kills: int = 12) -> None:
    torch.set_num_threads(1)
    moments = random.Random(0)
    delays = [moments.uniform(0.02, 0.2) for _ in range(kills)]
    report = {
        "new step": at_every_file_operation(directory, [1, 2], 3),
        "same step again": at_every_file_operation(directory, [1, 2], 2),
        "random moments": [interrupted(directory, [1, 2], after(delay), range(3, NEXT)) for delay in delays],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
