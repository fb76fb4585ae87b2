"""A published file in a process where our own packages, which may be installed, cannot be imported."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import runpy, sys

class Ours:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pipeline", "recipes", "tokenizer"):
            raise ImportError(name)

sys.meta_path.insert(0, Ours())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def compare(said: list[str], live: list[str]) -> int:
    """How many texts of a published file equal the live model's; raises RuntimeError where one differs."""
    for one, other in zip(said, live, strict=True):
        if one != other:
            raise RuntimeError(f"the exported directory says {one!r}, the live model {other!r}")
    return len(live)


def run_alone(directory: Path, file: str, *arguments: str, given: str | None = None) -> str:
    """What `python FILE ARGUMENTS` prints, run as a stranger would from `directory`. given: its standard input.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-c", PROGRAM, file, *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, input=given)
    if done.returncode:
        raise RuntimeError(f"{file} does nothing by itself:\n{done.stderr[-2000:]}")
    return done.stdout
