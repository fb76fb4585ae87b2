"""Training curves: which series of a metrics.jsonl share a chart, and what the lines are called."""

import re
from typing import Any

from pipeline.artifact import Artifact
from pipeline.html.charts import Series, line_chart
from pipeline.html.element import Markup, Part, element, join
from pipeline.results import Log, Points
from pipeline.units import unit_of, words

HELD_OUT = "eval_"
NUMBER = re.compile(r"\d+")
PROGRESS = ("samples", "tokens", "epoch", "seconds")  # grow with the step by their nature: no curve


def curves(logs: dict[str, Log], artifacts: dict[str, Artifact]) -> Part | None:
    """The charts of every stage that left a log; None where there is none."""
    parts: list[str] = []
    for stage, log in logs.items():
        given = artifacts[stage].made.get("units")
        parts += _stage(stage, log, given if isinstance(given, dict) else {})
    return Part("training", "Training", join(parts)) if parts else None


def _stage(stage: str, log: Log, units: dict[str, Any]) -> list[Markup]:
    charts = [_chart(name, lines, units) for name, lines in groups(log.series).items()]
    if not charts:
        return []
    torn = f"{log.unreadable:,} lines of this log could not be read and are left out."
    note = [element("p", torn, class_="note fail")] if log.unreadable else []
    return [element("h3", stage), *note, element("div", *charts, class_="charts")]


def _chart(name: str, lines: list[Series], units: dict[str, Any]) -> Markup:
    """Losses over the whole width, what else there is at half of it."""
    wide = "loss" in name
    title, unit = words(name), str(units.get(name) or unit_of(name))
    chart = line_chart(title[:1].upper() + title[1:], unit, "step", lines, height=260 if wide else 170)
    return element("div", chart, class_="wide" if wide else None)


def groups(series: dict[str, Points]) -> dict[str, list[Series]]:
    """Chart name -> its lines: a figure of training, the same held out, the same of another net, and figures that
    differ by a number in their names share one.

    Losses come first, then what is only held out, then the rest in the order of the log.
    """
    found: dict[str, list[str]] = {}
    for key in series:
        if key not in PROGRESS:
            found.setdefault(NUMBER.sub("n", _figure(key)), []).append(key)
    ordered = sorted(found, key=lambda name: ("loss" not in name, not all(map(_is_held_out, found[name]))))
    return {_title(name, found[name]): _named(series, found[name]) for name in ordered}


def _title(name: str, keys: list[str]) -> str:
    """The figure's own name where there is no second one to share the chart with."""
    figures = set(map(_figure, keys))
    return name if len(figures) > 1 else figures.pop()


def _named(series: dict[str, Points], keys: list[str]) -> list[Series]:
    both_splits = len(set(map(_is_held_out, keys))) == 2
    numbered = len(set(map(_figure, keys))) > 1
    return [Series(_label(key, both_splits, numbered), list(series[key])) for key in keys]


def _is_held_out(key: str) -> bool:
    return key.rsplit("/", 1)[-1].startswith(HELD_OUT) or key.startswith(HELD_OUT)


def _figure(key: str) -> str:
    return key.removeprefix(HELD_OUT).rsplit("/", 1)[-1].removeprefix(HELD_OUT)


def _label(key: str, both_splits: bool, numbered: bool) -> str:
    """`held-out critic` of `eval_critic/loss`, `training` of `loss`, `3` of `eval_mode_3_share`."""
    net = key.removeprefix(HELD_OUT).rpartition("/")[0]
    split = ("held-out" if _is_held_out(key) else "training") if both_splits else ""
    number = " ".join(NUMBER.findall(_figure(key))) if numbered else ""
    return " ".join(part for part in (split, words(net), number) if part)
