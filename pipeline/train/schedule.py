"""Learning rates as closed forms of the step: what a schedule gives at step s needs no history."""

import math

from pipeline.run.config import Optimizer
from pipeline.run.plan import steps_of


def learning_rate_factor(step: int, max_steps: int, optimizer: Optimizer) -> float:
    """The learning rate of update `step` (0-based, of `max_steps`) over the peak, in [0, 1].

    Warm-up is linear and reaches the peak at update `warmup_steps`. After it, with x the share of the remaining
    updates done: constant 1; linear 1 - x; cosine (1 + cos pi x) / 2 (SGDR, arXiv:1608.03983); wsd 1 until the last
    `decay_steps` updates, then linear (MiniCPM, arXiv:2404.06395). All but constant end at `min_lr_ratio`.
    """
    warmup = steps_of(optimizer.warmup_steps, max_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    floor = optimizer.min_lr_ratio
    decay = steps_of(optimizer.decay_steps, max_steps)
    return floor + (1 - floor) * _shape(optimizer.lr_scheduler_type, step - warmup, max_steps - warmup, decay)


def _shape(kind: str, step: int, steps: int, decay: int) -> float:
    """From 1 at step 0 down to 0 at step `steps`, one past the last update."""
    if kind == "constant":
        return 1.0
    if kind == "linear":
        return 1 - step / steps
    if kind == "cosine":
        return (1 + math.cos(math.pi * step / steps)) / 2
    return min(1.0, (steps - step) / max(decay, 1))
