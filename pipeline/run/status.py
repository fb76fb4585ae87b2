"""What a run has and lacks: a row a stage as a table or JSON, and the summary that ends `headwater run`."""

import json
import shlex
import textwrap
from pathlib import Path
from typing import Any

from pipeline.run import artifact, results
from pipeline.run.artifact import Artifact
from pipeline.run.results import Score, decimals_of, prompt_of
from pipeline.run.stage import Stage, decisions, directory_of, headline_of, uses_of
from pipeline.run.units import duration, flat, quantity

WIDTH = 100  # columns of everything printed
DIGEST = 12  # characters of a digest that are shown
SCREEN = 24  # lines of the summary
SCORES, MODELS = 3, 3  # of the summary: scores, and lines of each
SAMPLES = 3
SAMPLE_LINES = 4


def status(config: Any, stages: tuple[Stage, ...]) -> list[dict[str, Any]]:
    """One row a stage: {stage, state, reason, directory, seconds, digest, metrics}.

    state: what `headwater run` would do (`up to date`, `resume`, `run`, `conflict`), and reason why; seconds and digest
    are None, and metrics empty, where nothing is published.
    """
    found = decisions(config, stages)
    rows = []
    for stage in stages:
        made = artifact.read(directory_of(config, stage.name))
        rows.append(
            {
                "stage": stage.name,
                "state": found[stage.name].action,
                "reason": found[stage.name].reason,
                "directory": str(directory_of(config, stage.name)),
                "seconds": made.made.get("seconds") if made else None,
                "digest": made.digest[:DIGEST] if made else None,
                "metrics": made.metrics if made else {},
            }
        )
    return rows


def timeline(rows: list[dict[str, Any]]) -> float:
    """Seconds that the published stages took together."""
    return sum(row["seconds"] or 0.0 for row in rows)


def as_json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, indent=1, ensure_ascii=False)


def render_table(rows: list[dict[str, Any]]) -> str:
    """Aligned plain text of at most 100 columns, a line a stage; `…` stands where something was cut."""
    head = ["stage", "state", "time", "digest", "main figures"]
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    shown = [
        "  ".join(
            [
                line[0].ljust(widths[0]),
                line[1].ljust(widths[1]),
                line[2].rjust(widths[2]),
                line[3].ljust(widths[3]),
                line[4],
            ]
        )
        for line in lines
    ]
    parents = dict.fromkeys(str(Path(row["directory"]).parent) for row in rows)
    done = sum(row["state"] == "up to date" for row in rows)
    foot = f"{done} of {len(rows)} stages up to date, {duration(timeline(rows))} in all"
    return "\n".join(shorten(line) for line in [*map(_middle, parents), *shown, foot])


def _cells(row: dict[str, Any]) -> list[str]:
    seconds = "" if row["seconds"] is None else duration(row["seconds"])
    figures = main_figures(row["metrics"]) if row["state"] == "up to date" else row["reason"]
    return [row["stage"], row["state"], seconds, row["digest"] or "", figures]


def main_figures(metrics: dict[str, Any]) -> str:
    """The numbers among a stage's metrics, in order and abbreviated."""
    numbers = {
        k: v for k, v in flat(metrics).items() if isinstance(v, int | float) and not isinstance(v, bool)
    }
    return ", ".join(f"{key} {quantity(key, value)}" for key, value in numbers.items())


def shorten(text: str, width: int = WIDTH) -> str:
    """The first line of `text`, cut to `width` columns."""
    line = text.rstrip().split("\n", 1)[0]
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def _middle(text: str) -> str:
    """A path cut in its middle, so that both its ends can be read."""
    return text if len(text) <= WIDTH else f"{text[: WIDTH // 2 - 1]}…{text[-WIDTH // 2 :]}"


def summary(config: Any, stages: tuple[Stage, ...]) -> str:
    """What `headwater run` prints at its end, on one screen; what a family has no file for is left out."""
    rows = status(config, stages)
    found = [artifact.read(Path(row["directory"])) for row in rows]
    artifacts = [made for made in found if made is not None]
    made, scores = _made(config, rows), _scores(results.scores_of(artifacts), headline_of(config))
    ways = [*_pictures(artifacts), *_ways_on(config, artifacts)]
    room = SCREEN - len(made) - len(scores) - len(ways) - 2  # two empty lines
    parts = [made, scores, _samples(results.samples_of(artifacts), room) + ways]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _made(config: Any, rows: list[dict[str, Any]]) -> list[str]:
    """Where everything is and the time that it took, of each stage and in all."""
    made = [f"{row['stage']} {duration(row['seconds'] or 0.0)}" for row in rows if row["digest"]]
    head = f"Made in {duration(timeline(rows))} in {config.run.output_dir}:"
    return [
        _middle(head),
        *textwrap.wrap(", ".join(made), WIDTH, initial_indent="  ", subsequent_indent="  "),
    ]


