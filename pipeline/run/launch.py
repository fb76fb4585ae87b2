"""Which launch file fits this machine and this recipe, and the `accelerate launch` command that uses it."""

import importlib.util
import json
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.run.config import Loop, Optimizer, Run
from pipeline.run.errors import UserError
from pipeline.run.machine import as_environment
from pipeline.run.plan import Batches, check_optimizer
from pipeline.run.shipped import LAUNCH, find_launch_file
from pipeline.run.supervise import heeded

DEFAULT = LAUNCH / "zero2.yaml"
DISTRIBUTED = ("NO", "MULTI_GPU", "MULTI_CPU", "DEEPSPEED")


@dataclass(frozen=True)
class Launch:
    """A launch file as far as training depends on it.

    zero_stage: None without DeepSpeed; deepspeed: what the file, or the DeepSpeed config it names, says beside it;
    gpus: of this host, where processes take one each; None where they do not, or are spread over several hosts; plain:
    what the environment of a single process must say, which needs no launcher; None: it has one.
    """

    path: Path
    num_processes: int
    zero_stage: int | None
    deepspeed: dict[str, Any]
    gpus: int | None = None
    plain: dict[str, str] | None = None


def read_launch(run: Run) -> Launch:
    """The launch file that `run` names, or the default, with the number of processes this machine gives it.

    Raises:
        UserError: missing, no mapping, a kind of launcher that training does not support.
    """
    path = find_launch_file(run.launch) if run.launch else DEFAULT
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"run.launch: cannot read {path}: {' '.join(str(error).split())[:120]}\n"
            f"expected: an accelerate launch file such as {DEFAULT}"
        ) from None
    kind = tree.get("distributed_type", "NO") if isinstance(tree, dict) else None
    if kind not in DISTRIBUTED:
        raise UserError(
            f"{path}: distributed_type {kind!r} is not supported\nexpected: one of {', '.join(DISTRIBUTED)}"
        )
    settings = _deepspeed_settings(path, tree) if kind == "DEEPSPEED" else {}
    stage = settings.get("zero_stage") if kind == "DEEPSPEED" else None
    several = int(tree.get("num_machines") or 1) > 1
    gpus = None if tree.get("use_cpu") or several else _gpus() or None
    processes = _processes(run, tree, kind, gpus)
    plain = {"ACCELERATE_USE_CPU": str(bool(tree.get("use_cpu"))).lower()}
    if tree.get("gpu_ids") not in (None, "all"):
        plain["CUDA_VISIBLE_DEVICES"] = str(tree["gpu_ids"])
    alone = kind == "NO" and processes == 1 and not several
    return Launch(path, processes, stage, settings, gpus, plain if alone else None)


def _processes(run: Run, tree: dict[str, Any], kind: str, gpus: int | None) -> int:
    """Every GPU of this host where there are some, else what the file says; `run.num_processes` overrides both."""
    if run.num_processes:
        return run.num_processes
    return 1 if kind == "NO" else gpus or int(tree.get("num_processes") or 2)


def check_gpus(launch: Launch) -> None:
    """Refuse more processes than this host has GPUs; not part of a plan, which may be for another host.

    Raises:
        UserError: with the largest number that fits.
    """
    if launch.gpus and launch.num_processes > launch.gpus:
        raise UserError(
            f"run.num_processes {launch.num_processes} is more than the GPUs of this machine: {launch.gpus}\n"
            f"way out: run.num_processes={launch.gpus}, or run.launch=launch/cpu_zero2.yaml"
        )


