"""Low-rank adapters through peft: which modules they reach, checked on an empty model before any weight loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.lm.config import Lora
from pipeline.run.errors import UserError, nearest

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel


def add_adapters(model: PreTrainedModel, lora: Lora) -> PeftModel:
    """`model` with fresh adapters; everything else is frozen. A fresh adapter changes nothing: B is zero."""
    import peft

    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        fan_in_fan_out=any(
            _kind(module) == "Conv1D" for module in model.modules()
        ),  # GPT-2 stores its matrices so
        exclude_modules=_never_adapted(model) if lora.target_modules == "all-linear" else None,
    )
    return peft.get_peft_model(model, settings)


def _never_adapted(model: PreTrainedModel) -> list[str] | None:
    """Linear modules that `all-linear` leaves out.

    What state-space layers end with, which their kernels read themselves, so that peft refuses to adapt it; and routers
    that are linear modules by inheritance, but return more than a product.
    """
    from torch import nn

    modules = dict(model.named_modules())
    state_space = any(name.endswith("conv1d") for name in modules)
    routers = [
        name
        for name, module in modules.items()
        if isinstance(module, nn.Linear) and "Router" in _kind(module)
    ]
    return [*(["out_proj"] if state_space else []), *routers] or None


def check_targets(config: PretrainedConfig, lora: Lora) -> None:
    """Raises UserError where a target names no linear module of the architecture."""
    import torch
    from transformers import AutoModelForCausalLM

    if isinstance(lora.target_modules, str):
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _is_linear(module)}
    for target in lora.target_modules:
        if target not in names:
            raise UserError(
                f"finetune.lora.target_modules: {target!r} matches no linear module\n{nearest(target, names)}"
            )


def _is_linear(module: Any) -> bool:
    return _kind(module) in ("Linear", "Conv1D")


def _kind(module: Any) -> str:
    return type(module).__name__


def save_adapter(model: PeftModel, directory: Path, base: Path) -> None:
    """Write the adapter alone; it names the directory of the weights it belongs to."""
    for settings in model.peft_config.values():
        settings.base_model_name_or_path = str(base)
        if not isinstance(settings.target_modules, str):
            settings.target_modules = sorted(
                settings.target_modules
            )  # a set's order would differ between runs
    model.save_pretrained(directory, save_embedding_layers=False)
