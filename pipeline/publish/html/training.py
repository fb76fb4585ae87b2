"""Training curves: which series of a metrics.jsonl share a chart, and what the lines are called."""

import re
from typing import Any

from pipeline.publish.html.charts import Series, line_chart
from pipeline.publish.html.element import Markup, Part, element, join
from pipeline.publish.html.outcome import embedded
from pipeline.run.artifact import Artifact
from pipeline.run.results import Log, Points
from pipeline.run.units import unit_of, words
from pipeline.train.drawing import ALARM

HELD_OUT = "eval_"
NUMBER = re.compile(r"\d+")
PROGRESS = ("samples", "tokens", "epoch", "seconds")  # grow with the step by their nature: no curve
DRAWINGS = 8  # shown of those made while training: the first, the last, and some between


def curves(logs: dict[str, Log], artifacts: dict[str, Artifact]) -> Part | None:
    """The charts of every stage that left a log; None where there is none."""
    parts: list[str] = []
    for stage, log in logs.items():
        given = artifacts[stage].made.get("units")
        parts += _stage(stage, log, given if isinstance(given, dict) else {})
    return Part("training", "Training", join(parts)) if parts else None


def alarms(logs: dict[str, Log]) -> Part | None:
    """Each alarm that rang while training, with its steps; None where all was quiet."""
    rang = [
        element("p", f"{stage}: {words(key.removeprefix(ALARM))}, at {_steps(points)}", class_="note fail")
        for stage, log in logs.items()
        for key, points in log.series.items()
        if key.startswith(ALARM) and any(value for _, value in points)
    ]
    return Part("alarms", "Alarms", join(rang)) if rang else None


def _steps(points: Points) -> str:
    """`step 500, 3 of 8 looks, last at step 900`."""
    ringing = [step for step, value in points if value]
    return f"step {ringing[0]:,}, {len(ringing)} of {len(points)} looks, last at step {ringing[-1]:,}"


def drawings(logs: dict[str, Log]) -> Part | None:
    """What was drawn from the same seeds as training went on, a few of the steps."""
    parts: list[str] = []
    for stage, log in logs.items():
        for name in dict.fromkeys(path.name for _, path in log.drawings):
            shown = spread([drawn for drawn in log.drawings if drawn[1].name == name], DRAWINGS)
            pictures = [embedded(path, f"{path.stem}, step {step:,}") for step, path in shown]
            parts += [element("h3", stage), element("div", *pictures, class_="images")]
    return Part("drawings", "Samples over training", join(parts)) if parts else None


def spread(found: list[Any], count: int) -> list[Any]:
    """At most `count` of a list, evenly, both ends kept."""
    if len(found) <= count:
        return found
    return [found[round(index * (len(found) - 1) / (count - 1))] for index in range(count)]


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
        if key not in PROGRESS and not key.startswith(ALARM):
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
