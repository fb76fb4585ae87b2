"""The README.md of an exported model: every figure comes from the config, the artifacts or the check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.publish.licences import UNSTATED, hub_licence, named
from pipeline.publish.model_card import fenced, front, lineage, lineage_table, public, score_table, table
from pipeline.run import provenance
from pipeline.run.config import identity
from pipeline.run.results import scores_of
from pipeline.run.stage import Context

SECTIONS = ("data", "model", "train", "sampler", "sample")  # those that decide what is drawn


@dataclass(frozen=True)
class About:
    """What a family says of its export.

    kind: what is generated, as in `A vae model of KIND`; shown: Markdown of some of it; use: Markdown of how it is
    loaded; tags: for the Hub; classes: of the data, in their order; licence: SPDX identifier of the data, where it is
    known; checked: Markdown of what a fresh process found.
    """

    kind: str
    shown: str
    use: str
    tags: dict[str, Any]
    classes: tuple[str, ...]
    licence: str | None
    checked: str


def render(context: Context, about: About) -> str:
    """The whole README.md."""
    config, chain = context.config, lineage(context.inputs.values())
    facts = provenance.facts()
    classes = ", ".join(f"{index} {name}" for index, name in enumerate(about.classes))
    trained_on = named(about.licence or UNSTATED)
    sections = (
        front(hub_licence(config.export.licence) | about.tags),
        f"# {Path(config.run.output_dir).resolve().name}",
        f"A {config.recipe} model of {about.kind}, trained for {config.train.length} on "
        f"`{public(config.data.path or config.data.source)}`.",
        about.shown,
        "## Use\n\n" + about.use,
        *([f"## Classes\n\n{classes}"] if classes else []),
        "## Scores\n\n" + score_table(scores_of(chain)),
        f"## Licence\n\nThe weights: {named(config.export.licence)}. What they were trained on: {trained_on}.",
        "## Settings\n\n" + settings(config),
        "## Checked before publication\n\n" + about.checked,
        "## Lineage\n\n" + lineage_table(chain, facts.get("commit", "unknown"), facts["versions"]),
    )
    return "\n\n".join(sections) + "\n"


def settings(config: Any) -> str:
    """What was asked for, section by section, without the paths of the machine that made it."""
    tree = {name: identity(section) for name, section in config if name in SECTIONS}
    if tree["data"]["path"]:
        tree["data"]["path"] = public(tree["data"]["path"])
    return fenced(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).rstrip(), "yaml")


def checks(text: str, measured: dict[str, int]) -> str:
    """What a process of its own made of this directory."""
    rows = [(name.replace("_", " "), f"{value:,}") for name, value in measured.items()]
    return f"{text}\n\n{table(('check', 'measured'), rows)}"
