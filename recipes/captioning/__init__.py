"""The captioning family: words from pictures, by a vision encoder, a projector and a decoder."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.run.errors import UserError
from pipeline.run.stage import Stage
from recipes.captioning.config import CaptioningConfig
from recipes.common.stages import brought, image_stages, of
from recipes.common.start import of_captioned_pictures

CONFIG = CaptioningConfig
first_recipe = partial(of_captioned_pictures, "captioning/scenes")
HEADLINE = ("captions right", "chrF", "held-out nats a token")
USES = (
    "Look: {run}/sample/page.html",
    "Caption pictures of your own: headwater describe {run} PICTURE ...",
)


def stages(config: CaptioningConfig) -> tuple[Stage, ...]:
    """The stages of every image recipe, and one for the tokenizer and what makes a model's input of a picture."""
    processor = Stage(
        "processor",
        "recipes.captioning.processor",
        of(config, "model"),
        ("prepare",),
        reads=partial(brought, config.model.pretrained),
    )
    found = []
    for stage in image_stages(config):
        if stage.name in ("train", "evaluate", "sample", "export"):
            stage = replace(stage, inputs=(*stage.inputs, "processor"))
        if stage.name in ("sample", "export"):
            stage = replace(stage, module=f"recipes.captioning.{stage.name}")
        if stage.name in ("evaluate", "sample", "export"):
            stage = replace(stage, identity=stage.identity | of(config, "decoding"))
        found += [stage, processor] if stage.name == "prepare" else [stage]
    return tuple(found)


def described(config: CaptioningConfig, pictures: list[Path], question: str | None) -> list[str]:
    """What `headwater describe` says: a caption a picture."""
    if question is not None:
        raise UserError(
            "--ask: this model captions, its question is model.prompt\nway out: a run of recipes/vision_chat"
        )
    from recipes.captioning.describe import captions_of

    return captions_of(config, pictures)
