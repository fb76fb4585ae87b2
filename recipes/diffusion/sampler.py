"""The samplers of a trained recipe, by what a reader calls them: the published pipeline around its weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recipes.common.images.shape import Shape
from recipes.common.training import NETS
from recipes.diffusion.config import DiffusionConfig, Sampler
from recipes.diffusion.nets import build_net
from recipes.diffusion.samplers import scheduler_of, title
from recipes.diffusion.shapes import null_label

if TYPE_CHECKING:
    from torch import nn

    from recipes.diffusion.pipeline import ClassConditionalPipeline

Draw = Callable[[list[int], list[int]], np.ndarray]  # (seeds, labels) -> uint8 (B, H, W, C)
CHUNK = 50  # pictures of one forward, always


def load_samplers(config: DiffusionConfig, prepared: Path, trained: Path) -> dict[str, Draw]:
    """The recipe's own sampler, then the others; all with the EMA's weights where there are some."""
    net, shape = load_net(config, trained)
    return samplers_of(config, net, null_label(config.model.net, shape.classes))


def samplers_of(config: DiffusionConfig, net: "nn.Module", null: int | None) -> dict[str, Draw]:
    """The same of a net that is loaded; null: the label of no class."""
    weights = "EMA" if config.train.ema_decay else "last step"
    return {
        f"{weights}, {title(sampler)}": drawing(pipeline_of(config, net, null, sampler))
        for sampler in (config.sampler, *config.sampler.others)
    }


def load_net(config: DiffusionConfig, trained: Path) -> tuple["nn.Module", Shape]:
    """The net of a published `train` artifact, fp32, with the EMA's weights where there are some."""
    from safetensors.torch import load_file

    shape = Shape(**json.loads((trained / NETS).read_text())["shape"])
    net = build_net(config.model.net, shape)
    name = "model_ema" if config.train.ema_decay else "model"
    net.load_state_dict(load_file(trained / f"{name}.safetensors"))
    return net.eval(), shape


def pipeline_of(
    config: DiffusionConfig, net: "nn.Module", null_label: int | None, sampler: Sampler
) -> "ClassConditionalPipeline":
    """The pipeline around a net that exists; it turns no progress bar."""
    from recipes.diffusion.config import Unet
    from recipes.diffusion.pipeline import ClassConditionalPipeline

    name = "unet" if isinstance(config.model.net, Unet) else "transformer"
    pipeline = ClassConditionalPipeline(
        scheduler_of(config.model, sampler.name),
        null_label=null_label,
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance,
        batch_size=CHUNK,
        **{name: net},
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawing(pipeline: "ClassConditionalPipeline") -> Draw:
    """A pipeline as (seeds, labels) -> uint8 (B, H, W, C)."""

    def draw(seeds: list[int], labels: list[int]) -> np.ndarray:
        given = None if pipeline.config.null_label is None else labels
        images = pipeline(seeds, given, output_type="np").images
        return (images * 255).round().astype(np.uint8)  # as diffusers' numpy_to_pil

    return draw
