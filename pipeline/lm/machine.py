"""What the machine decides of a language model's recipe before its model is known: whether layers are compiled."""

import importlib.util
import shutil

from pipeline.lm.config import LanguageModelConfig, Pretrain, Tuning
from pipeline.run.config import Training
from pipeline.run.launch import compiler_of, read_launch

# Measured on 2 cores of a Zen 5 CPU: compiled layers of the quickstart are 1.2 times as fast as layers as they are in
# bf16, 1.1 in fp32, after 14 to 22 s.
LONG_RUN = 300


def fitted(config: LanguageModelConfig) -> LanguageModelConfig:
    """`config` with no `torch_compile: auto` left in it; what a user writes stays."""
    changes = {
        name: training.model_copy(update={"torch_compile": compiling_pays(config, training)})
        for name, training in config.trainings.items()
        if training.torch_compile == "auto"
    }
    return config.model_copy(update=changes)


def compiling_pays(config: LanguageModelConfig, training: Pretrain | Tuning) -> bool:
    """Whether there is a compiler, and a run that is long enough for what compiling costs.

    Not where epochs are asked for, whose steps are known later; not under ZeRO-3, which gathers weights in the middle
    of a layer, nor where activations are computed twice or processes share rows.
    """
    if (training.max_steps or 0) < LONG_RUN or training.gradient_checkpointing:
        return False
    if training.sequence_parallel_size > 1:
        return False
    if read_launch(config.run).zero_stage == 3:
        return False
    return importlib.util.find_spec("triton") is not None if _on_gpu() else bool(shutil.which(compiler_of()))


def compiled(training: Training, packed: bool) -> bool:
    """Whether layers are compiled: a scan over the positions of a row that is not packed is no graph."""
    return bool(training.torch_compile) and packed


def kernels(attention: str, training: Training, packed: bool = True) -> str:
    """What was decided, in words for the plan."""
    return f"{attention} attention, layers {'' if compiled(training, packed) else 'not '}compiled"


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
