"""Everything that only a GPU can say, cheapest and most telling first, one JSON line each as it comes.

python -m tests.gpu [--out DIR] [--minutes 8] [--only NAME ...]      exit 1 where a check failed
python -m tests.gpu --rehearse      every check on the CPU at small sizes: that it runs, not what a GPU would say

A check that is begun is finished; none is begun when the minutes are used, and those are named. Lines are appended to
DIR/results.jsonl too. Without CUDA, what would be done is listed. launch/gpu_wheels fetches what a bare image lacks.
"""

import argparse
import importlib.util
import json
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from pipeline.run.provenance import commit
from tests.gpu.check import Check, Place, Wrong


def checks() -> list[Check]:
    from tests.gpu import correctness, families, memory, speed

    return [
        *correctness.FIRST,
        *families.CHECKS,
        *speed.FIRST,
        *correctness.CHECKS,
        *memory.CHECKS,
        *speed.CHECKS,
    ]


def main(arguments: list[str] | None = None, known: list[Check] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", allow_abbrev=False)
    parser.add_argument("--out", type=Path, help="where results.jsonl goes; default: nowhere")
    parser.add_argument("--minutes", type=float, default=8.0, help="no check is begun after them")
    parser.add_argument("--only", nargs="*", help="names of checks")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, at small sizes")
    given = parser.parse_args(arguments)
    found = [check for check in known or checks() if not given.only or check.name in given.only]
    if not torch.cuda.is_available() and not given.rehearse:
        print("no CUDA device is here; with one, this would be done:")
        for check in found:
            print(f"  {check.name:24} {check.about}")
        return 0
    return run(found, Place(given.rehearse), given.minutes * 60, given.out)


def run(found: list[Check], place: Place, seconds: float, out: Path | None) -> int:
    began, failed = time.perf_counter(), 0
    say({"check": "machine", **machine(place)}, out)
    for number, check in enumerate(found):
        if time.perf_counter() - began > seconds:
            say({"check": "not begun", "names": [left.name for left in found[number:]]}, out)
            break
        line = outcome(check, place)
        failed += "failed" in line
        say(line, out)
    say({"check": "done", "failed": failed, "seconds": round(time.perf_counter() - began, 1)}, out)
    return 1 if failed else 0


def outcome(check: Check, place: Place) -> dict[str, Any]:
    """The line of one check; whatever it raises is in it, for the next one goes on."""
    missing = [name for name in check.needs if importlib.util.find_spec(name) is None]
    if missing:
        return {"check": check.name, "skipped": f"{', '.join(missing)} not installed"}
    began = time.perf_counter()
    try:
        said: dict[str, Any] = check.run(place)
    except Wrong as wrong:
        said = {"failed": str(wrong), **wrong.figures}
    except Exception as error:  # a check that breaks must not take the others with it
        traceback.print_exc(file=sys.stderr)
        said = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
    if not place.rehearsal:
        torch.cuda.empty_cache()
    return {"check": check.name, **said, "seconds": round(time.perf_counter() - began, 1)}


def machine(place: Place) -> dict[str, Any]:
    import transformers

    name = platform.machine() if place.rehearsal else torch.cuda.get_device_name()
    return {
        "device": name,
        "rehearsal": place.rehearsal,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": commit(),
    }


def say(line: dict[str, Any], out: Path | None) -> None:
    text = json.dumps(line)
    print(text, flush=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        with open(out / "results.jsonl", "a") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
