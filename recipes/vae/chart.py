"""Curves of quality against size as one PNG."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recipes.vae.rate_distortion import Point

SIZE, MARGIN = (760, 480), 56
INKS = ((38, 84, 160), (214, 96, 40), (240, 176, 128), (44, 140, 80), (150, 205, 165))
PAPER, AXIS = (255, 255, 255), (90, 90, 90)


def draw_curves(points: "list[Point]", path: Path) -> None:
    """PSNR over bytes a picture (logarithmic), a line a codec."""
    import math

    from PIL import Image, ImageDraw

    image = Image.new("RGB", SIZE, PAPER)
    draw = ImageDraw.Draw(image)
    logs = [math.log2(point.bytes_a_picture) for point in points]
    decibels = [point.decibels for point in points]
    spans = (min(logs), max(logs)), (min(decibels), max(decibels))

    def place(point: "Point") -> tuple[float, float]:
        across = _share(math.log2(point.bytes_a_picture), spans[0])
        up = _share(point.decibels, spans[1])
        return MARGIN + across * (SIZE[0] - 2 * MARGIN), SIZE[1] - MARGIN - up * (SIZE[1] - 2 * MARGIN)

    _axes(draw, spans)
    for row, codec in enumerate(dict.fromkeys(point.codec for point in points)):
        line = sorted(place(point) for point in points if point.codec == codec)
        draw.line(line, fill=INKS[row % len(INKS)], width=2)
        for x, y in line:
            draw.circle((x, y), 3, fill=INKS[row % len(INKS)])
        draw.text((MARGIN + 8, 8 + 12 * row), codec, fill=INKS[row % len(INKS)])
    image.save(path)


def _share(value: float, span: tuple[float, float]) -> float:
    return (value - span[0]) / max(span[1] - span[0], 1e-9)


def _axes(draw, spans: tuple[tuple[float, float], tuple[float, float]]) -> None:
    """Ticks at powers of two of bytes and at multiples of five decibels."""
    import math

    (low, high), (quiet, loud) = spans
    left, bottom = MARGIN, SIZE[1] - MARGIN
    draw.line([(left, MARGIN), (left, bottom), (SIZE[0] - MARGIN, bottom)], fill=AXIS)
    for power in range(math.ceil(low), math.floor(high) + 1):
        x = left + _share(power, (low, high)) * (SIZE[0] - 2 * MARGIN)
        draw.text((x - 8, bottom + 6), str(2**power), fill=AXIS)
    for level in range(5 * math.ceil(quiet / 5), math.floor(loud) + 1, 5):
        y = bottom - _share(level, (quiet, loud)) * (SIZE[1] - 2 * MARGIN)
        draw.text((left - 30, y - 6), str(level), fill=AXIS)
    draw.text((SIZE[0] // 2 - 40, bottom + 24), "bytes a picture", fill=AXIS)
    draw.text((4, MARGIN - 20), "PSNR, dB", fill=AXIS)
