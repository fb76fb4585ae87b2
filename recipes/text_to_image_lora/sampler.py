"""A base with what was learnt, as its own pipeline draws with it."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.text_to_image_lora.config import LoraConfig, Sampler

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Draw = Callable[[list[int], list[str]], np.ndarray]  # (seeds, prompts) -> uint8 (B, H, W, C)


def load_samplers(config: LoraConfig, prepared: Path, trained: Path) -> dict[str, Draw]:
    """The base with its adapters, of the EMA where there is one."""
    pipeline = load_learnt(config, trained)
    return {f"LoRA, {config.sampler.steps} steps": drawing(pipeline, config.sampler, config.data.image_size)}


def load_learnt(config: LoraConfig, trained: Path) -> "DiffusionPipeline":
    """The base's pipeline, its denoiser with the adapters of a published `train` artifact."""
    from safetensors.torch import load_file

    from recipes.text_to_image_lora.adapters import with_adapters
    from recipes.text_to_image_lora.bases import base_of, load_pipeline

    pipeline, base = load_pipeline(config.model.pretrained), base_of(config.model.pretrained)
    net = with_adapters(getattr(pipeline, base.net), base, config.train).eval()
    name = "model_ema" if config.train.ema_decay else "model"
    learnt = {
        key.removeprefix("net."): value for key, value in load_file(trained / f"{name}.safetensors").items()
    }
    wrong = net.load_state_dict(learnt, strict=False)
    missing = [key for key in wrong.missing_keys if "lora_" in key]
    assert not missing and not wrong.unexpected_keys, f"{name} and the base do not fit: {missing[:3]}"
    return pipeline.to(pipeline.device)


def drawing(pipeline: "DiffusionPipeline", settings: Sampler, side: int, negative: str | None = None) -> Draw:
    """A pipeline as (seeds, prompts) -> uint8 (B, H, W, C), each picture drawn alone, so that no other has a say."""
    import torch

    known = inspect.signature(pipeline.__call__).parameters
    more: dict[str, Any] = {}
    if "max_sequence_length" in known:
        more["max_sequence_length"] = settings.max_length
    if negative is not None and "negative_prompt" in known:
        more["negative_prompt"] = negative

    def draw(seeds: list[int], prompts: list[str]) -> np.ndarray:
        pictures = [
            pipeline(
                prompt,
                height=side,
                width=side,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
                **more,
            ).images[0]
            for seed, prompt in zip(seeds, prompts, strict=True)
        ]
        return (np.stack(pictures) * 255).round().astype(np.uint8)  # as diffusers' numpy_to_pil

    return draw
