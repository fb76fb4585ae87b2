"""The published directory: a diffusers pipeline with its own code, which loads without this repository."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.run.files import write_json
from recipes.diffusion.exported import write_code
from recipes.text_to_image.captions import captions_of
from recipes.text_to_image.config import TextToImageConfig

if TYPE_CHECKING:
    from recipes.text_to_image.sampler import Draw

CODE, INDEX = "text_to_image_pipeline", "model_index.json"
TAGS = {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": ["diffusion"]}
USAGE = """from diffusers import DiffusionPipeline

# text_to_image_pipeline.py in this directory draws by seeds and this tokenizer; it runs when you trust it.
pipeline = DiffusionPipeline.from_pretrained("DIRECTORY", trust_remote_code=True)
images = pipeline("PROMPT", negative_prompt="", seeds=[0, 1, 2]).images
images[0].save("picture.png")"""


def write(config: TextToImageConfig, prepared: Path, trained: Path, out: Path) -> None:
    """model_index.json, tokenizer/, text_encoder/, unet/ or transformer/, scheduler/, and the pipeline's code."""
    from recipes.text_to_image.sampler import load_net, pipeline_of

    pipeline = pipeline_of(config, *load_net(config, trained), trained, config.sampler)
    pipeline.save_pretrained(out)
    write_code(pipeline, out / f"{CODE}.py")
    # Named by file and class: of files of one name diffusers keeps the classes of the first that a process has loaded.
    index = json.loads((out / INDEX).read_text("utf-8"))
    write_json(out / INDEX, index | {"_class_name": [CODE, type(pipeline).__name__]})


def load(directory: Path) -> "Draw":
    """The directory's sampler, by diffusers alone: (seeds, captions) -> uint8 (B, H, W, C)."""
    from diffusers import DiffusionPipeline

    from recipes.text_to_image.sampler import by_name

    pipeline = DiffusionPipeline.from_pretrained(directory, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    return by_name(pipeline)


def labels(prepared: Path, trained: Path, count: int) -> list[str]:
    """The captions by which an export is compared: held-out ones in turn."""
    captions = captions_of(prepared, "held_out")
    return [captions[place % len(captions)] for place in range(count)]