def _deepspeed_settings(path: Path, tree: dict[str, Any]) -> dict[str, Any]:
    settings = dict(tree.get("deepspeed_config") or {})
    named = settings.pop("deepspeed_config_file", None)
    if named:
        try:
            own = json.loads(Path(named).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: deepspeed_config_file {named}: {error}") from None
        if decided := sorted({"optimizer", "scheduler", "fp16"} & own.keys()):
            raise UserError(
                f"{named} sets {', '.join(decided)}, which the recipe decides\nway out: leave it out of the file"
            )
        settings |= flat_deepspeed(own)
    stage = settings.setdefault("zero_stage", 2)
    if stage not in (1, 2, 3):
        raise UserError(
            f"{path}: zero_stage {stage!r}\nexpected: 1, 2 or 3, or launch/ddp.yaml for no sharding"
        )
    return settings


def flat_deepspeed(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a DeepSpeed JSON config that training depends on, by accelerate's names."""
    zero = config.get("zero_optimization", {})
    found = {
        "zero_stage": zero.get("stage"),
        "offload_optimizer_device": zero.get("offload_optimizer", {}).get("device"),
        "offload_param_device": zero.get("offload_param", {}).get("device"),
        "train_micro_batch_size_per_gpu": config.get("train_micro_batch_size_per_gpu"),
        "train_batch_size": config.get("train_batch_size"),
        "gradient_accumulation_steps": config.get("gradient_accumulation_steps"),
        "gradient_clipping": config.get("gradient_clipping"),
        "bf16": config.get("bf16", {}).get("enabled"),
    }
    return {key: value for key, value in found.items() if value is not None}


UNSHARDED = {"adafactor": "their rows and columns", "adamw_8bit": "the blocks that share a scale"}


def check_launch(run: Run, training: Loop, zero_stages: tuple[int, ...], *optimizers: Optimizer) -> None:
    """Refuse a launch file that does not fit the recipe, before anything starts.

    optimizers: one a net that learns.

    Raises:
        UserError: batches that do not divide, an untested ZeRO stage, a setting that contradicts the recipe's, no
            compiler for what is compiled.
    """
    check_trackers(run)
    for optimizer in optimizers:
        check_optimizer(optimizer, training.max_steps, training.ema_decay)
    launch = read_launch(run)
    processes = int(os.environ.get("WORLD_SIZE", launch.num_processes))
    batches = Batches.derive(training, processes)
    if launch.zero_stage and launch.zero_stage not in zero_stages:
        tested = " or ".join(f"launch/zero{stage}.yaml" for stage in zero_stages)
        raise UserError(
            f"{launch.path}: this recipe is not tested under ZeRO-{launch.zero_stage}\nway out: {tested}"
        )
    for optimizer in optimizers:
        if launch.zero_stage and (why := UNSHARDED.get(optimizer.optim)):
            raise UserError(
                f"optim: {optimizer.optim} under {launch.path}: ZeRO cuts matrices where {why} are to be kept\n"
                "way out: run.launch=launch/ddp.yaml, or optim: lion, which keeps one moment"
            )
    check_best(run, training)
    check_compiler(training, optimizers)
    derived = [
        ("train_micro_batch_size_per_gpu", batches.micro),
        ("train_batch_size", training.train_batch_size),
        ("gradient_accumulation_steps", batches.accumulation),
        ("bf16", training.bf16),
        *(("gradient_clipping", optimizer.max_grad_norm) for optimizer in optimizers),
    ]
    for key, value in derived:
        given = launch.deepspeed.get(key, "auto")
        if given != "auto" and given != value:
            raise UserError(
                f"{launch.path}: {key} is {given}, and the recipe makes it {value}\nway out: `auto`, or leave it out"
            )


def check_best(run: Run, training: Loop) -> None:
    """Raises UserError for a best figure without evaluations to find it in, or patience without a figure."""
    if training.early_stopping_patience and not training.metric_for_best_model:
        raise UserError(
            "early_stopping_patience waits for a better figure, and none is named\nway out: metric_for_best_model=loss"
        )
    if training.metric_for_best_model and not run.eval_steps:
        raise UserError(
            "metric_for_best_model needs evaluations during training\nway out: run.eval_steps=100, or another number"
        )


def check_compiler(training: Loop, optimizers: tuple[Optimizer, ...]) -> None:
    """Refuse what torch.compile compiles where there is no compiler for CPUs: the nets, or DeepSpeed's Muon.

    Raises:
        UserError: with the setting that needs it.
    """
    muon = any(optimizer.optim == "muon" for optimizer in optimizers)
    compiler = compiler_of()
    if (training.torch_compile or muon) and not _gpus() and shutil.which(compiler) is None:
        setting = "torch_compile: true" if training.torch_compile else "optim: muon"
        raise UserError(
            f"{setting} needs a C++ compiler, and {compiler} is not there\n"
            "way out: install it, name another in CXX, or do without the setting"
        )


def compiler_of() -> str:
    """The C++ compiler that torch.compile calls on a CPU."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def check_trackers(run: Run) -> None:
    """Raises UserError for a tracker whose package is not installed."""
    for name in run.trackers:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"run.trackers: {name} is not installed\nway out: pip install {name}")


def launch_command(launch: Launch, module: str, arguments: list[str]) -> list[str]:
    """`accelerate launch` on this machine, on a port of its own so that two runs do not meet; a single process as it
    is, for accelerate's launcher of one passes no signal on."""
    if launch.plain is not None:
        return [sys.executable, "-m", module, *arguments]
    processes = ["--num_processes", str(launch.num_processes)]
    port = ["--main_process_port", str(_free_port())]
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch.path)]
    return [*start, *processes, *port, "-m", module, *arguments]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch_environment(launch: Launch | None = None) -> dict[str, str]:
    """The environment of a stage: time to save after a signal, and every signal that asks to forwarded."""
    return os.environ | {
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300"),
        "PET_SIGNALS_TO_HANDLE": os.environ.get(
            "PET_SIGNALS_TO_HANDLE", ",".join(number.name for number in heeded())
        ),
        "TOKENIZERS_PARALLELISM": "false",
        **as_environment(),
        **((launch and launch.plain) or {}),
        **({} if _gpus() else {"DS_ACCELERATOR": "cpu"}),  # else DeepSpeed warns that it looked for others
    }


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
