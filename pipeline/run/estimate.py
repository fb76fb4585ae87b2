"""`headwater plan`: what a recipe will do and need, before anything is loaded: decisions, memory, time, disk."""

import importlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

from pipeline.run.cluster import GPU_FLOPS, Cluster, cost, side_by_side
from pipeline.run.config import Loop
from pipeline.run.launch import Launch, read_launch
from pipeline.run.machine import precision_of
from pipeline.run.memory import Memory, Size, disk, memory, snapshot
from pipeline.run.microbatch import with_micro_batch
from pipeline.run.plan import Batches, data_processes
from pipeline.run.stage import Stage, check_all, decisions


def plan(config: Any, stages: tuple[Stage, ...], cluster: Cluster | None = None) -> str:
    """The plan as text.

    cluster: GPUs elsewhere that it is for; None: this machine.

    Raises:
        UserError: whatever the run would refuse.
    """
    found = decisions(config, stages)
    check_all(config, stages, found)
    launch = read_launch(config.run)
    lines = [f"{stage.name:12} {found[stage.name].action:11} {found[stage.name].reason}" for stage in stages]
    for stage in stages:
        describe = getattr(importlib.import_module(stage.module), "describe", None)
        if describe and (said := describe(config)):
            lines += ["", f"{stage.name}: {said}"]
        if stage.launched:
            lines += ["", *_training_lines(config, stage, launch, cluster)]
    free = shutil.disk_usage(_existing(Path(config.run.output_dir))).free
    return "\n".join([*lines, "", f"free disk at {config.run.output_dir}: {_bytes(free)}"])


def _training_lines(config: Any, stage: Stage, launch: Launch, cluster: Cluster | None) -> list[str]:
    chosen = getattr(config, stage.name).per_device_train_batch_size == "auto"
    config = with_micro_batch(config, stage, room=cluster and cluster.memory)
    training: Loop = getattr(config, stage.name)
    size = importlib.import_module(stage.module).estimate(config)
    batches = Batches.derive(training, launch.num_processes)
    title = f"{stage.name}: {launch.path.name}, {launch.num_processes} processes"
    parts = data_processes(training, launch.num_processes)
    sharing = launch.num_processes // parts
    groups = "processes" if sharing == 1 else f"group{'s' if parts > 1 else ''} of {sharing} processes"
    shape = f"{parts} {groups} x {batches.micro} x {batches.accumulation} accumulated"
    cut = f"  a step: {training.train_batch_size} samples = {shape}{', as this machine fits it' if chosen else ''}"
    if size is None:
        return [
            title,
            cut,
            "  memory, and what micro-batch fits it: known once the base weights are here",
        ]
    need = memory(size, training, launch)
    return [
        title,
        cut,
        f"  precision: {precision_of(training)}",
        *([f"  kernels: {size.kernels}"] if size.kernels else []),
        f"  parameters: {size.parameters:,}, trained {size.trained:,}",
        f"  memory a process: {_bytes(need.total)} = {_parts(need)}",
        f"  while a checkpoint is written: {_bytes(snapshot(size, training, launch))} more a process, of the host",
        *(side_by_side(size, training, launch, _tested(stage), cluster) if cluster else []),
        *_compute_lines(training, size, launch, cluster),
        f"  disk: {_bytes(disk(size, config.run.save_total_limit))} for checkpoints and weights",
    ]


def _tested(stage: Stage) -> tuple[int, ...]:
    """ZeRO stages that the stage's recipe is tested under."""
    return getattr(importlib.import_module(stage.module), "ZERO_STAGES", (1, 2, 3))


def _compute_lines(training: Loop, size: Size, launch: Launch, cluster: Cluster | None) -> list[str]:
    if not size.flops:
        return []
    if training.max_steps is None:
        return [f"  compute: {size.flops:.3g} FLOPs a step; how many steps: known once the rows are packed"]
    flops = training.max_steps * size.flops
    if cluster:
        return [f"  compute: {flops:.3g} FLOPs in {training.max_steps:,} steps", *cost(flops, cluster)]
    rate, assumption = _rate(launch, training.bf16)
    return [
        f"  compute: {flops:.3g} FLOPs in {training.max_steps:,} steps",
        f"  time: about {_duration(flops / (launch.num_processes * rate))} {assumption}",
    ]


def _parts(need: Memory) -> str:
    return " + ".join(f"{name} {_bytes(value)}" for name, value in vars(need).items())


def _rate(launch: Launch, bf16: bool) -> tuple[float, str]:
    """FLOP/s of one process that `time` assumes, and the words for it."""
    if _has_gpu() or launch.num_processes > len(os.sched_getaffinity(0)):
        return GPU_FLOPS, f"at an assumed {GPU_FLOPS / 1e12:.0f} TFLOP/s a GPU"
    return measured_matmul_rate(bf16) / 2, "at half of the matmul rate measured here just now"


def measured_matmul_rate(bf16: bool, seconds: float = 0.3) -> float:
    """FLOP/s of one thread of this CPU in a square matrix product."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    left, right = (torch.randn(512, 512, dtype=torch.bfloat16 if bf16 else torch.float32) for _ in range(2))
    left @ right
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        left @ right
        rounds += 1
    spent = time.perf_counter() - started
    torch.set_num_threads(threads)
    return rounds * 2 * 512**3 / spent


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _bytes(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
