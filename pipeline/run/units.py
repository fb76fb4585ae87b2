"""Numbers as people read them: separators, durations, sizes, and as many decimals as an interval supports."""

import math
from typing import Any

PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(value: float) -> str:
    """`1,234` for whole numbers; at most four significant digits for others; `NaN`, `inf` and `-inf` as such."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.4g}"
    shown = f"{value:,.{significant_decimals(value)}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def significant_decimals(value: float, digits: int = 4) -> int:
    """Decimals that show `digits` significant digits of `value`."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0


def interval_decimals(low: float, high: float) -> int:
    """Decimals that show two significant digits of the interval's width, six at most."""
    return min(6, significant_decimals(high - low, digits=2)) if high > low else 4


def duration(seconds: float) -> str:
    """`8.3 s`, `12 min 30 s` or `3 h 04 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes with a binary prefix: `512 B`, `1.21 GiB`."""
    for power, prefix in ((40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")):
        if abs(count) >= 2**power:
            return f"{count / 2**power:.2f} {prefix}B"
    return f"{count:.0f} B"


def prefixed(value: float, unit: str = "") -> str:
    """Three significant digits with a decimal prefix: `7.42 kFLOP/s`; small numbers as `number` has them."""
    for scale, prefix in PREFIXES:
        if abs(value) >= scale:
            return f"{value / scale:.3g} {prefix}{unit}".strip()
    return f"{number(value)} {unit}".strip()


def unit_of(key: str) -> str:
    """The unit that a figure's name ends in: `FLOP/s`, `tokens/s`, `s`, `bytes`, or none."""
    last = key.rsplit("/", 1)[-1]
    if last == "flops_per_second":
        return "FLOP/s"
    if last.endswith("_per_second"):
        return last.removesuffix("_per_second") + "/s"
    if last == "seconds" or last.endswith("_seconds") or key.startswith("seconds_"):
        return "s"
    return "bytes" if last == "bytes" or last.endswith("_bytes") else ""


def quantity(key: str, value: Any) -> str:
    """A figure with the unit that its name ends in; what is no number as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    unit = unit_of(key)
    if not math.isfinite(value) or not unit:
        return number(value)
    shown = {"s": duration, "bytes": size}.get(unit)
    return (
        shown(value)
        if shown
        else f"{prefixed(value, unit)}"
        if unit == "FLOP/s"
        else f"{number(value)} {unit}"
    )


def words(key: str) -> str:
    """`gradient_norm` as `gradient norm`."""
    return key.replace("_", " ")


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts and lists, each under its keys joined by `/`."""
    if isinstance(tree, dict):
        pairs = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list) and any(isinstance(value, dict | list) for value in tree):
        pairs = [(str(index), value) for index, value in enumerate(tree)]
    elif isinstance(tree, list):
        return {prefix: ", ".join(map(str, tree))}
    else:
        return {prefix: tree}
    return {
        key: leaf
        for name, value in pairs
        for key, leaf in flat(value, f"{prefix}/{name}" if prefix else name).items()
    }
