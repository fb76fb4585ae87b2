"""Charts as inline SVG: positions are percentages, so that text and strokes keep their size at any width."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.publish.html.element import Markup, element, join
from pipeline.run.units import number, prefixed, significant_decimals

COLOURS = 6  # classes s0 to s5 of the style sheet
BRIEF_LEGEND = 4  # with more lines than so many, a legend gives their ends alone
MARKED_POINTS = 24  # a series of at most so many points gets a dot for each


@dataclass(frozen=True)
class Series:
    """One line of a chart. points: (x, y) in order of x; y may be NaN or infinite."""

    label: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Scale:
    """A range of values laid out on 0 to 100 percent, with its ticks and the distance between them."""

    low: float
    high: float
    ticks: list[float]
    step: float

    def percent(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 3)


def nice_step(span: float, count: int) -> float:
    """The 1, 2 or 5 times a power of ten that cuts `span` into at most `count` parts."""
    power = 10.0 ** math.floor(math.log10(span / count))
    return next(factor * power for factor in (1, 2, 5, 10) if span <= factor * power * count * (1 + 1e-9))


def scale_of(values: list[float], count: int = 5, rounded: bool = True) -> Scale:
    """The range of the finite `values`; rounded: widened to whole ticks."""
    low, high = min(values), max(values)
    if low == high:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    step = nice_step(high - low, count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(index * step, 12) for index in range(first, last + 1)]
    if rounded:
        return Scale(ticks[0], ticks[-1], ticks, step)
    return Scale(low, high, [tick for tick in ticks if low <= tick <= high], step)


def downsample(points: list[tuple[float, float]], limit: int = 400) -> list[tuple[float, float]]:
    """At most `limit` points: of each bucket its lowest, highest and first non-finite one, so that spikes survive."""
    if len(points) <= limit:
        return points
    buckets = (limit - 2) // 3
    kept = {0, len(points) - 1}
    for bucket in range(buckets):
        indices = range(bucket * len(points) // buckets, (bucket + 1) * len(points) // buckets)
        finite = [index for index in indices if math.isfinite(points[index][1])]
        kept |= (
            {min(finite, key=lambda i: points[i][1]), max(finite, key=lambda i: points[i][1])}
            if finite
            else set()
        )
        kept |= set([index for index in indices if not math.isfinite(points[index][1])][:1])
    return [points[index] for index in sorted(kept)]


def line_chart(title: str, unit: str, x_label: str, series: list[Series], height: int = 200) -> Markup:
    """Lines over a shared x axis. Values that are not finite break their line and are marked at the top.

    Returns:
        a figure with the axes, the marks, and a legend that gives each line's first, last and extreme values.
    """
    drawn = [Series(line.label, downsample(line.points)) for line in series]
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points if math.isfinite(y)] or [0.0]
    x, y = scale_of(xs, count=6, rounded=False), scale_of(ys)
    plot = element(
        "svg",
        *_grid(x, y),
        element("text", x_label, x="100%", y="100%", dy=32, class_="axis", text_anchor="end"),
        _lines(drawn, x, y),
        *(mark for index, line in enumerate(drawn) for mark in _marks(line, index, x, y)),
        width="100%",
        height=height,
        role="img",
        aria_label=title,
    )
    heading = element("figcaption", title, *([element("small", f" {unit}")] if unit else []))
    legend = element(
        "ul",
        *(_legend(line, index, len(series), unit) for index, line in enumerate(series)),
        class_="legend",
    )
    return element("figure", heading, element("div", plot, class_="plot"), legend, class_="chart")


def _grid(x: Scale, y: Scale) -> list[Markup]:
    parts = []
    for tick, label in zip(y.ticks, tick_labels(y), strict=True):
        at = f"{100 - y.percent(tick):g}%"
        parts.append(element("line", x1="0", x2="100%", y1=at, y2=at, class_="rule"))
        parts.append(element("text", label, x=0, y=at, dx=-8, dy="0.32em", text_anchor="end", class_="axis"))
    for tick, label in zip(x.ticks, tick_labels(x), strict=True):
        at = f"{x.percent(tick):g}%"
        parts.append(element("line", x1=at, x2=at, y1="100%", y2="100%", class_="tick"))
        parts.append(element("text", label, x=at, y="100%", dy=16, text_anchor="middle", class_="axis"))
    return parts


def tick_labels(scale: Scale) -> list[str]:
    """All ticks of an axis in one manner, with the decimals that their distance asks for."""
    if max(map(abs, scale.ticks), default=0.0) >= 10_000:
        return [prefixed(tick) if tick else "0" for tick in scale.ticks]
    if scale.step < 1e-5:
        return [f"{tick:.1e}" if tick else "0" for tick in scale.ticks]
    decimals = significant_decimals(scale.step, digits=1)
    return [f"{tick:,.{decimals}f}" if tick else "0" for tick in scale.ticks]


def _lines(series: list[Series], x: Scale, y: Scale) -> Markup:
    """Every line in a box of 1000 x 1000 that is stretched over the plot."""
    paths = [
        element(
            "path", d=_path(line, x, y), class_=_colour("line", index), vector_effect="non-scaling-stroke"
        )
        for index, line in enumerate(series)
    ]
    return element(
        "svg", *paths, width="100%", height="100%", viewBox="0 0 1000 1000", preserveAspectRatio="none"
    )


def _colour(kind: str, index: int) -> str:
    """The classes of a line or dot; once the colours are used up, they come again dashed."""
    return f"{kind} s{index % COLOURS}" + (" again" if index >= COLOURS else "")


def _path(line: Series, x: Scale, y: Scale) -> str:
    commands, pen = [], False
    for at, value in line.points:
        if math.isfinite(value):
            # A point between two gaps has no line of its own; a stroke of no length shows it.
            start = "L" if pen else "M"
            commands.append(
                f"{start}{10 * x.percent(at):.1f} {1000 - 10 * y.percent(value):.1f}" + ("" if pen else "h0")
            )
        pen = math.isfinite(value)
    return "".join(commands)


def _marks(line: Series, index: int, x: Scale, y: Scale) -> list[Markup]:
    """Dots of a series of few points, and a cross at the top for each value that is not finite."""
    marks = []
    dotted = len(line.points) <= MARKED_POINTS
    for at, value in line.points:
        told = element("title", f"{line.label}, {number(at)}: {number(value)}")
        if not math.isfinite(value):
            marks.append(
                element(
                    "text", "×", told, x=f"{x.percent(at):g}%", y=4, text_anchor="middle", class_="broken"
                )
            )
        elif dotted:
            place = {"cx": f"{x.percent(at):g}%", "cy": f"{100 - y.percent(value):g}%"}
            marks.append(element("circle", told, r=2.5, class_=_colour("dot", index), **place))
    return marks


def _legend(line: Series, index: int, lines: int, unit: str) -> Markup:
    """A line's colour and name where there are several, its values in short, and its gaps."""
    finite = [(x, y) for x, y in line.points if math.isfinite(y)]
    broken = [x for x, y in line.points if not math.isfinite(y)]
    stroke = element("line", x1=0, x2=16, y1=5, y2=5, class_=_colour("line", index))
    swatch = element("svg", stroke, width=16, height=10)
    parts = [swatch, " ", element("b", line.label), " "] if lines > 1 else []
    if finite:
        show = _with_prefix if unit == "FLOP/s" else number
        parts.append(_ends(finite, show) + ("" if lines > BRIEF_LEGEND else _extremes(finite, show)))
    if broken:
        steps = ", ".join(number(x) for x in broken[:5]) + (", …" if len(broken) > 5 else "")
        parts.append(element("span", f" × {len(broken)} not finite, at {steps}", class_="broken"))
    return element("li", *parts)


