"""`python -m tests.faults.soak --minutes 60`: random faults at random steps, one after another, on runs that go on.

Writes what came of it (tests/faults/SOAK.md); exits 1 where something was wrong.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.matrix import (
    ALONE,
    FAULTS,
    LAUNCHERS,
    STEPS,
    WORKS,
    Fault,
    Work,
    differences,
    environment_of,
    prepared,
    reference,
    run,
)
from tests.machine import made_at

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
            for log in output.glob("logs/*.metrics.jsonl"):  # a signal waits for the steps of this attempt
                log.unlink()
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


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--work", default="GAN", choices=list(WORKS))
    parser.add_argument("--launcher", default="DDP", choices=list(LAUNCHERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("SOAK.md"))
    given = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headwater-soak-") as folder:
        found = soak(Path(folder), WORKS[given.work], given.launcher, given.minutes, given.seed)
    named = "".join(f"| {name} | {count} |\n" for name, count in sorted(found["faults"].items()))
    wrong = "".join(f"- {text}\n" for text in found["wrong"])
    given.out.write_text(
        "# Random faults at random steps, one after another\n\n"
        f"Made by `python -m tests.faults.soak --minutes {given.minutes:g} --work {given.work} --launcher "
        f"{given.launcher} --seed {given.seed}` {made_at(time.monotonic() - started)}.\n\n"
        f"{found['runs']} runs went on through {sum(found['faults'].values())} faults until they were done;\n"
        f"{len(found['wrong'])} times something was wrong: another exit code, other weights than those of\n"
        "the run that nothing happened to, or a file or process that stayed.\n\n"
        f"| fault | times |\n|---|---|\n{named}{wrong}"
    )
    print(
        f"{given.out}: {found['runs']} runs, {sum(found['faults'].values())} faults, {len(found['wrong'])} wrong"
    )
    return int(bool(found["wrong"]))


def _tried(launcher: str) -> list[Fault]:
    """Those that end a run; what is slow to notice, or needs a cgroup, is in the matrix."""
    alone = launcher == "one process"
    return [
        fault
        for fault in FAULTS
        if 0 not in fault.codes and not fault.memory and fault.harm != "stand still"
        and not (alone and fault.harm in ALONE)
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
