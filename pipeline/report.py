"""Stage `report`: everything a run published, in one HTML page that needs nothing else."""

import json
from pathlib import Path
from typing import Any

from pipeline.publish.html import outcome, record, training
from pipeline.publish.html.element import Markup, element, page
from pipeline.publish.html.style import STYLE
from pipeline.run import artifact, results
from pipeline.run.artifact import Artifact
from pipeline.run.results import Log, Score, decimals_of
from pipeline.run.stage import Context
from pipeline.run.units import duration, size, words

SENTENCES = 3  # scores that the opening paragraph tells
CARDS = 6  # scores that are shown below it


def check(config: Any) -> None:
    """Nothing can be refused: a report shows what is there."""


def run(context: Context) -> dict[str, Any]:
    """Write report.html from the artifacts of all upstream stages and their training logs."""
    found = [artifact.read(directory) for directory in context.inputs.values()]
    artifacts = [made for made in found if made is not None]
    config = json.loads(context.config.model_dump_json())
    text = render(
        Path(context.config.run.output_dir).name, config, artifacts, logs_of(context.logs, artifacts)
    )
    (context.out / "report.html").write_text(text, encoding="utf-8")
    return {}


def logs_of(directory: Path, artifacts: list[Artifact]) -> dict[str, Log]:
    """Stage -> its training log, where it left one."""
    paths = {made.stage: directory / f"{made.stage}.metrics.jsonl" for made in artifacts}
    return {stage: results.read_log(path) for stage, path in paths.items() if path.is_file()}


def render(name: str, config: dict[str, Any], artifacts: list[Artifact], logs: dict[str, Log]) -> str:
    """The page. name: the run's; config: every resolved setting; artifacts: in the order in which they were made."""
    by_stage = {made.stage: made for made in artifacts}
    scores = results.scores_of(artifacts)
    sections = [
        outcome.scores(scores, results.missing_of(artifacts)),
        outcome.sounds(results.sounds_of(artifacts)),
        outcome.images(results.images_of(artifacts), by_stage),
        training.drawings(logs),
        training.alarms(logs),
        training.curves(logs, by_stage),
        outcome.samples(results.samples_of(artifacts)),
        outcome.taught(results.supervision_of(artifacts)),
        outcome.filtered(results.filtered_of(artifacts)),
        record.ledger(results.ledgers_of(artifacts)),
        record.cost(artifacts),
        record.lineage(artifacts),
        record.configuration(config),
        record.environment(artifacts),
    ]
    shown = [part for part in sections if part is not None]
    top = [header(name, config, artifacts, scores), element("nav", *(part.link() for part in shown))]
    return page(f"{name}: report", STYLE, *top, *(part.markup() for part in shown))


def header(
    name: str, config: dict[str, Any], artifacts: list[Artifact], scores: dict[str, list[Score]]
) -> Markup:
    """Title, one paragraph, and a card for each score."""
    told = outcome.compared(scores, SENTENCES)
    kind = f"{config.get('recipe', '')} recipe".strip()
    parts = [
        element("h1", name),
        element("p", kind, class_="kind"),
        element("p", " ".join([_made(artifacts), *(_sentence(*group) for group in told.items())])),
    ]
    return element("header", *parts, outcome.cards(outcome.compared(scores, CARDS)))


def _made(artifacts: list[Artifact]) -> str:
    """`6 stages in 12 min 30 s on HOST (MACHINE), at most 2.10 GiB of memory, commit abc.`"""
    seconds = sum(made.made.get("seconds", 0.0) for made in artifacts)
    hosts = list(
        dict.fromkeys(
            f"{made.made['host']} ({made.made['machine']})" for made in artifacts if "host" in made.made
        )
    )
    commits = list(dict.fromkeys(_short(made.made["commit"]) for made in artifacts if "commit" in made.made))
    memory = max((made.made.get("peak_memory_bytes", 0) for made in artifacts), default=0)
    count = "1 stage" if len(artifacts) == 1 else f"{len(artifacts)} stages"
    parts = [f"{count} in {duration(seconds)}{' on ' + ' and '.join(hosts) if hosts else ''}"]
    parts += [f"at most {size(memory)} in one process"] if memory else []
    parts += [f"commit {' and '.join(commits)}"] if commits else []
    return ", ".join(parts) + "."


def _short(commit: str) -> str:
    """The first characters of a commit, and the `+` that says that the checkout had changed."""
    return commit[:10] + ("+" if commit.endswith("+") else "")


def _sentence(name: str, group: list[Score]) -> str:
    """`Bits per byte: base 1.53 [1.50, 1.56], xz -9e 1.70.`"""
    decimals = decimals_of(group)
    shown = [
        " ".join(
            filter(
                None, (score.model, outcome.figure(score.value, decimals), outcome.bounds(score, decimals))
            )
        )
        for score in group
    ]
    return f"{words(name)[:1].upper()}{words(name)[1:]}: {', '.join(shown)}."


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("report")
