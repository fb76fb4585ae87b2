"""The published directory: a diffusers pipeline with its own code, which loads without this repository."""

from pathlib import Path
from typing import TYPE_CHECKING

from recipes.diffusion.config import DiffusionConfig

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from recipes.diffusion.pipeline import ClassConditionalPipeline
    from recipes.diffusion.sampler import Draw

TAGS = {"library_name": "diffusers", "pipeline_tag": "unconditional-image-generation", "tags": ["diffusion"]}
USAGE = """from diffusers import DiffusionPipeline

# pipeline.py in this directory adds classes, guidance and seeds to diffusers; it runs when you trust it.
pipeline = DiffusionPipeline.from_pretrained("DIRECTORY", custom_pipeline="DIRECTORY", trust_remote_code=True)
images = pipeline(seeds=[0, 1, 2], class_labels=[0, 1, 2]).images  # without class_labels: of no class in particular
images[0].save("picture.png")"""


def write(config: DiffusionConfig, prepared: Path, trained: Path, out: Path) -> None:
    """model_index.json, unet/ or transformer/, scheduler/, and pipeline.py for classes, guidance and seeds."""
    from recipes.diffusion.sampler import load_net, pipeline_of
    from recipes.diffusion.shapes import null_label

    net, shape = load_net(config, trained)
    write_pipeline(pipeline_of(config, net, null_label(config.model.net, shape.classes), config.sampler), out)


def write_pipeline(pipeline: "ClassConditionalPipeline", out: Path) -> None:
    """Its parts, and pipeline.py."""
    pipeline.save_pretrained(out)
    write_code(pipeline, out / "pipeline.py")


def write_code(pipeline: "DiffusionPipeline", file: Path) -> None:
    """What the pipeline's class needs, as one file that imports nothing of ours."""
    from recipes.common.bundle import bundled

    modules = ["recipes.diffusion.denoising", type(pipeline).__module__]
    file.write_text(bundled(modules, "Pictures from noise, as a diffusers pipeline."), "utf-8")


def load(directory: Path) -> "Draw":
    """The directory's sampler, by diffusers alone: (seeds, labels) -> uint8 (B, H, W, C)."""
    from diffusers import DiffusionPipeline

    from recipes.diffusion.sampler import drawing

    pipeline = DiffusionPipeline.from_pretrained(
        directory, custom_pipeline=str(directory), trust_remote_code=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return drawing(pipeline)
