"""Low-rank adapters through peft: which modules they reach, checked on an empty model before any weight loads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.lm.config import Lora
from pipeline.run.errors import UserError, nearest
from pipeline.run.files import write_json

CODES = "quantisation.json"  # of an adapter that was trained on a base in codes: how they were made

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def quiet_bitsandbytes() -> None:
    """Keep bitsandbytes, which peft imports too, from saying that a kernel is missing which nothing here calls."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def add_adapters(
    model: PreTrainedModel,
    lora: Lora,
    new_tokens: list[int] | None = None,
    task_type: str | None = "CAUSAL_LM",
) -> PeftModel:
    """`model` with fresh adapters; everything else is frozen. A fresh adapter changes nothing: B is zero.

    new_tokens: ids whose rows of embeddings and head are trained as well, and saved with the adapter; task_type:
    peft's name of what the model is for.
    """
    quiet_bitsandbytes()
    import peft

    left = _never_adapted(model) if lora.target_modules == "all-linear" else []
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    if lora.layers_to_transform is not None and targets == "all-linear":  # peft wants names beside numbers
        targets = sorted(_linear_within(model))
    settings = peft.LoraConfig(
        task_type=task_type,
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        layers_to_transform=list(lora.layers_to_transform) if lora.layers_to_transform is not None else None,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        modules_to_save=list(lora.modules_to_save) or None,
        init_lora_weights=True if lora.init_lora_weights == "default" else lora.init_lora_weights,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        fan_in_fan_out=any(
            _kind(module) == "Conv1D" for module in model.modules()
        ),  # GPT-2 stores its matrices so
        exclude_modules=[*lora.exclude_modules, *left] or None,
        target_parameters=list(lora.target_parameters) or None,
        trainable_token_indices=_rows_of(model, new_tokens) if new_tokens else None,
    )
    adapted = peft.get_peft_model(model, settings)
    if lora.loraplus_lr_ratio != 1:
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.rate = lora.loraplus_lr_ratio  # pipeline.train.optimizer reads it
    return adapted


def _rows_of(model: PreTrainedModel, tokens: list[int]) -> dict[str, list[int]]:
    """The tokens by the names of the modules that have a row for each; of tied ones peft follows the first."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    ends = [embedding] if head.weight is embedding.weight else [embedding, head]
    names = {id(module): name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    return {names[id(end)]: list(tokens) for end in ends}


def _linear_within(model: PreTrainedModel) -> set[str]:
    """Names of the linear modules before the output head."""
    head = model.get_output_embeddings()
    return {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if _is_linear(module) and module is not head
    }


def _never_adapted(model: PreTrainedModel) -> list[str]:
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
    return [*(["out_proj"] if state_space else []), *routers]


def check_targets(model: PreTrainedModel, lora: Lora, section: str = "finetune.lora") -> None:
    """Refuse names that reach nothing in the model, empty or not, which peft would pass over in silence.

    Raises:
        UserError: a target or a pattern names no linear module, or no tensor, a module to save or to exclude is not
            there or is tied to another, a layer has a number that no layer has.
    """
    modules = {name.rsplit(".", 1)[-1]: module for name, module in model.named_modules() if name}
    linear = {name for name, module in modules.items() if _is_linear(module)}
    asked = {
        "target_modules": () if isinstance(lora.target_modules, str) else lora.target_modules,
        "rank_pattern": lora.rank_pattern,
        "alpha_pattern": lora.alpha_pattern,
    }
    for key, names in asked.items():
        for name in names:
            if name not in linear:
                raise UserError(
                    f"{section}.{key}: {name!r} matches no linear module\n{nearest(name, linear)}"
                )
    tensors = [name for name, parameter in model.named_parameters() if parameter.dim() == 3]
    for name in lora.target_parameters:
        if not any(tensor.endswith(f".{name}") for tensor in tensors):
            known = sorted({".".join(tensor.split(".")[-2:]) for tensor in tensors})
            raise UserError(
                f"{section}.target_parameters: {name!r} matches no tensor of three dimensions\n"
                + (
                    nearest(name, known)
                    if known
                    else "this model has none: target_modules reach all its matrices"
                )
            )
    for key in ("exclude_modules", "modules_to_save"):
        for name in getattr(lora, key):
            if name not in modules:
                raise UserError(f"{section}.{key}: {name!r} matches no module\n{nearest(name, modules)}")
    ends = (model.get_output_embeddings(), model.get_input_embeddings())
    both = [name for name in lora.modules_to_save if modules[name] in ends]
    if both and ends[0].weight is ends[1].weight:
        raise UserError(
            f"{section}.modules_to_save: {both[0]} is one weight for input and output in this model\n"
            "way out: train all weights, or leave it out"
        )
    layers = model.config.get_text_config().num_hidden_layers
    if beyond := [number for number in lora.layers_to_transform or () if not 0 <= number < layers]:
        raise UserError(
            f"{section}.layers_to_transform: {beyond[0]} is no layer\nexpected: 0 to {layers - 1}"
        )


def _is_linear(module: Any) -> bool:
    return _kind(module) in ("Linear", "Conv1D", "QuantisedLinear")


def _kind(module: Any) -> str:
    return type(module).__name__


def save_adapter(model: PeftModel, directory: Path, base: Path, lora: Lora) -> None:
    """Write the adapter alone; it names the directory of the weights it belongs to.

    `quantisation.json` says how these were stored in codes, where they were.
    """
    for settings in model.peft_config.values():
        settings.base_model_name_or_path = str(base)
        if not isinstance(settings.target_modules, str):
            settings.target_modules = sorted(
                settings.target_modules
            )  # a set's order would differ between runs
    model.save_pretrained(directory, save_embedding_layers=False)
    if lora.quantisation:
        stored = {name: getattr(lora, name) for name in ("quantisation", "double_quantisation")}
        write_json(directory / CODES, stored)
