"""Learning rates as closed forms of the step: what a schedule gives at step s needs no history."""

import math

from pipeline.run.config import Optimizer
from pipeline.run.plan import steps_of

TIMESCALE = 10_000  # of inverse_sqrt without a warm-up, as transformers has it


def learning_rate_factor(step: int, max_steps: int, optimizer: Optimizer) -> float:
    """The learning rate of update `step` (0-based, of `max_steps`) over the peak, in [0, 1].

    Warm-up is linear and reaches the peak at update `warmup_steps`. After it, with x the share of the remaining
    updates done: constant (by either name) 1; linear 1 - x; polynomial (1 - x)^lr_power; cosine (1 + cos pi x) / 2
    (SGDR, arXiv:1608.03983), with restarts of lr_num_cycles times x modulo 1; inverse_sqrt falls with the root of the
    step; wsd is 1 until the last `decay_steps` updates (MiniCPM, arXiv:2404.06395) and then linear, a cosine or
    1 - sqrt of the decay's share done (arXiv:2405.18392). All but constant and inverse_sqrt end at `min_lr_ratio`.
    """
    warmup = steps_of(optimizer.warmup_steps, max_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    floor = optimizer.min_lr_ratio
    return floor + (1 - floor) * _shape(optimizer, step, warmup, max_steps)


def _shape(optimizer: Optimizer, step: int, warmup: int, max_steps: int) -> float:
    """From 1 after the warm-up down to 0 at `max_steps`, one past the last update."""
    done = (step - warmup) / (max_steps - warmup)
    kind = optimizer.lr_scheduler_type
    if kind.startswith("constant"):
        return 1.0
    if kind == "linear":
        return 1 - done
    if kind == "polynomial":
        return (1 - done) ** optimizer.lr_power
    if kind == "cosine":
        return _half_a_cosine(done)
    if kind == "cosine_with_restarts":
        return _half_a_cosine(optimizer.lr_num_cycles * done % 1.0) if done < 1 else 0.0
    if kind == "inverse_sqrt":
        timescale = warmup or TIMESCALE
        return math.sqrt(timescale / (step - warmup + timescale))
    decay = steps_of(optimizer.decay_steps, max_steps)
    left = min(1.0, (max_steps - step) / max(decay, 1))
    if optimizer.lr_decay_type == "linear":
        return left
    return _half_a_cosine(1 - left) if optimizer.lr_decay_type == "cosine" else 1 - math.sqrt(1 - left)


def _half_a_cosine(done: float) -> float:
    return (1 + math.cos(math.pi * done)) / 2
