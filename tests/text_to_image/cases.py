"""What tests of pictures from words share: scenes of 24 pixels, prepared, and the recipe at their size."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.run.stage import Context, Stage, open_recipe
from recipes.common.images import prepare
from recipes.common.images.config import Captioned
from recipes.text_to_image import captions
from recipes.text_to_image.config import Text
from tests.helpers import ROOT

TEXT = Text(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
SMALL = (
    "data.image_size=24",
    "data.max_images=60",
    "text.hidden_size=16",
    "text.num_hidden_layers=1",
    "text.num_attention_heads=2",
    "model.net={kind: dit, patch_size: 8, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2}",
    "train.bf16=false",
    "train.warmup_steps=0",
    "retrieval.channels=4",
    "retrieval.features=8",
    "retrieval.negatives=3",
    "sampler.steps=2",
)
UNET = "model.net={kind: unet, channels: [16, 32], attention_levels: 1, attention_head_dim: 8, norm_num_groups: 4}"


def config_of(*overrides: str) -> Any:
    return open_recipe(ROOT / "recipes/text_to_image/scenes.yaml", [*SMALL, *overrides])[0]


def context_of(config: Any, name: str, out: Path, **inputs: Path) -> Context:
    out.mkdir(parents=True, exist_ok=True)
    return Context(
        config, Stage(name, f"recipes.text_to_image.{name}", {}), inputs, out, out, out, io.StringIO()
    )


def write_captions(directory: Path, data: Captioned, text: Text = TEXT) -> tuple[Path, Path]:
    """The artifacts of the pictures and of their captions."""
    prepared, known = directory / "prepare", directory / "captions"
    prepare.run(context_of(SimpleNamespace(data=data), "prepare", prepared))
    captions.run(context_of(SimpleNamespace(text=text), "captions", known, prepare=prepared))
    return prepared, known


def scenes_of(count: int = 60) -> Captioned:
    return Captioned(source="scenes", image_size=24, channels=3, max_images=count)
