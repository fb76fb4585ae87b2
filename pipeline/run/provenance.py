"""How an artifact was made: commit, versions, host, time and memory. No digest covers any of it."""

import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "deepspeed",
    "peft",
    "tokenizers",
    "datasets",
    "diffusers",
    "numpy",
    "lm_eval",
    "pillow",
)


def facts() -> dict[str, Any]:
    """What runs here and from which commit; to be asked before the work, for a checkout may move on meanwhile."""
    return {
        "command": sys.argv,
        "commit": commit(),
        "host": platform.node(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def spent(started: float) -> dict[str, Any]:
    """Time and memory of this process; `started` is the epoch second at which the stage began."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 2),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def peak_memory_bytes() -> int:
    """The most resident memory that this process has had."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:  # no Linux; ru_maxrss outlives exec there, so it may be the peak of what started this
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def commit() -> str:
    """The checkout's commit, `+` added where the working tree differs; `unknown` outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed: git would find the repository of whoever installed it here
        return "unknown"
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
