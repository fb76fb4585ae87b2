"""Training curves: which series of a metrics.jsonl share a chart, and what the lines are called."""

import math
from typing import Any

from pipeline.artifact import Artifact
from pipeline.html.charts import Series, line_chart
from pipeline.html.element import Markup, Part, element, join
from pipeline.results import Log, Points
from pipeline.units import unit_of, words

HELD_OUT = "eval_"
PROGRESS = ("samples", "tokens", "epoch", "seconds")  # grow with the step by their nature: no curve


def curves(logs: dict[str, Log], artifacts: dict[str, Artifact]) -> Part | None:
    """The charts of every stage that left a log; empty where there is none."""
    parts: list[str] = []
    for stage, log in logs.items():
        given = artifacts[stage].made.get("units")
        parts += _stage(stage, log, given if isinstance(given, dict) else {})
    return Part("training", "Training", join(parts)) if parts else None


def _stage(stage: str, log: Log, units: dict[str, Any]) -> list[Markup]:
    charts = [
        element(
            "div",
            line_chart(*_titles(name, units), "step", lines, 260 if wide else 170),
            class_="wide" if wide else None,
        )
        for name, lines in groups(log.series).items()
        for wide in ["loss" in name]
    ]
    if not charts:
        return []
    torn = f"{log.unreadable} lines of this log could not be read and are left out." if log.unreadable else ""
    note = [element("p", torn, class_="note fail")] if torn else []
    return [element("h3", stage), *note, element("div", *charts, class_="charts")]


def _titles(name: str, units: dict[str, Any]) -> tuple[str, str]:
    title = words(name)
    return title[:1].upper() + title[1:], str(units.get(name) or unit_of(name))


def groups(series: dict[str, Points]) -> dict[str, list[Series]]:
    """Chart name -> its lines: a figure of training, the same held out, and the same of another net share one.

    Losses come first, then what is only held out, then the rest in the order of the log.
    """
    found: dict[str, dict[str, Points]] = {}
    for key, points in series.items():
        if key not in PROGRESS:
            found.setdefault(_figure(key), {})[key] = points
    ordered = sorted(found, key=lambda name: ("loss" not in name, not all(map(_is_held_out, found[name]))))
    return {
        name: [Series(_label(key), list(points)) for key, points in found[name].items()] for name in ordered
    }


def _is_held_out(key: str) -> bool:
    return key.rsplit("/", 1)[-1].startswith(HELD_OUT) or key.startswith(HELD_OUT)


def _figure(key: str) -> str:
    return key.removeprefix(HELD_OUT).rsplit("/", 1)[-1].removeprefix(HELD_OUT)


def _label(key: str) -> str:
    """`held-out critic` of `eval_critic/loss`, `training` of `loss`."""
    net = key.removeprefix(HELD_OUT).rpartition("/")[0]
    split = "held-out" if _is_held_out(key) else "" if net else "training"
    return " ".join(part for part in (split, words(net)) if part)


def last_values(log: Log) -> dict[str, float]:
    """The last finite value of each series of losses."""
    finite = {
        key: [value for _, value in points if math.isfinite(value)] for key, points in log.series.items()
    }
    return {key: values[-1] for key, values in finite.items() if values and "loss" in key}
