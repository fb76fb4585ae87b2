"""`auto` settings made definite: what an artifact or a checkpoint recorded, else what fits this machine.

A family may have more of them than the precision: its `fitted` decides those that change no identity.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.run import artifact
from pipeline.run.config import Section
from pipeline.run.machine import precision

AUTO = "auto"
Keys = tuple[str, ...]


def resolved(config: Section, stages_of: Callable[[Any], tuple[Any, ...]]) -> Section:
    """`config` with no `bf16: auto` left in it.

    What was begun keeps its precision, on any machine: a stage's own record decides before the machine is asked.

    Args:
        stages_of: the family's stages of a config, whose identities say which record holds which setting.
    """
    unresolved = paths_of(config)
    if not unresolved:
        return config
    recorded = records(Path(config.run.output_dir), [stage.name for stage in stages_of(config)])
    for path in unresolved:
        found = next((value for record in recorded if (value := _at(record, path)) is not None), None)
        config = _with(config, path, precision().bf16 if found is None else found)
    return config


def paths_of(section: Section, above: Keys = ()) -> list[Keys]:
    """Where in the config `bf16: auto` stands."""
    found = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            found += paths_of(value, (*above, name))
        elif name == "bf16" and value == AUTO:
            found.append((*above, name))
    return found


def records(output_dir: Path, stages: list[str]) -> list[dict[str, Any]]:
    """The identities that finished stages and interrupted ones have on disk."""
    finished = [artifact.read(output_dir / name) for name in stages]
    begun = [output_dir / "checkpoints" / name / "identity.json" for name in stages]
    return [made.identity for made in finished if made] + [
        json.loads(file.read_text())["identity"] for file in begun if file.is_file()
    ]


def _at(tree: Any, path: Keys) -> bool | None:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, bool) else None


def _with(section: Section, path: Keys, value: bool) -> Section:
    first, *rest = path
    new = _with(getattr(section, first), tuple(rest), value) if rest else value
    return section.model_copy(update={first: new})