def _ends(finite: list[tuple[float, float]], show: Callable[[float], str]) -> str:
    values = {y for _, y in finite}
    return f"{show(finite[0][1])} → {show(finite[-1][1])}" if len(values) > 1 else show(finite[0][1])


def _extremes(finite: list[tuple[float, float]], show: Callable[[float], str]) -> str:
    (low_x, low), (high_x, high) = (choose(finite, key=lambda point: point[1]) for choose in (min, max))
    if len(finite) == 1:
        return f" at {number(low_x)}"
    told = f"; lowest {show(low)} at {number(low_x)}, highest {show(high)} at {number(high_x)}"
    return f"{told if high > low else ''}; {len(finite):,} values"


def _with_prefix(value: float) -> str:
    return prefixed(value, "FLOP/s")


def interval_mark(value: float, interval: tuple[float, float] | None, scale: Scale) -> Markup:
    """A dot at `value` and a bar over its interval, on a scale shared with other rows."""
    parts = [element("line", x1="0", x2="100%", y1=8, y2=8, class_="rule")]
    if interval:
        low, high = (f"{scale.percent(bound):g}%" for bound in interval)
        parts.append(element("line", x1=low, x2=high, y1=8, y2=8, class_="interval"))
    if math.isfinite(value):
        parts.append(element("circle", cx=f"{scale.percent(value):g}%", cy=8, r=4, class_="value"))
    return element("svg", *parts, width="100%", height=16, aria_hidden="true")


def interval_axis(scale: Scale) -> Markup:
    """The ticks above a column of `interval_mark`s."""
    labels = [
        element("text", label, x=f"{scale.percent(tick):g}%", y=12, text_anchor="middle", class_="axis")
        for tick, label in zip(scale.ticks, tick_labels(scale), strict=True)
    ]
    return element("svg", *labels, width="100%", height=16, aria_hidden="true")


def bar_chart(title: str, bars: list[tuple[str, float]], show: Callable[[float], str]) -> Markup:
    """Horizontal bars from zero. bars: (label, value >= 0); show: how a value is written."""
    longest = max((value for _, value in bars), default=0.0) or 1.0
    rows = [
        join(
            [
                element("span", label, class_="label"),
                element(
                    "svg",
                    element(
                        "rect",
                        x=0,
                        y=3,
                        width=f"{max(0.4, 100 * value / longest):.2f}%",
                        height=12,
                        rx=1.5,
                        class_="bar",
                    ),
                    width="100%",
                    height=18,
                    aria_hidden="true",
                ),
                element("span", show(value), class_="number"),
            ]
        )
        for label, value in bars
    ]
    return element(
        "figure", element("figcaption", title), element("div", *rows, class_="bars"), class_="chart"
    )
