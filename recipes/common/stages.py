"""The chain of stages of an image recipe: one for every family."""

import importlib
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.run.config import Section, identity
from pipeline.run.outside import Files, files_below
from pipeline.run.stage import Stage
from recipes.common.images.config import Captioned, Pictures


def image_stages(config: Any, *uses: Stage) -> tuple[Stage, ...]:
    """prepare, features, train, evaluate, sample, the family's own `uses`, utility, export, report.

    The stages `features`, `utility` and `export` are there where the config has their sections. A family's modules are
    found through `config.recipe`: `train` and `evaluate` are its own, the others look for its `sampler` and `exported`.
    """
    own = f"recipes.{config.recipe}"
    seen = ("features",) if config.features else ()
    found = [
        Stage(
            "prepare",
            "recipes.common.images.prepare",
            of(config, "data"),
            reads=partial(pictures_of, config.data),
        ),
        *(
            [Stage("features", "recipes.common.scores.features", of(config, "features"), ("prepare",), True)]
            if seen
            else []
        ),
        Stage("train", f"{own}.train", of(config, "model", "train"), ("prepare",), True),
        Stage("evaluate", f"{own}.evaluate", of(config, "evaluate"), ("prepare", *seen, "train")),
        Stage("sample", "recipes.common.sample", of(config, "sample"), ("prepare", "train")),
        *uses,
    ]
    if config.utility:
        learned = of(config, "utility", "features")
        found.append(Stage("utility", "recipes.common.scores.utility", learned, ("prepare", "train")))
    if config.export:
        inputs = ("prepare", "train", "evaluate", "sample")
        found.append(Stage("export", "recipes.common.export", of(config, "export"), inputs))
    return (*found, Stage("report", "pipeline.report", {}, tuple(stage.name for stage in found), view=True))


def pictures_of(images: Pictures) -> dict[str, Path]:
    """The files at the path of pictures that are the user's own; the named data sets are pinned by their packages."""
    from recipes.common.images.readers import SUFFIXES

    path = Path(images.path).expanduser() if images.path else None
    found = files_below(path) if path and path.exists() else {}
    if images.source != "folder":
        return found
    told = (".txt", ".csv", ".jsonl") if isinstance(images, Captioned) else ()
    return {name: file for name, file in found.items() if file.suffix.lower() in (*SUFFIXES, *told)}


def brought(pretrained: str | None) -> Files:
    """The files of a directory that a recipe names as pretrained; none for a name on the Hub."""
    directory = Path(pretrained).expanduser() if pretrained else None
    return files_below(directory) if directory and directory.is_dir() else {}


def of(config: Any, *names: str) -> dict[str, Any]:
    """The identity of the named sections that this config has."""
    sections: dict[str, Section | None] = {name: getattr(config, name) for name in names}
    return {name: identity(section) for name, section in sections.items() if section is not None}


def family_module(config: Any, name: str) -> ModuleType:
    """The module `name` of the family that `config.recipe` names."""
    return importlib.import_module(f"recipes.{config.recipe}.{name}")
