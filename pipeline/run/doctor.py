"""`headwater doctor`: what this machine has, what would be chosen on it and why, the way out for what is missing."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.run.config import Run
from pipeline.run.launch import compiler_of, read_launch
from pipeline.run.machine import precision
from pipeline.run.shipped import LAUNCH

NEEDED = (
    "torch",
    "transformers",
    "accelerate",
    "deepspeed",
    "peft",
    "datasets",
    "tokenizers",
    "sentencepiece",
)


@dataclass(frozen=True)
class Finding:
    """One line of the screen. way_out: "" where nothing is to be done; missing: without it something cannot run."""

    name: str
    text: str
    way_out: str = ""
    missing: bool = False


def examine() -> list[Finding]:
    """Every finding, packages first: without them the rest cannot be asked."""
    packages = _packages()
    if any(finding.missing for finding in packages):
        return packages
    return [*packages, _processor(), *_devices(), _precision(), _launch(), _compiler(), _disk(), _hub()]


def screen(findings: list[Finding]) -> str:
    """The findings as text, at most a line and a way out each."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.name:12} {finding.text}")
        if finding.way_out:
            lines.append(f"{'':12} way out: {finding.way_out}")
    return "\n".join(lines)


def _packages() -> list[Finding]:
    installed = {name: _version(name) for name in NEEDED}
    if absent := [name for name, version in installed.items() if version is None]:
        return [Finding("packages", f"missing: {', '.join(absent)}", f"pip install {' '.join(absent)}", True)]
    pinned = pins(LAUNCH / "constraints.txt")
    other = [
        f"{name} {version}, tested {pinned[name]}"
        for name, version in installed.items()
        if name in pinned and pinned[name] != version
    ]
    versions = ", ".join(f"{name} {version}" for name, version in installed.items())
    found = [Finding("packages", versions)]
    if other:
        found.append(
            Finding("", "; ".join(other), "pip install -c launch/constraints.txt, where something fails")
        )
    return found


def pins(constraints: Path) -> dict[str, str]:
    """Package -> the version that the tests run with; empty where the file is not there."""
    if not constraints.is_file():
        return {}
    return dict(re.findall(r"^([\w.-]+)==(\S+)", constraints.read_text(), re.MULTILINE))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> Finding:
    import psutil
    import torch

    cores = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count()
    memory = psutil.virtual_memory().total / 1e9
    amx = "AMX" if torch.cpu._is_amx_tile_supported() else "no AMX"
    sets = f"{torch.backends.cpu.get_cpu_capability()}, {amx}"
    return Finding("processor", f"{platform.machine()}, {cores} cores, {memory:.0f} GB of memory, {sets}")


def _devices() -> list[Finding]:
    import torch

    count = torch.cuda.device_count()
    if not count:
        return [Finding("GPU", "none that torch sees: the CPU computes")]
    names = [torch.cuda.get_device_properties(index) for index in range(count)]
    return [Finding("GPU", f"{found.name}, {found.total_memory / 1e9:.0f} GB") for found in names]


def _precision() -> Finding:
    chosen = precision()
    return Finding("precision", f"bf16: auto is {'bf16' if chosen.bf16 else 'fp32'}: {chosen.reason}")


def _launch() -> Finding:
    launch = read_launch(Run(output_dir=Path()))
    why = "one a GPU" if launch.gpus else "no GPU, so what the file says"
    return Finding("launch file", f"launch/{launch.path.name}, {launch.num_processes} processes: {why}")


def _compiler() -> Finding:
    name = compiler_of()
    if path := shutil.which(name):
        return Finding("compiler", path)
    text = f"{name} is not there: no torch_compile and no optim: muon on a CPU"
    return Finding("compiler", text, "apt-get install g++, or CXX=COMPILER", True)


def _disk() -> Finding:
    free = shutil.disk_usage(Path()).free / 1e9
    return Finding(
        "disk", f"{free:.0f} GB free here", "" if free > 5 else "run.output_dir=DIRECTORY on a larger disk"
    )


def _hub() -> Finding:
    from huggingface_hub import get_token

    if get_token():
        return Finding("Hub", "a token is stored: export --push can upload where it may write")
    return Finding("Hub", "no token: only export --push and private models need one", "hf auth login")
