"""The model: LLaVA's classes with fresh weights, or a pretrained one, with adapters where they are asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.run.errors import UserError
from recipes.captioning.config import Model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

    from pipeline.lm.config import Lora

DIRECTORY = "model"


def config_of(
    model: Model, image_size: int, channels: int, vocabulary: int, image_token: int
) -> "PretrainedConfig":
    """The config of a model with fresh weights."""
    from transformers import LlamaConfig, LlavaConfig, SiglipVisionConfig

    vision = SiglipVisionConfig(
        **model.vision.model_dump(),
        intermediate_size=4 * model.vision.hidden_size,
        image_size=image_size,
        patch_size=model.patch_size,
        num_channels=channels,
        vision_use_head=False,
    )
    text = LlamaConfig(
        **model.text.model_dump(),
        intermediate_size=4 * model.text.hidden_size,
        vocab_size=vocabulary,
        pad_token_id=1,
        bos_token_id=None,
        eos_token_id=0,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=(image_size // model.patch_size) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )


def pretrained_config(name: str) -> "PretrainedConfig":
    """Raises UserError where `name` is no model of pictures and text, here or on the Hub."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        config = AutoConfig.from_pretrained(Path(name).expanduser())
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.pretrained: {name}: {' '.join(str(error).split())[:200]}\n"
            "expected: a directory, or a name that this machine has or can reach"
        ) from None
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise UserError(
            f"model.pretrained: {name} is a {config.model_type}, which takes no pictures\n"
            "expected: a model that transformers loads as AutoModelForImageTextToText"
        )
    return config


def begun(config: "PretrainedConfig", pretrained: str | None, lora: "Lora | None") -> Any:
    """The model that training begins with, fp32; without weights where only shapes are asked (the meta device)."""
    from transformers import AutoModelForImageTextToText

    from pipeline.lm.tuning.lora import add_adapters

    counted_only = torch.get_default_device().type == "meta"
    if pretrained and not counted_only:
        model = AutoModelForImageTextToText.from_pretrained(
            Path(pretrained).expanduser(), dtype=torch.float32, use_safetensors=True
        )
    else:
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    _freeze_unread(model)
    return add_adapters(model, lora) if lora else model


def _freeze_unread(model: "PreTrainedModel") -> None:
    """SigLIP's last normalisation is behind the layer that is read: it gets no gradient, and DDP would wait for one."""
    for name, module in model.named_modules():
        if name.endswith("vision_model.post_layernorm") or name.endswith("vision_tower.post_layernorm"):
            module.requires_grad_(False)


def save(net: Any, weights: "dict[str, Tensor]", lora: "Lora | None", out: Path) -> None:
    """Write a directory that AutoModelForImageTextToText loads, with trained weights, adapters merged."""
    from pipeline.lm.model import load_weights

    load_weights(net, weights)
    (net.model.merge_and_unload() if lora else net.model).save_pretrained(out / DIRECTORY)


def load(directory: Path) -> "PreTrainedModel":
    """The model of a published `train` artifact, or of an export, on the GPU where there is one."""
    from transformers import AutoModelForImageTextToText

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval().to(device)
