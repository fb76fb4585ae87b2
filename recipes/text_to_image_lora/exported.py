"""The published directory: adapters that diffusers loads onto their base, compared with the live model before."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.run.files import write_json
from recipes.text_to_image_lora.config import LoraConfig, Sampler

if TYPE_CHECKING:
    from recipes.text_to_image_lora.sampler import Draw

FILE, FACTS = "pytorch_lora_weights.safetensors", "lora.json"
TAGS = {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": ["lora", "diffusers"]}
USAGE = """from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("BASE")  # lora.json says which
pipeline.load_lora_weights("DIRECTORY")
pipeline("PROMPT").images[0].save("picture.png")"""


def write(config: LoraConfig, prepared: Path, trained: Path, out: Path) -> None:
    """pytorch_lora_weights.safetensors, and lora.json with the base and how it draws."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    from recipes.text_to_image_lora.bases import base_of
    from recipes.text_to_image_lora.sampler import load_learnt

    base, pipeline = base_of(config.model.pretrained), load_learnt(config, trained)
    net = getattr(pipeline, base.net)
    adapters = get_peft_model_state_dict(net)
    if base.net == "unet":  # of a transformer it would rename what its loader looks for
        adapters = convert_state_dict_to_diffusers(adapters)
    rank_and_scale = net.peft_config["default"].to_dict()
    type(pipeline).save_lora_weights(
        out, **{f"{base.net}_lora_layers": adapters, f"{base.net}_lora_adapter_metadata": rank_and_scale}
    )
    settings = {"sampler": config.sampler.model_dump(), "image_size": config.data.image_size}
    write_json(out / FACTS, {"base": config.model.pretrained, **settings})


def load(directory: Path) -> "Draw":
    """The base with the directory's adapters, by diffusers alone: (seeds, prompts) -> uint8 (B, H, W, C)."""
    from recipes.text_to_image_lora.bases import load_pipeline
    from recipes.text_to_image_lora.sampler import drawing

    facts = json.loads((directory / FACTS).read_text("utf-8"))
    pipeline = load_pipeline(facts["base"])
    pipeline.load_lora_weights(directory, weight_name=FILE)
    return drawing(pipeline, Sampler(**facts["sampler"]), facts["image_size"])


def labels(prepared: Path, trained: Path, count: int) -> list[str]:
    """The captions by which an export is compared."""
    captions = json.loads((prepared / "classes.json").read_text("utf-8"))
    return [captions[place % len(captions)] for place in range(count)]
