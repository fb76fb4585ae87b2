"""How many samples a micro-batch has where the recipe leaves that to the machine: what a run learns depends on the
samples of a step, not on how they are cut.
"""

import importlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.run.config import Loop
from pipeline.run.launch import Launch, read_launch
from pipeline.run.memory import memory
from pipeline.run.plan import UNPLANNED, Batches, data_processes
from pipeline.run.stage import MICRO_BATCH

# Of a device's memory: a plan is off by up to a tenth, and the CUDA context, communication buckets and fragments of the
# allocator come on top. A CPU, which computes no faster for it, gets no larger micro-batch than UNPLANNED.
USED = 0.8


def with_micro_batch(config: Any, stage: Any, kept: Path | None = None, room: float | None = None) -> Any:
    """`config` with `per_device_train_batch_size: auto` of the stage made a number, the same on every process.

    It stays `auto` where the weights' size is not known yet.

    Args:
        kept: the stage's checkpoints. A run that is begun keeps its micro-batch on as many processes, for sums of
            other parts round otherwise. room: bytes of the device that is planned for; None: of this machine's.
    """
    training: Loop = getattr(config, stage.name)
    if training.per_device_train_batch_size != "auto":
        return config
    launch = read_launch(config.run)
    launch = replace(launch, num_processes=int(os.environ.get("WORLD_SIZE", launch.num_processes)))
    samples = _begun(kept, launch.num_processes) or _largest(config, stage, launch, room)
    return _with(config, stage, samples) if samples else config


def record(config: Any, stage: Any) -> dict[str, Any]:
    """What `kept` has to say of a run that begins now."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    samples = Batches.derive(getattr(config, stage.name), processes).micro
    return {"processes": processes, "samples": samples}


def _begun(kept: Path | None, processes: int) -> int | None:
    file = kept / MICRO_BATCH if kept else None
    if not file or not file.is_file() or not any(kept.glob("step-*")):
        return None
    found = json.loads(file.read_text())
    return found.get("samples") if found.get("processes") == processes else None


def _largest(config: Any, stage: Any, launch: Launch, planned: float | None) -> int | None:
    """The largest divisor of a process's share of a step that fits; 1 where none does. None: not known yet."""
    training = getattr(config, stage.name)
    share = training.train_batch_size // data_processes(training, launch.num_processes)
    one, two = (_needed(config, stage, launch, min(samples, share)) for samples in (1, 2))
    if one is None or two is None:
        return None
    room, most = (planned, float("inf")) if planned else _device(launch)
    # Activations grow by the sample; what is kept once for all, such as weights cast to bf16, does not.
    fitting = 1 + (USED * room - one) / (two - one) if two > one else share
    fitting = max(1, min(most, fitting))
    return max(samples for samples in range(1, share + 1) if share % samples == 0 and samples <= fitting)


def _needed(config: Any, stage: Any, launch: Launch, samples: int) -> float | None:
    """Bytes of one process with micro-batches of `samples`."""
    config = _with(config, stage, samples)
    size = importlib.import_module(stage.module).estimate(config)
    return size and memory(size, getattr(config, stage.name), launch).total


def _device(launch: Launch) -> tuple[float, float]:
    """(bytes that one process may fill, the most samples it is given whatever fits)."""
    import psutil
    import torch

    if torch.cuda.is_available():
        sizes = [
            torch.cuda.get_device_properties(gpu).total_memory for gpu in range(torch.cuda.device_count())
        ]
        return min(sizes), float("inf")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", launch.num_processes))
    return psutil.virtual_memory().total / here, UNPLANNED


def _with(config: Any, stage: Any, samples: int) -> Any:
    training = getattr(config, stage.name).model_copy(update={"per_device_train_batch_size": samples})
    return config.model_copy(update={stage.name: training})
