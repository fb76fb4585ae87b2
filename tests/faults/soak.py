"""Random faults at random steps, one after another, on runs that go on until they are done: for as long as is asked."""

import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.matrix import (
    ALONE,
    FAULTS,
    STEPS,
    Fault,
    Work,
    differences,
    environment_of,
    prepared,
    reference,
    run,
)

ATTEMPTS = 40  # at one run; each gets on by at least the steps between two checkpoints, or is stopped before the first


def soak(folder: Path, work: Work, launcher: str, minutes: float, seed: int = 0) -> dict[str, Any]:
    """What happened: runs that were done, faults that ended one for a time, by name, and what was wrong."""
    draws, until = random.Random(seed), time.monotonic() + 60 * minutes
    whole, output = reference(folder, work, launcher), folder / "soaked"
    runs, faults, wrong = 0, Counter(), []
    while time.monotonic() < until:
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(prepared(folder, work), output)
        for _ in range(ATTEMPTS):
            fault, step = draws.choice(_tried(launcher)), draws.randint(1, STEPS)
            rank = 0 if launcher == "one process" else draws.randint(0, 1)
            command = work.command("stage", work.stage, output, launcher, *fault.overrides)
            given = environment_of(folder, fault, rank, output / "logs" / f"{work.stage}.metrics.jsonl", step)
            code, text, _ = run(command, given, fault, None)
            if code == 0:
                break
            faults[fault.name] += 1
            if code not in fault.codes:
                wrong.append(f"{fault.name} at step {step}: ended with {code}: {text[-800:]}")
        else:
            wrong.append(f"not done after {ATTEMPTS} faults")
        runs += 1
        wrong += differences(output, whole, work.stage)
    return {"runs": runs, "faults": dict(faults), "wrong": wrong}


def _tried(launcher: str) -> list[Fault]:
    """Those that end a run; what is slow to notice, or needs a cgroup, is in the matrix."""
    alone = launcher == "one process"
    return [
        fault
        for fault in FAULTS
        if 0 not in fault.codes and not fault.memory and fault.harm != "stand still"
        and not (alone and fault.harm in ALONE)
    ]  # fmt: skip
