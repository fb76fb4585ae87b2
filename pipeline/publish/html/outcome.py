"""What came out of a run: the headline, the scores with their intervals, samples and images."""

import base64
import math
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pipeline.publish.html.charts import Scale, interval_axis, interval_mark, scale_of
from pipeline.publish.html.element import Markup, Part, element, exact, folded, join, table
from pipeline.run.artifact import Artifact
from pipeline.run.results import Score, decimals_of, prompt_of
from pipeline.run.units import number, quantity, words

UNFOLDED_SAMPLES = 24
IMAGES_A_STAGE = 12
SOUNDS = 12  # rows of players that are not folded


def figure(value: float, decimals: int) -> str:
    """A score's value with the decimals of its group."""
    return f"{value:,.{decimals}f}" if math.isfinite(value) else number(value)


def bounds(score: Score, decimals: int) -> str:
    """`[low, high]`, or nothing."""
    return "[{}, {}]".format(*(figure(bound, decimals) for bound in score.interval)) if score.interval else ""


def compared(groups: dict[str, list[Score]], count: int) -> dict[str, list[Score]]:
    """The first `count` scores that have something beside them; where none has, the first of all."""
    beside = {name: group for name, group in groups.items() if len(group) > 1} or groups
    return dict(list(beside.items())[:count])


def cards(groups: dict[str, list[Score]]) -> Markup:
    """One card a score: every model and baseline with its value and interval."""
    return element("div", *(_card(name, group) for name, group in groups.items()), class_="cards")


def _card(name: str, group: list[Score]) -> Markup:
    decimals = decimals_of(group)
    rows = [
        part
        for score in group
        for part in (
            element("dt", score.model),
            element("dd", exact(figure(score.value, decimals), score.value)),
            element("dd", bounds(score, decimals), class_="soft"),
        )
    ]
    return element(
        "div",
        element("h3", words(name)),
        element("small", about(group[0])),
        element("dl", *rows),
        class_="card",
    )


def about(score: Score) -> str:
    """`bits/byte, lower is better`; the unit is left out where the name already says it."""
    unit = "" if score.unit == score.name else score.unit
    return ", ".join(part for part in (unit, f"{score.better} is better" if score.better else "") if part)


def scores(groups: dict[str, list[Score]], missing: dict[str, str]) -> Part | None:
    """Every score with its interval on a scale shared within its name; protocols and gaps below."""
    if not groups and not missing:
        return None
    protocols = list(
        dict.fromkeys(score.protocol for group in groups.values() for score in group if score.protocol)
    )
    rows = [row for name, group in groups.items() for row in _group(name, group, protocols)]
    grid = element("div", element("table", element("tbody", *rows), class_="scores"), class_="scroll")
    notes = [
        element("p", element("sup", str(i + 1)), f" {text}", class_="note")
        for i, text in enumerate(protocols)
    ]
    gaps = [element("p", f"{name}: {why}", class_="note") for name, why in missing.items()]
    return Part("scores", "Scores", join([*([grid] if rows else []), *notes, *gaps]))


def _group(name: str, group: list[Score], protocols: list[str]) -> list[Markup]:
    decimals, scale = decimals_of(group), _shared_scale(group)
    title = element("th", words(name), element("small", f" {about(group[0])}"), colspan=3, scope="colgroup")
    axis = element("th", interval_axis(scale) if scale else "", class_="spread")
    head = element("tr", title, axis, class_="group")
    return [head, *(_row(score, decimals, scale, protocols) for score in group)]


def _row(score: Score, decimals: int, scale: Scale | None, protocols: list[str]) -> Markup:
    mark = element("sup", str(protocols.index(score.protocol) + 1)) if score.protocol else ""
    counted = element("small", f" n = {score.count:,}") if score.count is not None else ""
    spread = interval_mark(score.value, score.interval, scale) if scale else ""
    return element(
        "tr",
        element("td", score.model, mark, counted),
        element("td", exact(figure(score.value, decimals), score.value), class_="number"),
        element(
            "td",
            exact(bounds(score, decimals), score.interval) if score.interval else "",
            class_="number soft",
        ),
        element("td", spread, class_="spread"),
        class_=None if score.interval else "baseline",
    )


def _shared_scale(group: list[Score]) -> Scale | None:
    """The range of all values and bounds of a group; None where nothing is finite or nothing can be compared."""
    values = [value for score in group for value in (score.value, *(score.interval or ()))]
    finite = [value for value in values if math.isfinite(value)]
    return scale_of(finite, count=4, rounded=False) if len(set(finite)) > 1 else None


def samples(found: list[dict[str, Any]]) -> Part | None:
    """Every sample, by kind; what goes beyond the first ones is folded."""
    if not found:
        return None
    kinds = list(dict.fromkeys(str(sample.get("kind", "")) for sample in found))
    parts: list[str] = []
    for kind in kinds:
        shown = [_sample(sample) for sample in found if str(sample.get("kind", "")) == kind]
        parts += [element("h3", words(kind))] if kind else []
        parts += shown[:UNFOLDED_SAMPLES]
        rest = shown[UNFOLDED_SAMPLES:]
        parts += [folded(f"{len(rest)} more", *rest)] if rest else []
    return Part("samples", "Samples", join(parts))


