"""The design family: pictures by request, on the diffusion family's nets and samplers."""

from dataclasses import replace
from pathlib import Path

from pipeline.run.errors import UserError
from pipeline.run.stage import Stage
from recipes.common.stages import image_stages, of
from recipes.design.config import DesignConfig
from recipes.diffusion import DRAWING

CONFIG = DesignConfig
HEADLINE = ("requests met", "variety within a request", "Frechet distance, classifier features")
USES = (
    "Choose on a page: {run}/sample/page.html",
    "Ask for more: headwater draw {run} 'tone=dark' OUT; headwater vary {run} 17 OUT; headwater blend {run} 17 42 OUT",
)


def stages(config: DesignConfig) -> tuple[Stage, ...]:
    """The stages of every image recipe, and one that says what can be asked of each picture."""
    table = config.attributes.table
    reads = {Path(table).name: Path(table).expanduser()} if table else {}
    attributes = Stage(
        "attributes",
        "recipes.design.attributes",
        of(config, "attributes"),
        ("prepare",),
        reads=lambda: reads,
    )
    sampler, found = of(config, "sampler"), []
    for stage in image_stages(config):
        if stage.name in DRAWING:
            stage = replace(stage, identity=stage.identity | sampler)
        if stage.name in ("train", "evaluate", "sample"):
            stage = replace(stage, inputs=(*stage.inputs, "attributes"))
        if stage.name == "sample":
            seen = ("features",) if config.features else ()
            stage = replace(stage, module="recipes.design.sample", inputs=(*stage.inputs, *seen))
        found += [stage, attributes] if stage.name == "prepare" else [stage]
    return tuple(found)


def drawn(config: DesignConfig, request: str, out: Path, count: int, seed: int, negative: str | None) -> str:
    """What `headwater draw` does and says."""
    from recipes.design.explore import write_drawn

    if negative is not None:
        raise UserError("--negative: a design is asked for by values\nway out: leave it out")

    return write_drawn(config, request, out, count, seed)


def varied(config: DesignConfig, design: str, out: Path, count: int, strength: float, seed: int) -> str:
    """What `headwater vary` does and says."""
    from recipes.design.explore import write_varied

    return write_varied(config, design, out, count, strength, seed)


def blended(config: DesignConfig, first: str, second: str, out: Path, count: int) -> str:
    """What `headwater blend` does and says."""
    from recipes.design.explore import write_blended

    return write_blended(config, first, second, out, count)
