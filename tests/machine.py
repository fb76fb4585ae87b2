"""What a table says of where it was made."""

import os
import platform
import subprocess
from pathlib import Path

import torch

from tests.helpers import ROOT


def made_at(seconds: float) -> str:
    """`at commit C, in M minutes, on P, Python V, torch V`."""
    described = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(described, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"at commit {commit}, in {seconds / 60:.0f} minutes, on {processor()}, {versions}"


def processor() -> str:
    """Its cores, its name, and what it multiplies bf16 with."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in found.items()}
    flags = facts.get("flags", "").split()
    bf16 = "AMX" if "amx_bf16" in flags else "bf16" if "avx512_bf16" in flags else "no bf16"
    return f"{len(os.sched_getaffinity(0))} cores of {facts.get('model name', platform.machine())} ({bf16})"