def _sample(sample: dict[str, Any]) -> Markup:
    prompt, text = prompt_of(sample), str(sample.get("text", ""))
    turns = "chat" in str(sample.get("kind", "")) or not isinstance(sample.get("prompt", ""), str)
    caption = element("figcaption", " · ".join(_how(sample)))
    if turns:
        body = [element("pre", prompt, class_="prompt"), element("pre", text, class_="text")]
    else:
        spans = [element("span", prompt, class_="prompt")] if prompt else []
        body = [element("pre", *spans, element("span", text, class_="text"))]
    return element("figure", caption, *body, class_="sample turn" if turns else "sample")


def _how(sample: dict[str, Any]) -> list[str]:
    """How a sample was made, in words: everything beside its kind and texts."""
    told = {key: value for key, value in sample.items() if key not in ("kind", "prompt", "text")}
    return [_said(key, value) for key, value in told.items() if value is not None]


def _said(key: str, value: Any) -> str:
    if key == "seed":
        return f"seed {value}"
    if key == "tokens":
        return f"{quantity(key, value)} tokens"
    if key == "stopped" and isinstance(value, bool):
        return "ended by itself" if value else "cut at the limit"
    if isinstance(value, dict):
        return " · ".join(_said(name, part) for name, part in value.items())
    if isinstance(value, bool):
        return f"{words(key)}: {'yes' if value else 'no'}"
    return words(value) if isinstance(value, str) else f"{words(key)} {quantity(key, value)}"


def taught(found: dict[str, Any]) -> Part | None:
    """What the conversations teach: figures a split, and rows of which the taught parts stand out."""
    if not found:
        return None
    apart = ("shown", "by_source", "by_role")
    keys = [key for key in next(iter(found.values())) if key not in apart]
    rows = [[words(key), *(quantity(key, split[key]) for split in found.values())] for key in keys]
    heads = ["", *(words(split) for split in found)]
    shown = [_taught_row(segments) for split in found.values() for segments in split["shown"]]
    note = element("p", "Green is taught; the rest is what the model is given.", class_="note")
    rest = [folded(f"{len(shown) - 1} more rows", *shown[1:])] if shown[1:] else []
    parts = [table(heads, rows, (1, 2)), *_turns(next(iter(found.values()))), note, *shown[:1], *rest]
    return Part("taught", "What is taught", join(parts))


def _turns(training: dict[str, Any]) -> Iterator[Markup]:
    """What the sources of the training rows hold, and what stands in whose turn."""
    for title, key in (("source", "by_source"), ("whose turn", "by_role")):
        if counts := training.get(key):
            keys = list(next(iter(counts.values())))
            rows = [[name, *(quantity(key, one[key]) for key in keys)] for name, one in counts.items()]
            yield table([title, *map(words, keys)], rows, tuple(range(1, len(keys) + 1)))


def _taught_row(segments: list[list[Any]]) -> Markup:
    spans = [
        element("span", text, class_="taught" if is_taught else "prompt") for text, is_taught in segments
    ]
    return element("figure", element("pre", *spans), class_="sample")


def filtered(found: dict[str, list[dict[str, Any]]]) -> Part | None:
    """The first documents that each filter took; how many it took is in the ledger."""
    if not found:
        return None
    parts = [
        folded(
            f"{reason}: the first {len(rows)}",
            *(
                element(
                    "figure", element("figcaption", row["key"]), element("pre", row["text"]), class_="sample"
                )
                for row in rows
            ),
        )
        for reason, rows in found.items()
    ]
    note = element("p", "How many each filter took stands in the ledger below.", class_="note")
    return Part("filtered", "Documents left out", join([note, *parts]))


def images(found: dict[str, list[str]], artifacts: dict[str, Artifact]) -> Part | None:
    """The PNG files of each stage, held in the page itself."""
    if not found:
        return None
    return Part("images", "Images", join(_images(artifacts[stage], names) for stage, names in found.items()))


def _images(made: Artifact, names: list[str]) -> Markup:
    shown = [embedded(made.path / name, name) for name in names[:IMAGES_A_STAGE]]
    more = len(names) - len(shown)
    note = [element("p", f"{more} more in {made.stage}/", class_="note")] if more else []
    return join([element("h3", made.stage), element("div", *shown, class_="images"), *note])


def sounds(found: list[dict[str, Any]]) -> Part | None:
    """A player for every WAV file, held in the page itself: a column a kind, a row a wave."""
    if not found:
        return None
    kinds = list(dict.fromkeys(str(sound["kind"]) for sound in found))
    columns = [[_player(sound) for sound in found if sound["kind"] == kind] for kind in kinds]
    rows = [list(row) for row in zip_longest(*columns, fillvalue=Markup(""))]
    shown, rest = rows[:SOUNDS], rows[SOUNDS:]
    more = [folded(f"{len(rest)} more", table(kinds, rest))] if rest else []
    return Part("sounds", "Sounds", join([table(kinds, shown), *more]))


def _player(sound: dict[str, Any]) -> Markup:
    source = "data:audio/wav;base64," + base64.b64encode(sound["path"].read_bytes()).decode()
    caption = str(sound["caption"])
    audio = element("audio", src=source, controls="", preload="none", title=caption)
    return element("figure", audio, element("figcaption", caption), class_="sound")


def embedded(path: Path, caption: str) -> Markup:
    """A PNG held in the page; a small one is enlarged by a whole factor, so that its pixels stay square."""
    content = path.read_bytes()
    width = int.from_bytes(content[16:20], "big")  # the width field of a PNG's IHDR chunk
    enlarged = width * max(1, 260 // max(1, width))
    source = "data:image/png;base64," + base64.b64encode(content).decode()
    return element(
        "figure", element("img", src=source, alt=caption, width=enlarged), element("figcaption", caption)
    )
