"""The text-to-image LoRA family: a published diffusers pipeline learns a few pictures, or a style, in its denoiser."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.run.stage import Stage
from recipes.common.stages import brought, image_stages, of
from recipes.diffusion import DRAWING
from recipes.text_to_image_lora.config import LoraConfig

CONFIG = LoraConfig
HEADLINE = ("error of the prediction, held out", "error of the prediction, training")
USES = ("Draw: headwater draw {run} 'PROMPT' OUT --count 4",)


def stages(config: LoraConfig) -> tuple[Stage, ...]:
    """The stages of every image recipe; pictures and captions as the base's own encoders see them, computed once."""
    embed = Stage(
        "embed",
        "recipes.text_to_image_lora.embed",
        of(config, "model", "embed"),
        ("prepare",),
        reads=partial(brought, config.model.pretrained),
    )
    sampler, found = of(config, "model", "sampler"), []
    for stage in image_stages(config):
        if stage.name in DRAWING:
            stage = replace(stage, identity=stage.identity | sampler)
        if stage.name in ("train", "evaluate"):
            stage = replace(stage, inputs=(*stage.inputs, "embed"))
        if stage.name == "sample":
            stage = replace(stage, module="recipes.text_to_image_lora.sample")
        found += [stage, embed] if stage.name == "prepare" else [stage]
    return tuple(found)


def drawn(config: LoraConfig, request: str, out: Path, count: int, seed: int, negative: str | None) -> str:
    """What `headwater draw` does and says."""
    from recipes.text_to_image_lora.sample import write_drawn

    return write_drawn(config, request, out, count, seed, negative)
