"""The text-to-image family: pictures from captions, on the diffusion family's losses and samplers."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.run.stage import Stage
from recipes.common.stages import brought, image_stages, of
from recipes.common.start import of_captioned_pictures
from recipes.diffusion import DRAWING
from recipes.text_to_image.config import TextToImageConfig

CONFIG = TextToImageConfig
first_recipe = partial(of_captioned_pictures, "text_to_image/scenes")
HEADLINE = (
    "captions drawn right, held out",
    "pictures found by their caption, held out",
    "captions found by their picture, held out",
    "Frechet distance, retrieval features",
    "held-out error",
)
USES = (
    "Look: {run}/sample/page.html",
    "Draw: headwater draw {run} 'CAPTION' OUT --count 8",
    "See how a picture comes about: headwater explain {run} 'CAPTION' OUT.html",
)


def stages(config: TextToImageConfig) -> tuple[Stage, ...]:
    """The stages of every image recipe; captions as tokens, and the nets that scores look through."""
    captions = Stage(
        "captions",
        "recipes.text_to_image.captions",
        of(config, "text"),
        ("prepare",),
        reads=partial(brought, config.text.pretrained),
    )
    retrieval = Stage(
        "retrieval",
        "recipes.text_to_image.retrieval",
        of(config, "retrieval"),
        ("prepare", "captions"),
        True,
    )
    sampler, found = of(config, "sampler"), []
    for stage in image_stages(config):
        if stage.name in DRAWING:
            stage = replace(stage, identity=stage.identity | sampler)
        if stage.name in ("train", "evaluate"):
            stage = replace(stage, inputs=(*stage.inputs, "captions"))
        if stage.name in ("evaluate", "sample"):
            stage = replace(stage, inputs=(*stage.inputs, "retrieval"))
        if stage.name == "sample":
            stage = replace(stage, module="recipes.text_to_image.sample")
        found += [stage, captions, retrieval] if stage.name == "prepare" else [stage]
    return tuple(found)


def drawn(
    config: TextToImageConfig, request: str, out: Path, count: int, seed: int, negative: str | None
) -> str:
    """What `headwater draw` does and says."""
    from recipes.text_to_image.draw import write_drawn

    return write_drawn(config, request, out, count, seed, negative)


def explained(config: TextToImageConfig, text: str, out: Path) -> str:
    """What `headwater explain` does and says."""
    from recipes.text_to_image.explain import write_explained

    return write_explained(config, text, out)
