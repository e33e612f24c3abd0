"""Curves over event time, for a terminal (braille) and as one page with an SVG, written by hand, for any browser.

Beside the way of an event, in a demo.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from rich.text import Text

from schemas.time import MILLISECONDS

DAY = MILLISECONDS["d"]
WIDTH, HEIGHT = 1000, 370  # of one panel
LEFT, RIGHT, TOP, BOTTOM = 60, 180, 70, 30  # margins; the legend stands in the right one
COLOURS = ("#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf")
MOVED, INJECTED = "#555555", "#d62728"
BARS = "▁▂▃▄▅▆▇█"
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character, by row and column of its dots."""

Points = list[tuple[int, float]]
"""Event times (ms) and values."""


def braille(layers: Sequence[tuple[Sequence[float], str]], height: int) -> Text:
    """Curves as dots, two columns and four rows of them a character, `height` characters high, with the range beside.

    A layer is values by column (NaN: none) and a rich style; where two share a character, the later has its colour.
    """
    shown = [value for values, _ in layers for value in values if math.isfinite(value)]
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    cells: dict[tuple[int, int], tuple[int, str]] = {}
    for values, style in layers:
        for x, value in enumerate(values):
            if math.isfinite(value):
                y = round((high - value) / ((high - low) or 1.0) * (4 * height - 1))
                place = y // 4, x // 2
                cells[place] = cells.get(place, (0, ""))[0] | DOTS[y % 4][x % 2], style
    width = (max((len(values) for values, _ in layers), default=0) + 1) // 2
    text = Text(no_wrap=True, overflow="crop")
    for row in range(height):
        for column in range(width):
            bits, style = cells.get((row, column), (0, ""))
            text.append(chr(0x2800 + bits) if bits else " ", style)
        label = {height - 1: low, 0: high}.get(row)
        text.append("\n" if label is None else f" {label:.4g}\n", "dim")
    text.right_crop(1)
    return text


def spark(shares: Sequence[float]) -> str:
    """The last 60 of values from 0 to 1 as bars."""
    return "".join(BARS[max(0, min(int(value * 7.99), 7))] for value in shares[-60:])


def day(at: int) -> str:
    """The day of an event time in ms."""
    return time.strftime("%Y-%m-%d", time.gmtime(at / 1000))


@dataclass(frozen=True)
class Panel:
    """One picture: curves by name, one of them `broad`; bands (time, low, high); dots; spans; marks with a name;
    `top` of the axis, which begins at 0, or None for the range of the curves."""

    title: str
    curves: dict[str, Points] = field(default_factory=dict)
    broad: str = ""
    bands: list[list[tuple[int, float, float]]] = field(default_factory=list)
    dots: Points = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    marks: list[tuple[int, str, str]] = field(default_factory=list)
    top: float | None = None

    def times(self) -> list[int]:
        """Event times of everything that is drawn."""
        return [at for points in self.curves.values() for at, _ in points] + [
            at for band in self.bands for at, _, _ in band
        ]

    def range(self) -> tuple[float, float]:
        """Lowest and highest value of the axis."""
        if self.top is not None:
            return 0.0, self.top
        values = [value for points in self.curves.values() for _, value in points]
        low, high = min(values, default=0.0), max(values, default=1.0)
        room = 0.3 * (high - low) if self.bands else 0.0  # they may be wide: what is outside is cut off
        return low - room, high + room if high > low else low + 1.0


@dataclass(frozen=True)
class _Axes:
    """Event times from `start` to `end` (ms) and values from `low` to `high`, as places in the picture."""

    start: int
    end: int
    low: float
    high: float

    def x(self, at: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (at - self.start) / (self.end - self.start)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.low) / (self.high - self.low)

    def line(self, points: Points) -> str:
        return " ".join(f"{self.x(at):.1f},{self.y(value):.1f}" for at, value in points)


def draw(title: str, about: str, panels: Sequence[Panel]) -> str:
    """A page of HTML: the panels below one another; `about` says what they show."""
    height = 40 + HEIGHT * len(panels)
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/><title>{escape(title)}</title></head><body>',
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="28" font-size="17">{escape(title)}</text>',
        f'<text x="{LEFT}" y="{height - 12}" fill="#555555">{escape(about)}</text>',
    ]
    for row, panel in enumerate(panels):
        times = panel.times() or [0]
        axes = _Axes(min(times), max(max(times), min(times) + DAY), *panel.range())
        parts.append(f'<g transform="translate(0 {row * HEIGHT})">')
        parts += [*_grid(panel, axes), *_areas(panel, axes), *_lines(panel, axes), *_marks(panel, axes), "</g>"]
    return "\n".join([*parts, "</svg></body></html>\n"])


def _grid(panel: Panel, axes: _Axes) -> Iterator[str]:
    """Lines and labels of the axes."""
    yield f'<text x="{LEFT}" y="{TOP - 28}" font-weight="bold">{escape(panel.title)}</text>'
    for fifth in range(6):
        value = axes.low + (axes.high - axes.low) * fifth / 5
        y = axes.y(value)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>'
    step = max(1, round((axes.end - axes.start) / DAY / 8)) * DAY
    for at in range(axes.start, axes.end + 1, step):
        day = time.strftime("%m-%d", time.gmtime(at / 1000))
        yield f'<text x="{axes.x(at):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{day}</text>'


def _areas(panel: Panel, axes: _Axes) -> Iterator[str]:
    """Spans of time and bands, below everything else."""
    for start, end in panel.spans:
        x, width = axes.x(start), max(axes.x(end) - axes.x(start), 1.5)
        yield f'<rect x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}" fill="#f2c14e80"/>'
    for band in panel.bands:
        sides = [(at, low) for at, low, _ in band] + [(at, high) for at, _, high in reversed(band)]
        outline = [(at, min(max(value, axes.low), axes.high)) for at, value in sides]
        yield f'<polygon points="{axes.line(outline)}" fill="#1f77b4" opacity="0.2"/>'


def _lines(panel: Panel, axes: _Axes) -> Iterator[str]:
    """The curves and their legend, and the dots over them."""
    x = WIDTH - RIGHT
    for row, (name, points) in enumerate(panel.curves.items()):
        style = f'stroke="{COLOURS[row % len(COLOURS)]}" stroke-width="{1 if len(points) > 300 else 2}"'
        if name == panel.broad:
            style = 'stroke="#f2c14e" stroke-width="9" opacity="0.6"'
        y = TOP + 10 + 20 * row
        yield f'<polyline points="{axes.line(points)}" fill="none" stroke-linejoin="round" {style}/>'
        yield f'<line x1="{x + 14}" x2="{x + 40}" y1="{y}" y2="{y}" {style}/>'
        yield f'<text x="{x + 48}" y="{y + 4}">{escape(name)}</text>'
    for at, value in panel.dots:
        yield f'<circle cx="{axes.x(at):.1f}" cy="{axes.y(value):.1f}" r="4" fill="{INJECTED}"/>'


def _marks(panel: Panel, axes: _Axes) -> Iterator[str]:
    """Moments, with their names above the curves."""
    for row, (at, text, colour) in enumerate(sorted(panel.marks)):
        if not axes.start <= at <= axes.end:
            continue
        x, y = axes.x(at), TOP - 16 + 12 * (row % 2)
        yield (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y + 4}" y2="{HEIGHT - BOTTOM}" stroke="{colour}" '
            f'stroke-dasharray="5 4"/><text x="{x + 4:.1f}" y="{y}" fill="{colour}">{escape(text)}</text>'
        )
