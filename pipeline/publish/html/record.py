"""How a run was made: token ledger, time and memory, lineage, configuration, environment."""

import shlex
from typing import Any

import yaml

from pipeline.publish.html.charts import bar_chart
from pipeline.publish.html.element import Markup, Part, element, exact, folded, join, separated, table
from pipeline.run.artifact import Artifact
from pipeline.run.units import duration, flat, quantity, size, words

PROVENANCE = (
    "command",
    "commit",
    "host",
    "machine",
    "python",
    "versions",
    "started",
    "seconds",
    "peak_memory_bytes",
    "units",
)
LEDGER_ROWS = 60
DIGEST = 12  # characters of a digest that are shown


def ledger(found: dict[str, Any]) -> Part | None:
    """Every count of every ledger, and whether its sums hold."""
    if not found:
        return None
    parts = [part for stage, tree in found.items() for part in (element("h3", stage), *_ledger(tree))]
    return Part("ledger", "Ledger", join(parts))


def _ledger(tree: Any) -> list[Markup]:
    """One table for all entries with the same keys, and the balances below it."""
    tables: dict[tuple[str, ...], list[tuple[str, dict[str, Any]]]] = {}
    for label, counts in entries(tree):
        tables.setdefault(tuple(counts), []).append((label, counts))
    return [part for keys, rows in tables.items() for part in _counts(list(keys), rows)]


def _counts(keys: list[str], rows: list[tuple[str, dict[str, Any]]]) -> list[Markup]:
    """Entries with the same keys: a row each, or a line a key where there is one entry without a name."""
    shown = [[label, *(quantity(key, counts[key]) for key in keys)] for label, counts in rows[:LEDGER_ROWS]]
    if len(rows) == 1 and not rows[0][0]:
        return [
            table(
                [],
                [[words(key), value] for key, value in zip(keys, shown[0][1:], strict=True)],
                class_="facts",
            )
        ]
    numbers = [place for place, key in enumerate(keys, 1) if isinstance(rows[0][1][key], int | float)]
    grid = table(["", *map(words, keys)], shown, tuple(numbers))
    left = len(rows) - len(shown)
    more = [element("p", f"{left:,} more rows in the file", class_="note")] if left else []
    return [
        grid,
        *more,
        *(_balance(label, *balance) for label, counts in rows for balance in balances(counts)),
    ]


