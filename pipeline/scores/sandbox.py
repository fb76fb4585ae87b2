"""Code that a model wrote, run where it can do no harm: what it may use of the machine is decided by the kernel.

A process imports a library, which is trusted, and forks for each candidate. The fork takes limits on processor time,
memory and files, and a seccomp filter that knows no system call but those of computing: no file is opened, no socket,
no process is begun. Only then is the candidate's text compiled. Linux with libseccomp, which is asked for by name.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.run.errors import UserError

PASSED = "passed"
STARTING = 60.0  # seconds that importing a library may take


@dataclass(frozen=True)
class Candidate:
    """A function in the text `code`, to stand in its module in the place of `name`.

    doctest: a docstring whose examples it must pass, with the module's names; the others of the module are as they are.
    """

    code: str
    name: str
    doctest: str


def check_sandbox() -> None:
    """Refuse a machine without the kernel's filter.

    Raises:
        UserError: with the way out.
    """
    if not sys.platform.startswith("linux") or ctypes.util.find_library("seccomp") is None:
        raise UserError(
            "code that a model wrote is run behind libseccomp, which is not here\n"
            "way out: apt-get install libseccomp2 (Linux), or evaluate.programs=0"
        )


def judged(
    module: str, candidates: Iterable[Candidate], seconds: float = 3.0, megabytes: int = 1024
) -> list[str]:
    """Of each candidate `passed`, or in a few words why not.

    Args:
        module: importable, whose namespace the candidates stand in.
        seconds: of processor and of waiting, a candidate; megabytes: of address space beyond the module's.

    Raises:
        UserError: the module cannot be imported.
    """
    program = Path(__file__).with_name("sandboxed.py")
    command = [sys.executable, "-I", "-X", "utf8", str(program), module, str(seconds), str(megabytes)]
    environment = {
        name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "HOME") if name in os.environ
    }
    jobs = [json.dumps(asdict(candidate)) + "\n" for candidate in candidates]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    limit = STARTING + len(jobs) * (seconds + 1)
    began = time.monotonic()
    try:
        out, _ = process.communicate("".join(jobs), timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
    verdicts = out.splitlines()
    if process.returncode and not verdicts:
        raise UserError(f"{module} cannot be imported by itself, after {time.monotonic() - began:.0f} s")
    return [*verdicts, *["the sandbox ended"] * (len(jobs) - len(verdicts))]
