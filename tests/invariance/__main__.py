"""`python -m tests.invariance`: runs that are stopped at every kind of moment, and runs that move to other launchers.

Writes a table (tests/invariance/TABLE.md); exits 1 where a run that went on is not the one that was not stopped.
"""

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.helpers import launch
from tests.invariance import moments
from tests.machine import made_at

TABLE = Path(__file__).with_name("TABLE.md")
LAUNCHERS: dict[str, tuple[str | None, int | None]] = {
    "one process": (None, None),
    "DDP x 2": ("cpu_ddp", 2),
    "DDP x 3": ("cpu_ddp", 3),
    "ZeRO-1 x 2": ("zero1", 2),
    "ZeRO-2 x 2": ("cpu_zero2", 2),
    "ZeRO-2 x 3": ("cpu_zero2", 3),
    "ZeRO-3 x 2": ("cpu_zero3", 2),
}
# One run on several launchers: each goes on where the one before was stopped.
CHAINS = {
    "2 -> 1 -> 3 processes": (("DDP x 2", 2), ("one process", 4), ("DDP x 3", moments.STEPS)),
    "ZeRO 1 -> 3 -> DDP": (("ZeRO-1 x 2", 2), ("ZeRO-3 x 2", 4), ("DDP x 2", moments.STEPS)),
}
TOLERANCE = 1e-5  # of a loss: sums are added in another order


def exact(shared: Path, launcher: str, works: list[str]) -> dict[str, dict[str, str]]:
    """Of each work and moment, in what the run that was stopped differs from the one that was not."""
    file, processes = LAUNCHERS[launcher]
    return launch(
        file, "tests.invariance.moments", str(shared), "exact", *works, num_processes=processes, seconds=900
    )


def elastic(shared: Path, chain: tuple[tuple[str, int], ...], folder: Path) -> tuple[float, bool]:
    """(the largest relative difference of a loss, whether every step saw the same samples) to one process's run."""
    whole = (("one process", moments.STEPS),)
    seen = []
    for name, parts in (("whole", whole), ("moved", chain)):
        place = folder / name
        fed: list[Any] = []
        for launcher, until in parts:
            file, processes = LAUNCHERS[launcher]
            given = (str(shared), "elastic", str(place), str(until))
            report = launch(file, "tests.invariance.moments", *given, num_processes=processes)
            fed += [each for process in report["fed"] for each in process]
        losses = [line["loss"] for line in moments.lines(place) if "loss" in line]
        seen.append((losses, sorted(fed)))
    (first, their_samples), (second, samples) = seen
    assert len(first) == len(second) == moments.STEPS
    worst = max(abs(here - there) / there for here, there in zip(second, first, strict=True))
    return worst if math.isfinite(worst) else math.inf, samples == their_samples


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.invariance", description=__doc__)
    parser.add_argument("--launchers", nargs="+", default=list(LAUNCHERS), choices=list(LAUNCHERS))
    parser.add_argument("--works", nargs="+", default=list(moments.WORKS), choices=list(moments.WORKS))
    parser.add_argument("--out", type=Path, default=TABLE)
    given = parser.parse_args(arguments)
    started, found, moved = time.monotonic(), {}, {}
    with tempfile.TemporaryDirectory(prefix="headwater-moments-") as scratch:
        shared = Path(scratch) / "data"
        shared.mkdir()
        moments.prepare(shared)
        for launcher in given.launchers:
            found[launcher] = exact(shared, launcher, given.works)
            wrong = sum(bool(cell) for row in found[launcher].values() for cell in row.values())
            print(f"{launcher}: {sum(map(len, found[launcher].values()))} moments, {wrong} wrong", flush=True)
        for name, chain in CHAINS.items():
            place = Path(scratch) / name
            place.mkdir()
            moved[name] = elastic(shared, chain, place)
            print(f"{name}: losses within {moved[name][0]:.1e}, samples the same: {moved[name][1]}")
    given.out.write_text(_page(found, moved, time.monotonic() - started))
    cells = [cell for rows in found.values() for row in rows.values() for cell in row.values()]
    failed = any(cells) or any(worst > TOLERANCE or not same for worst, same in moved.values())
    return int(failed)


def _page(found: dict[str, Any], moved: dict[str, tuple[float, bool]], seconds: float) -> str:
    lines = [
        "# A run that was stopped, or moved, against one that was not",
        "",
        f"Made by `python -m tests.invariance` {made_at(seconds)}.",
        "",
        f"A tiny decoder trains {moments.STEPS} steps of {moments.BATCH} rows, an epoch of {moments.EPOCH} steps; "
        f"a checkpoint every {moments.SAVE}, an",
        f"evaluation every {moments.EVALUATE}. One process, the last, is asked to stop (SIGTERM), or fails; the same",
        "run goes on. `=`: every loss, learning rate and gradient norm of the log, every micro-batch by its sha256,",
        "and every weight, average and moment are those of the run that was not stopped, bit for bit. With dropout",
        "(GPT-2's, LoRA's), EMA, clipping, warm-up and cosine. What fails in one of several processes is in",
        "`tests/faults/TABLE.md`.",
        "",
    ]
    launchers = list(found)
    for work in next(iter(found.values()), {}):
        lines += [
            f"## {work}",
            "",
            f"| moment | {' | '.join(launchers)} |",
            "|---" * (len(launchers) + 1) + "|",
        ]
        for moment in moments.MOMENTS:
            cells = [found[launcher][work].get(moment) for launcher in launchers]
            shown = ["not tried" if cell is None else cell or "=" for cell in cells]
            lines.append(f"| {moment} | {' | '.join(shown)} |")
        lines.append("")
    lines += [
        "## One run on several launchers, against one process",
        "",
        "| launchers | largest relative difference of a loss | samples of every step |",
        "|---|---|---|",
    ]
    for name, (worst, same) in moved.items():
        lines.append(f"| {name} | {worst:.1e} | {'the same' if same else 'others'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
