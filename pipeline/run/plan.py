"""What can be refused or derived before a process group, a weight or a file: batches, rates, memory."""

import importlib.util
from dataclasses import dataclass

from pipeline.run.config import Loop, Optimizer
from pipeline.run.errors import UserError

# Samples of a micro-batch at most, where nobody said how many and no GPU's memory is to be filled.
UNPLANNED = 8


@dataclass(frozen=True)
class Batches:
    """How an optimizer step's samples are cut: `micro` samples a process, `accumulation` times."""

    micro: int
    accumulation: int

    @classmethod
    def derive(cls, training: Loop, world_size: int) -> "Batches":
        """Cut `train_batch_size` into equal micro-batches of at most `per_device_train_batch_size`.

        Where that is `auto`, of the most that divide, up to UNPLANNED; pipeline.run.microbatch plans for the machine.

        Raises:
            UserError: the samples of a step do not divide over the processes and micro-batches.
        """
        total, parts = training.train_batch_size, data_processes(training, world_size)
        share, rest = divmod(total, parts)
        if rest or not share:
            groups = "processes" if parts == world_size else f"groups of the {world_size} processes"
            raise UserError(
                f"train_batch_size {total} does not divide over {parts} {groups}\n"
                f"nearest: {max(1, round(total / parts)) * parts}, or another num_processes"
            )
        asked = training.per_device_train_batch_size
        micro = min(UNPLANNED if asked == "auto" else asked, share)
        fits = max(size for size in range(1, micro + 1) if share % size == 0)
        if asked == "auto":
            micro = fits
        if share % micro:
            raise UserError(
                f"per_device_train_batch_size {micro} does not divide the {share} samples a process has of "
                f"train_batch_size {total}\nnearest: {fits}"
            )
        return cls(micro, share // micro)


def data_processes(training: Loop, processes: int) -> int:
    """How many parts the samples of a step are divided into: the processes, or groups of them that share each row.

    Raises:
        UserError: the processes do not make whole groups.
    """
    size = getattr(training, "sequence_parallel_size", 1)
    if processes % size:
        raise UserError(
            f"sequence_parallel_size {size} does not divide the {processes} processes\n"
            f"way out: run.num_processes={max(1, processes // size) * size}, or another size"
        )
    return processes // size


def check_optimizer(optimizer: Optimizer, max_steps: int | None, ema_decay: float = 0.0) -> None:
    """Raises UserError for settings that cannot be honoured: on every launcher alike, or within `max_steps`.

    max_steps: None: not known yet; what depends on it is checked when it is. ema_decay: of the stage that it is in.
    """
    if optimizer.optim == "muon" and optimizer.max_grad_norm:
        raise UserError(
            "optim: muon with max_grad_norm: its updates have a fixed norm, and ZeRO forms them before clipping\n"
            "way out: max_grad_norm: 0"
        )
    if optimizer.optim == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "optim: adamw_8bit needs bitsandbytes, which is not installed\nway out: pip install bitsandbytes, or adamw"
        )
    if optimizer.optim == "schedule_free_adamw":
        if not optimizer.lr_scheduler_type.startswith("constant"):
            raise UserError(
                f"optim: schedule_free_adamw with lr_scheduler_type: {optimizer.lr_scheduler_type}: its average takes "
                "the schedule's place\nway out: lr_scheduler_type: constant, or constant_with_warmup"
            )
        if ema_decay:
            raise UserError(
                "optim: schedule_free_adamw with ema_decay: its weights are an average\nway out: ema_decay: 0"
            )
        if not optimizer.adam_beta1:
            raise UserError("optim: schedule_free_adamw with adam_beta1: 0\nexpected: more, such as 0.9")
    known = max_steps or 1_000_000  # shares of max_steps are checked alike
    warmup, decay = steps_of(optimizer.warmup_steps, known), steps_of(optimizer.decay_steps, known)
    if warmup + decay > known:
        raise UserError(
            f"warmup_steps {warmup} and decay_steps {decay} do not fit into max_steps {max_steps}\n"
            "way out: fewer, or shares of max_steps such as warmup_steps: 0.03"
        )
    kind = optimizer.lr_scheduler_type
    only = {"lr_power": "polynomial", "lr_num_cycles": "cosine_with_restarts", "lr_decay_type": "wsd"}
    for name, owner in only.items():
        if getattr(optimizer, name) != type(optimizer).model_fields[name].default and kind != owner:
            raise UserError(
                f"{name} with lr_scheduler_type: {kind}\nway out: lr_scheduler_type: {owner}, or no {name}"
            )
    if kind == "constant_with_warmup" and not warmup:
        raise UserError(
            "lr_scheduler_type: constant_with_warmup without a warm-up\nway out: warmup_steps, or constant"
        )
    if decay and optimizer.lr_scheduler_type != "wsd":
        raise UserError(
            f"decay_steps {decay} with lr_scheduler_type: {optimizer.lr_scheduler_type}, which decays from the "
            "warm-up on\nway out: lr_scheduler_type: wsd, or no decay_steps"
        )


def steps_of(length: int | float, max_steps: int) -> int:
    """`length` in optimizer steps: as it is, or below 1 a share of `max_steps`."""
    return round(length * max_steps) if length < 1 else round(length)
