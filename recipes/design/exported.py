"""The published directory: a diffusers pipeline with its own code, and requests in words."""

import shutil
from pathlib import Path

from pipeline.run.files import write_json
from recipes.design.config import DesignConfig
from recipes.diffusion.exported import load as load
from recipes.diffusion.exported import write_pipeline

GOLDEN = (5**0.5 - 1) / 2
TAGS = {
    "library_name": "diffusers",
    "pipeline_tag": "unconditional-image-generation",
    "tags": ["diffusion", "attributes"],
}
USAGE = """import sys

from diffusers import DiffusionPipeline

sys.path.insert(0, "DIRECTORY")  # asked.py turns a request into a label; attributes.json says what can be asked for
from asked import attributes_of, label_of

# pipeline.py in this directory adds requests, guidance and seeds to diffusers; it runs when you trust it.
pipeline = DiffusionPipeline.from_pretrained("DIRECTORY", custom_pipeline="DIRECTORY", trust_remote_code=True)
label = label_of(attributes_of("DIRECTORY"), "tone=dark, size=large")
images = pipeline(seeds=[0, 1, 2], class_labels=[label] * 3).images
images[0].save("picture.png")"""


def write(config: DesignConfig, prepared: Path, trained: Path, out: Path) -> None:
    """model_index.json, unet/ or transformer/, scheduler/, pipeline.py, asked.py, attributes.json."""
    from recipes.design import asked
    from recipes.design.sampler import load_pipeline

    pipeline, attributes = load_pipeline(config, trained)
    write_pipeline(pipeline, out)
    shutil.copy(asked.__file__, out / "asked.py")
    write_json(out / asked.FILE, {"attributes": [vars(attribute) for attribute in attributes]})


def labels(prepared: Path, trained: Path, count: int) -> list[int]:
    """Of the pictures that the export is compared by: every table of values has a say in them, and what is open."""
    from recipes.common.training import NETS
    from recipes.design.asked import attributes_in, labels_in

    there = labels_in(attributes_in(trained / NETS))
    return [int(there * (place * GOLDEN % 1)) for place in range(count)]  # spread over all digits alike
