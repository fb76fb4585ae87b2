"""What tests of designs share: digits with attributes, prepared, and the recipe at their size."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.run.stage import Context, Stage, open_recipe
from recipes.common.images import prepare
from recipes.design import attributes
from tests.helpers import ROOT

DIGITS = (
    "data.source=digits",
    "data.image_size=8",
    "data.max_images=200",
    "attributes.measured=[tone, size]",
    "model.net.channels=[8, 16]",
    "model.net.norm_num_groups=4",
    "model.net.attention_head_dim=8",
    "train.warmup_steps=0",
    "train.bf16=false",
)


def config_of(*overrides: str) -> Any:
    return open_recipe(ROOT / "recipes/design/fashion_mnist.yaml", [*DIGITS, *overrides])[0]


def context_of(config: Any, name: str, out: Path, **inputs: Path) -> Context:
    out.mkdir(parents=True, exist_ok=True)
    stage = Stage(name, f"recipes.design.{name}", {})
    return Context(config, stage, inputs, out, out, out, io.StringIO())


def write_attributes(directory: Path, config: Any) -> tuple[Path, Path]:
    """The artifacts of the pictures and of their attributes."""
    prepared, known = directory / "prepare", directory / "attributes"
    prepare.run(context_of(SimpleNamespace(data=config.data), "prepare", prepared))
    attributes.run(context_of(config, "attributes", known, prepare=prepared))
    return prepared, known
