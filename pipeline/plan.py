"""What can be refused or derived before a process group, a weight or a file: batches, rates, memory."""

from dataclasses import dataclass

from pipeline.config import Loop, Optimizer
from pipeline.errors import UserError


@dataclass(frozen=True)
class Batches:
    """How an optimizer step's samples are cut: `micro` samples a process, `accumulation` times."""

    micro: int
    accumulation: int

    @classmethod
    def derive(cls, training: Loop, world_size: int) -> "Batches":
        """Cut `train_batch_size` into equal micro-batches of at most `per_device_train_batch_size`.

        Raises:
            UserError: the samples of a step do not divide over the processes and micro-batches.
        """
        total = training.train_batch_size
        share, rest = divmod(total, world_size)
        if rest or not share:
            raise UserError(
                f"train_batch_size {total} does not divide over {world_size} processes\n"
                f"nearest: {max(1, round(total / world_size)) * world_size}, or another num_processes"
            )
        micro = min(training.per_device_train_batch_size, share)
        if share % micro:
            fits = max(size for size in range(1, micro + 1) if share % size == 0)
            raise UserError(
                f"per_device_train_batch_size {micro} does not divide the {share} samples a process has of "
                f"train_batch_size {total}\nnearest: {fits}"
            )
        return cls(micro, share // micro)


def check_optimizer(optimizer: Optimizer) -> None:
    """Raises UserError for settings that cannot be honoured alike on every launcher."""
    if optimizer.optim == "muon" and optimizer.max_grad_norm:
        raise UserError(
            "optim: muon with max_grad_norm: its updates have a fixed norm, and ZeRO forms them before clipping\n"
            "way out: max_grad_norm: 0"
        )