def _scores(groups: dict[str, list[Score]], headline: tuple[str, ...]) -> list[str]:
    """The first scores of the family's headline that were measured, each beside its baselines."""
    chosen = [name for name in (*headline, *groups) if name in groups]
    chosen = list(dict.fromkeys(chosen))[:SCORES]
    lines = [line for name in chosen for line in _group(name, _beside_baselines(groups[name]))]
    return [f"Scores ({len(chosen)} of {len(groups)}):", *lines] if lines else []


def _beside_baselines(group: list[Score]) -> list[Score]:
    """The best model's score, which stands first, and the last ones, which are of baselines."""
    return group if len(group) <= MODELS else [group[0], *group[1 - MODELS :]]


def _group(name: str, group: list[Score]) -> list[str]:
    """A score's name, and below it a line a model, their values one under the other."""
    decimals, first = decimals_of(group), group[0]
    about = ", ".join(
        part for part in (first.unit, f"{first.better} is better" if first.better else "") if part
    )
    values = [f"{score.value:,.{decimals}f}" for score in group]
    models, width = max(len(score.model) for score in group), max(map(len, values))
    lines = [
        f"    {score.model.ljust(models)}  {value.rjust(width)}  {_interval(score, decimals)}".rstrip()
        for score, value in zip(group, values, strict=True)
    ]
    return [shorten(line) for line in [f"  {name.replace('_', ' ')}{f' ({about})' if about else ''}", *lines]]


def _interval(score: Score, decimals: int) -> str:
    return "[{:,.{d}f}, {:,.{d}f}]".format(*score.interval, d=decimals) if score.interval else ""


def _samples(found: list[dict[str, Any]], room: int) -> list[str]:
    """Up to three samples in `room` lines, one of each kind before a second of any."""
    room -= 1  # the title
    count = min(SAMPLES, len(found), room // 2)
    if count < 1:
        return []
    text_lines = min(SAMPLE_LINES, room // count - 1)
    return ["Samples:", *(line for sample in spread(found, count) for line in _sample(sample, text_lines))]


def spread(found: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` samples taken in turn from each (kind, prompt), in their order."""
    seen: dict[str, int] = {}
    ranked = []
    for index, sample in enumerate(found):
        key = json.dumps([sample.get("kind"), sample.get("prompt")])
        kind = json.dumps(sample.get("kind"))
        rank = (seen.get(key, 0), seen.get(kind, 0), index)
        seen[key], seen[kind] = rank[0] + 1, rank[1] + 1
        ranked.append((rank, sample))
    return [sample for _, sample in sorted(ranked, key=lambda pair: pair[0])[:count]]


def _sample(sample: dict[str, Any], most: int) -> list[str]:
    """The prompt behind `>`, and below it at most that many lines of text; `…` ends what was cut."""
    text = [piece for line in str(sample.get("text", "")).strip().split("\n") for piece in _wrapped(line)]
    cut = text[:most]
    if len(text) > most:
        cut[-1] += " …"
    prompt = " ".join(prompt_of(sample).split())
    about = f"  {sample.get('kind', 'sample')}" + (f" > {prompt}" if prompt else "")
    return [shorten(about), *(f"    | {line}" for line in cut)]


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH - 8, drop_whitespace=False, replace_whitespace=False, tabsize=4) or [""]


def _pictures(artifacts: list[Artifact]) -> list[str]:
    """A line for each directory of drawn pictures."""
    places = {made.stage: made.path for made in artifacts}
    found = list(results.images_of(artifacts).items())[:SAMPLES]
    return [shorten(f"Pictures: {places[stage]}: {', '.join(names)}") for stage, names in found]


def _ways_on(config: Any, artifacts: list[Artifact]) -> list[str]:
    """Where the report is, and the commands that publish the model and talk to it."""
    reports = [
        made.path / name for made in artifacts for name in made.files if Path(name).name == "report.html"
    ]
    directory = shlex.quote(str(config.run.output_dir))
    lines = [f"Report, with every score: {path}" for path in reports]
    if any(made.stage == "export" for made in artifacts):
        lines.append(f"Publish it: headwater export {directory} --push USER/NAME")
    if getattr(config, "reward_model", None):
        lines.append(f"Judge answers by it: headwater score {directory} --data FILE")
    elif hasattr(config, "talks") and results.model_directory(artifacts):
        lines.append(f"Talk to it: headwater chat {directory}")
    return [*lines, *(use.format(run=directory) for use in uses_of(config))]
