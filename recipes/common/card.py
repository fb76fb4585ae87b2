"""The README.md of an exported image model: every figure comes from the config, the artifacts or the check."""

from pathlib import Path
from typing import Any

import yaml

from pipeline.publish.licences import UNSTATED, hub_licence, named
from pipeline.publish.model_card import fenced, front, lineage, lineage_table, public, score_table, table
from pipeline.run import provenance
from pipeline.run.config import identity
from pipeline.run.results import scores_of
from pipeline.run.stage import Context
from recipes.common.images.prepare import licence_of
from recipes.common.stages import family_module

SECTIONS = ("data", "model", "train", "sampler", "sample")  # those that decide what is drawn


def render(context: Context, measured: dict[str, int], classes: tuple[str, ...]) -> str:
    """The whole README.md. measured: what the check in a fresh process found; classes: of the data, in their order."""
    config, chain = context.config, lineage(context.inputs.values())
    exported = family_module(config, "exported")
    facts = provenance.facts()
    sections = (
        front(hub_licence(config.export.licence) | exported.TAGS),
        f"# {Path(config.run.output_dir).resolve().name}",
        f"A {config.recipe} model of {config.data.image_size} x {config.data.image_size} pictures, trained for "
        f"{config.train.max_steps:,} steps on `{public(config.data.path or config.data.source)}`.",
        "![pictures](pictures.png)",
        "## Use\n\n" + fenced(exported.USAGE, "python"),
        *(
            ["## Classes\n\n" + ", ".join(f"{index} {name}" for index, name in enumerate(classes))]
            if classes
            else []
        ),
        "## Scores\n\n" + score_table(scores_of(chain)),
        "## Licence\n\n" + licences(config),
        "## Settings\n\n" + settings(config),
        "## Checked before publication\n\n" + checks(measured),
        "## Lineage\n\n" + lineage_table(chain, facts.get("commit", "unknown"), facts["versions"]),
    )
    return "\n\n".join(sections) + "\n"


def licences(config: Any) -> str:
    """Of the weights, and of the pictures that they were made from."""
    pictures = named(licence_of(config.data) or UNSTATED)
    return f"The weights: {named(config.export.licence)}. The pictures they were trained on: {pictures}."


def settings(config: Any) -> str:
    """What was asked for, section by section, without the paths of the machine that made it."""
    tree = {name: identity(section) for name, section in config if name in SECTIONS}
    if tree["data"]["path"]:
        tree["data"]["path"] = public(tree["data"]["path"])
    return fenced(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).rstrip(), "yaml")


def checks(measured: dict[str, int]) -> str:
    """What a process of its own made of this directory."""
    rows = [(name.replace("_", " "), f"{value:,}") for name, value in measured.items()]
    text = "Loaded in a fresh process; the pictures of pictures.json were compared byte for byte with the live model's."
    return f"{text}\n\n{table(('check', 'measured'), rows)}"