def entries(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """(label, counts) of every dict in a ledger that holds counts, in order; an entry's own `name` is its label."""
    if isinstance(tree, list):
        pairs = [
            (str(value.get("name", index)) if isinstance(value, dict) else str(index), value)
            for index, value in enumerate(tree)
        ]
        return [found for name, value in pairs for found in entries(value, (*path, name))]
    if not isinstance(tree, dict):
        return [(" / ".join(path), {"value": tree})]
    counts = {
        key: value for key, value in tree.items() if not isinstance(value, dict | list) and key != "name"
    }
    nested = [(key, value) for key, value in tree.items() if isinstance(value, dict | list)]
    own = [(" / ".join(path), counts)] if counts else []
    return own + [found for key, value in nested for found in entries(value, (*path, key))]


def balances(counts: dict[str, Any]) -> list[tuple[str, bool]]:
    """The sums that a ledger promises, written out, and whether they hold."""
    found = []
    if {"tokens_in", "kept", "truncated", "dropped"} <= counts.keys():
        parts = [counts[key] for key in ("kept", "truncated", "dropped")]
        equation = (
            f"{counts['tokens_in']:,} in = {parts[0]:,} kept + {parts[1]:,} truncated + {parts[2]:,} dropped"
        )
        found.append((equation, counts["tokens_in"] == sum(parts)))
    pictures = ("kept", "left_out_class", "beyond_max_images", "skipped")
    if {"pictures_in", *pictures} <= counts.keys():
        parts = [counts[key] for key in pictures]
        told = " + ".join(f"{part:,} {words(key)}" for key, part in zip(pictures, parts, strict=True))
        found.append((f"{counts['pictures_in']:,} in = {told}", counts["pictures_in"] == sum(parts)))
    if {"rows", "row_length", "inputs", "padded"} <= counts.keys() and counts["rows"]:
        rows, length, placed, padded = (counts[key] for key in ("rows", "row_length", "inputs", "padded"))
        equation = f"{rows:,} rows × {length:,} = {placed:,} placed + {padded:,} padded"
        found.append((equation, rows * length == placed + padded))
    return found


def _balance(label: str, equation: str, holds: bool) -> Markup:
    verdict = element("span", "✓" if holds else "✗ does not balance", class_="pass" if holds else "fail")
    return element("p", f"{label}: {equation} ", verdict, class_="note number")


def cost(artifacts: list[Artifact]) -> Part:
    """Time and memory a stage, drawn and in figures."""
    times = [(made.stage, float(made.made["seconds"])) for made in artifacts if "seconds" in made.made]
    memory = [
        (made.stage, float(made.made["peak_memory_bytes"]))
        for made in artifacts
        if "peak_memory_bytes" in made.made
    ]
    charts = [
        *(
            [bar_chart(f"Time, {duration(sum(value for _, value in times))} in all", times, duration)]
            if times
            else []
        ),
        *([bar_chart("Peak memory of the main process", memory, size)] if memory else []),
    ]
    rows = [
        [made.stage, _exact(made, "seconds"), _exact(made, "peak_memory_bytes"), _facts(made)]
        for made in artifacts
    ]
    head = ["stage", "time", "peak memory", "speed and launch"]
    return Part(
        "cost",
        "Time and memory",
        join([element("div", *charts, class_="charts"), table(head, rows, (1, 2), class_="wordy")]),
    )


def _exact(made: Artifact, key: str) -> str:
    return exact(quantity(key, made.made[key]), made.made[key]) if key in made.made else ""


def _facts(made: Artifact) -> Markup:
    """What a stage noted on how it ran, beside what every stage notes; speeds first."""
    noted = flat({key: value for key, value in made.made.items() if key not in PROVENANCE})
    ordered = sorted(noted, key=lambda key: not key.endswith("_per_second"))
    return separated([_fact(key, noted[key]) for key in ordered], " · ")


def _fact(key: str, value: Any) -> Markup:
    """`9,514 tokens/s`, `checkpoint 1.9 s`: a name gives up what its unit says."""
    speed = key.endswith("_per_second")
    name = "" if speed else f"{words(key.removesuffix('_seconds').removesuffix('_bytes'))} "
    return element("span", name, exact(quantity(key, value), value), class_="fact")


def lineage(artifacts: list[Artifact]) -> Part:
    """Each artifact's digest, what it was made from, its size; folded: identity, figures and files."""
    rows = [
        [
            made.stage,
            element("span", made.digest[:DIGEST], class_="digest", title=made.digest),
            _inputs(made),
            f"{len(made.files):,}",
            exact(size(_bytes(made)), f"{_bytes(made)} bytes"),
        ]
        for made in artifacts
    ]
    grid = table(["artifact", "digest", "made from", "files", "size"], rows, (3, 4))
    note = "A digest covers an artifact's settings, files, figures and the digests of what it was made from."
    return Part(
        "lineage", "Lineage", join([grid, element("p", note, class_="note"), *map(_artifact, artifacts)])
    )


def _bytes(made: Artifact) -> int:
    return sum(file["size"] for file in made.files.values())


def _inputs(made: Artifact) -> Markup:
    return separated([_input(name, given["digest"]) for name, given in made.inputs.items()], ", ")


def _input(name: str, digest: str) -> Markup:
    return join([f"{name} ", element("span", digest[:DIGEST], class_="digest soft", title=digest)])


def _artifact(made: Artifact) -> Markup:
    figures = [[key, exact(quantity(key, value), value)] for key, value in flat(made.metrics).items()]
    settings = [[key, str(value)] for key, value in flat(made.identity).items()]
    files = [
        [name, exact(size(file["size"]), file["size"]), element("span", file["sha256"], class_="digest")]
        for name, file in made.files.items()
    ]
    return folded(
        f"{made.stage}: figures, settings, files",
        element("p", "digest ", element("span", made.digest, class_="digest"), class_="note"),
        *([table([], figures, class_="facts")] if figures else []),
        *([table([], settings, class_="facts")] if settings else []),
        *([table(["file", "size", "sha256"], files, (1,))] if files else []),
    )


def configuration(config: dict[str, Any]) -> Part:
    """The resolved settings of the whole run."""
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    return Part(
        "configuration", "Configuration", folded("every setting, defaults included", element("pre", text))
    )


def environment(artifacts: list[Artifact]) -> Part:
    """Commit, host and versions, once where all stages agree; each stage's command."""
    facts = ("commit", "host", "machine", "python")
    found = {
        key: {made.stage: str(made.made[key]) for made in artifacts if key in made.made} for key in facts
    }
    for name in dict.fromkeys(name for made in artifacts for name in made.made.get("versions", {})):
        found[name] = {
            made.stage: made.made["versions"][name]
            for made in artifacts
            if name in made.made.get("versions", {})
        }
    rows = [[key, _agreed(stages)] for key, stages in found.items() if stages]
    commands = [
        [made.stage, element("code", shlex.join(made.made["command"]))]
        for made in artifacts
        if "command" in made.made
    ]
    starts = [[made.stage, str(made.made["started"])] for made in artifacts if "started" in made.made]
    parts = [
        table([], rows, class_="facts"),
        folded("commands", table([], commands, class_="facts")),
        folded("starting times", table([], starts, class_="facts")),
    ]
    return Part("environment", "Environment", join(parts))


def _agreed(stages: dict[str, str]) -> str:
    """One value where the stages agree; else each value with its stages."""
    values: dict[str, list[str]] = {}
    for stage, value in stages.items():
        values.setdefault(value, []).append(stage)
    return (
        next(iter(values))
        if len(values) == 1
        else "; ".join(f"{value} ({', '.join(names)})" for value, names in values.items())
    )
