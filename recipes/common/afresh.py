"""A module of ours in a process that has seen nothing: what is published is read there before it appears."""

import os
import subprocess
import sys

from pipeline.export import ROOT


def run_afresh(module: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """`python -m MODULE ARGUMENTS` from the same folder, so that relative paths hold; without the network."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)
