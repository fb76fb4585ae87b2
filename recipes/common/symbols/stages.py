"""The chain of stages of a recipe over a closed vocabulary: one for every family."""

from collections.abc import Callable
from typing import Any

from pipeline.run.outside import Files
from pipeline.run.stage import Stage
from recipes.common.stages import of


def symbol_stages(config: Any, reads: Callable[[], Files]) -> tuple[Stage, ...]:
    """prepare, tokenize, train, evaluate, sample, export, report; `prepare`, `evaluate`, `sample` are the family's."""
    own, shared = f"recipes.{config.recipe}", "recipes.common.symbols"
    used = ("prepare", "tokenize", "train")
    found = (
        Stage("prepare", f"{own}.prepare", of(config, "data"), reads=reads),
        Stage("tokenize", f"{shared}.tokenize", {}, ("prepare",)),
        Stage("train", f"{shared}.train", of(config, "model", "train"), ("tokenize",), True),
        Stage("evaluate", f"{own}.evaluate", of(config, "decoding", "evaluate"), used),
        Stage("sample", f"{own}.sample", of(config, "decoding", "sample"), used),
        Stage("export", f"{shared}.export", of(config, "export"), (*used, "evaluate", "sample")),
    )
    return (*found, Stage("report", "pipeline.report", {}, tuple(stage.name for stage in found), view=True))
