"""The only importer of accelerate and deepspeed: backward and update of one net, on any launcher.

Two engines with one face. `PlainEngine` is one process or DDP; `DeepSpeedEngine` is ZeRO 1, 2 and 3. Both average
gradients over processes, so the loop multiplies by the number of processes once, and both refuse to update on a
gradient that is not finite.
"""

from torch import nn

from pipeline.run.config import Loop, Optimizer
from pipeline.run.errors import UserError
from pipeline.run.plan import Batches, check_optimizer
from pipeline.train.engine.interface import STATE, Engine, NonFinite
from pipeline.train.engine.plain import PlainEngine
from pipeline.train.engine.runtime import Runtime, open_trackers, start_runtime, stop_runtime
from pipeline.train.engine.schedule_free import Average
from pipeline.train.engine.zero import DeepSpeedEngine
from pipeline.train.optimizer import parameter_groups

__all__ = [
    "STATE",
    "Average",
    "Engine",
    "NonFinite",
    "Runtime",
    "build_engine",
    "open_trackers",
    "start_runtime",
    "stop_runtime",
]


def build_engine(
    module: nn.Module, optimizer: Optimizer, training: Loop, batch: Batches, runtime: Runtime
) -> Engine:
    """The engine that fits the launcher.

    Raises:
        UserError: muon with clipping, or with no hidden matrix to update.
    """
    assert training.bf16 in (True, False), "bf16: auto is made definite when the recipe is opened"
    check_optimizer(optimizer, training.max_steps, training.ema_decay)
    module.to(runtime.device)
    groups = parameter_groups(module, optimizer)
    if optimizer.optim == "muon" and not any(group["use_muon"] for group in groups):
        raise UserError("optim: muon found no hidden matrix in this model\nway out: optim: adamw")
    if runtime.zero_stage:
        return DeepSpeedEngine(module, groups, optimizer, training, batch, runtime)
    return PlainEngine(module, groups, optimizer, training, runtime)
