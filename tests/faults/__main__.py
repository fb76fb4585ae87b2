"""`python -m tests.faults`: every fault against every way of running, damage to every file, saves that are killed.

Writes a table as it goes (tests/faults/TABLE.md); exits 1 where a cell is wrong.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.corruption import damages, table
from tests.faults.matrix import FAULTS, LAUNCHERS, WORKS, Outcome, reference, suffer
from tests.helpers import ROOT
from tests.machine import made_at

TABLE = ROOT / "tests" / "faults" / "TABLE.md"
KILLS = 350


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--works", nargs="+", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--launchers", nargs="+", default=list(LAUNCHERS), choices=list(LAUNCHERS))
    parser.add_argument("--faults", nargs="+", default=[fault.name for fault in FAULTS], metavar="NAME")
    parser.add_argument("--kills", type=int, default=KILLS, help="of saves, at random moments")
    parser.add_argument("--out", type=Path, default=TABLE)
    given = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headwater-faults-") as scratch:
        folder = Path(scratch)
        outcomes = _faults(folder, given)
        found = list(damages(reference(folder, WORKS["LoRA"], "ZeRO-2"), folder / "damaged", DAMAGED))
        killed = _killed(folder, given.kills)
    given.out.write_text(_page(outcomes, table(found), killed, time.monotonic() - started))
    wrong = [each for each in outcomes if each.wrong] + [each for each in found if not each.said]
    for each in wrong:
        print(each, file=sys.stderr)
    print(
        f"{given.out}: {len(outcomes)} faults, {len(found)} damages, {given.kills} kills; {len(wrong)} wrong"
    )
    return 1 if wrong or killed["wrong"] else 0


DAMAGED = ("tokenizer", "tokenize", "pretrain", "finetune")


def _faults(folder: Path, given: argparse.Namespace) -> list[Outcome]:
    outcomes = []
    for work in given.works:
        for launcher in given.launchers:
            for fault in [fault for fault in FAULTS if fault.name in given.faults]:
                outcome = suffer(folder, fault, WORKS[work], launcher)
                outcomes.append(outcome)
                state = outcome.skipped or (
                    "wrong: " + outcome.wrong[0][:200] if outcome.wrong else "as it should"
                )
                print(
                    f"{work}, {launcher}, {fault.name}: {outcome.code} in {outcome.seconds:.0f} s, {state}",
                    flush=True,
                )
    return outcomes


def _killed(folder: Path, count: int) -> dict:
    command = [sys.executable, "-m", "tests.faults.interrupted_saves", str(folder / "kills"), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    moments = json.loads(done.stdout)["random moments"]
    return {
        "killed": sum(case["killed"] for case in moments),
        "wrong": [case for case in moments if case["damages"] or not case["steps"]],
    }


def _page(outcomes: list[Outcome], damaged: str, killed: dict, seconds: float) -> str:
    lines = [
        "# What happens to a run, and what is left of it",
        "",
        f"Made by `python -m tests.faults` {made_at(seconds)}.",
        "",
        "A real `headwater stage` on a small model is harmed in step 6 of 12, with a checkpoint every 4. A cell is the",
        "exit code, and `=` where, after the same command again, every file of the artifact has the sha256 of the run",
        "that nothing happened to, no process stayed, and no file was left that that run has not.",
        "",
    ]
    for work in dict.fromkeys(each.work for each in outcomes):
        of_work = [each for each in outcomes if each.work == work]
        launchers = list(dict.fromkeys(each.launcher for each in of_work))
        lines += [
            f"## {work}",
            "",
            f"| fault | {' | '.join(launchers)} | said |",
            "|---" * (len(launchers) + 2) + "|",
        ]
        for fault in dict.fromkeys(each.fault for each in of_work):
            row = {each.launcher: each for each in of_work if each.fault == fault}
            said = next((each.said for each in row.values() if each.said), "")[:110].replace("|", "\\|")
            lines.append(f"| {fault} | {' | '.join(_cell(row[name]) for name in launchers)} | {said} |")
        lines.append("")
    lines += ["## Damage to a file that a run left", "", damaged, "", "## Saves killed at random moments", ""]
    lines.append(
        f"{killed['killed']} killed; {len(killed['wrong'])} left a checkpoint that does not verify, or none."
    )
    return "\n".join(lines) + "\n"


def _cell(outcome: Outcome) -> str:
    if outcome.skipped:
        return f"not tried: {outcome.skipped}"
    return f"{outcome.code} {'wrong: ' + outcome.wrong[0][:80] if outcome.wrong else '='}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
