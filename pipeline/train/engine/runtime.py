"""This process among its peers: the process group, what the launch file says of ZeRO, the trackers."""

import ctypes
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.run.errors import UserError
from pipeline.run.launch import flat_deepspeed

AFTER_THE_WATCH = 120.0  # seconds
# mallopt's parameters and the sizes given to it, bytes: glibc's malloc.h and mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, NEVER, OLD_LIMIT = -1, -3, 1 << 30, 32 << 20


@dataclass(frozen=True)
class Runtime:
    """This process among its peers, as the launcher made them."""

    rank: int
    world_size: int
    device: torch.device
    zero_stage: int | None  # None: no DeepSpeed
    offload_optimizer: str = "none"
    offload_param: str = "none"
    own_deepspeed: dict[str, Any] = field(
        default_factory=dict
    )  # a user's own DeepSpeed config, checked by launch.py
    sequence_size: int = 1  # neighbouring processes that share each row
    sequence_group: Any = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def sequence_rank(self) -> int:
        return self.rank % self.sequence_size

    @property
    def data_rank(self) -> int:
        """Which samples this process sees: those of its group, where several share them."""
        return self.rank // self.sequence_size

    @property
    def data_size(self) -> int:
        return self.world_size // self.sequence_size

    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor` summed over processes, in place."""
        return self.begin_sum(tensor)()

    def begin_sum(self, tensor: Tensor) -> Callable[[], Tensor]:
        """The same while other work goes on: what is returned waits for the sum, and gives it each time it is asked."""
        if self.world_size == 1:
            return lambda: tensor
        work = torch.distributed.all_reduce(tensor, async_op=True)

        def wait() -> Tensor:
            work.wait()
            return tensor

        return wait

    def barrier(self) -> None:
        if self.world_size > 1:
            self.sum(torch.zeros(1, device=self.device))

    def agree(self, number: int) -> int:
        """Process 0's `number`, on every process."""
        return int(self.sum(torch.tensor(number if self.is_main else 0, device=self.device)))

    @contextmanager
    def repeatable(self, wanted: bool) -> Iterator[None]:
        """Within, a GPU's kernels add up in the same order each time; a CPU's do anyway.

        Raises:
            UserError: an operation of the net has no kernel that does.
        """
        if self.device.type != "cuda" or not wanted:
            yield
            return
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a net that reads it is wrong either way
        try:
            yield
        except RuntimeError as error:
            said = str(error).split(",")[0]
            if "deterministic" not in said:
                raise
            raise UserError(
                f"{said}: with it a resumed run would not be the uninterrupted one, bit for bit\n"
                "way out: deterministic: false in this stage's section, and resume to the rounding of sums"
            ) from None
        finally:
            torch.use_deterministic_algorithms(False)

    def describe(self) -> str:
        kind = (
            f"ZeRO-{self.zero_stage}" if self.zero_stage else "DDP" if self.world_size > 1 else "one process"
        )
        rows = f", {self.sequence_size} share each row" if self.sequence_size > 1 else ""
        return f"{kind}, {self.world_size} x {self.device.type}{rows}"


def start_runtime(
    threads: int | None = None, sequence_size: int = 1, timeout: float | None = None
) -> Runtime:
    """Join the process group that `accelerate launch` prepared (none for a plain `python -m`).

    threads: CPU threads of this process; None: cores divided by the local processes. sequence_size: neighbouring
    processes that share each row, which plan.data_processes has checked. timeout: seconds that a collective may wait,
    once the watch over the steps, which says more, has had the same; None: as the backend has it.

    Raises:
        UserError: a ZeRO stage of 0, which DeepSpeed would run without sharding.
    """
    from accelerate import PartialState

    has_gpu = torch.cuda.is_available()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be `repeatable`
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1 or zero_settings()["zero_stage"] is not None
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads or max(1, cores // local))
    if not has_gpu:
        _keep_freed_memory()
    group = {} if has_gpu or not launched else {"backend": "gloo"}
    if launched and timeout:
        group["timeout"] = timedelta(seconds=timeout + AFTER_THE_WATCH)
    state = PartialState(cpu=not has_gpu, **group)
    rank, world = state.process_index, state.num_processes
    group = _group_of(rank, world, sequence_size) if sequence_size > 1 else None
    return Runtime(
        rank, world, state.device, **zero_settings(), sequence_size=sequence_size, sequence_group=group
    )


def _group_of(rank: int, world: int, size: int) -> Any:
    """The group of `size` neighbours that this process is in; every process makes all of them, in the same order."""
    groups = [torch.distributed.new_group(range(first, first + size)) for first in range(0, world, size)]
    return groups[rank // size]


def _keep_freed_memory() -> None:
    """Let glibc's malloc keep what a step frees for the next one, unless the environment tells it what to do.

    By default it hands large blocks back to the kernel, which clears their pages anew: a sixth of the time of the
    quickstart's pretraining step in bf16, one process on two cores. Other C libraries are left as they are.
    """
    told = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and not told:
        mallopt(M_TRIM_THRESHOLD, NEVER)
        # Older releases refuse more than their limit, and once one of the two is set the other grows no more.
        mallopt(M_MMAP_THRESHOLD, NEVER) or mallopt(M_MMAP_THRESHOLD, OLD_LIMIT)


def zero_settings() -> dict[str, Any]:
    """What the launch file, or the DeepSpeed config it names, says of ZeRO; nothing without DeepSpeed."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") != "true":
        return {"zero_stage": None}
    settings = {
        "zero_stage": int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")),
        "offload_optimizer": os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none"),
        "offload_param": os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "none"),
    }
    if file := os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        own = json.loads(Path(file).read_text())
        names = {"zero_stage": "zero_stage", "offload_optimizer": "offload_optimizer_device"}
        names["offload_param"] = "offload_param_device"
        flat = flat_deepspeed(own)
        settings |= {ours: flat[theirs] for ours, theirs in names.items() if theirs in flat}
        settings["own_deepspeed"] = own
    if settings["zero_stage"] == 0:
        raise UserError(
            "zero_stage: 0 shards nothing\nexpected: 1, 2 or 3, or launch/ddp.yaml for plain data parallelism"
        )
    return settings


def stop_runtime() -> None:
    """Leave the process group; without it a finished ZeRO-3 run can end with a non-zero code."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def open_trackers(names: tuple[str, ...], run_name: str, logs: Path, config: dict[str, Any]) -> list[Any]:
    """accelerate's trackers by name, each with `log(values, step)` and `finish()`; their files go below `logs`."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    opened = []
    for name in names:
        kind = LOGGER_TYPE_TO_CLASS[name]
        tracker = kind(run_name, *([logs] if kind.requires_logging_directory else []))
        tracker.start()
        tracker.store_init_configuration({key: str(value) for key, value in config.items()})
        opened.append(tracker)
    return opened
