"""The course of learning as a picture: one SVG file, written by hand, that any browser shows.

Beside the way of an event, at the end of a demo: prequential average precision over event time.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from streaming.course import DAY, DECIDES, WINDOW, Course
from streaming.teacher import lineage

WIDTH, HEIGHT = 1000, 440
LEFT, RIGHT, TOP, BOTTOM = 60, 180, 70, 60  # margins; the legend stands in the right one
COLOURS = ("#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf")
DECIDED = 'stroke="#f2c14e" stroke-width="9" opacity="0.6"'
MOVED, INJECTED = "#555555", "#d62728"


@dataclass(frozen=True)
class _Axes:
    """Event times from `start` to `end` (ms) and values from 0 to 1, as places in the picture."""

    start: int
    end: int

    def x(self, at: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (at - self.start) / (self.end - self.start)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value


def draw(course: Course, title: str) -> str:
    """The SVG: a line for each lineage, a broad one below for what decided; promotions, rollbacks and drift marked."""
    curves = {name: list(course.curves[name]) for name in sorted(course.curves)}
    times = [at for points in curves.values() for at, _ in points] or [course.injected or 0]
    axes = _Axes(min(times), max(max(times), min(times) + DAY))
    about = f"average precision of the last {WINDOW} days' events, from scores as served; event time"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="28" font-size="17">{escape(title)}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 14}" fill="#555555">{about}</text>',
    ]
    return "\n".join([*parts, *_grid(axes), *_lines(curves, axes), *_marks(course, axes), "</svg>\n"])


def _grid(axes: _Axes) -> Iterator[str]:
    """Lines and labels of the axes."""
    for tenth in range(0, 11, 2):
        y = axes.y(tenth / 10)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tenth / 10:.1f}</text>'
    step = max(1, round((axes.end - axes.start) / DAY / 8)) * DAY
    for at in range(axes.start, axes.end + 1, step):
        day = time.strftime("%m-%d", time.gmtime(at / 1000))
        yield f'<text x="{axes.x(at):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{day}</text>'


def _lines(curves: dict[str, list[tuple[int, float]]], axes: _Axes) -> Iterator[str]:
    """The curves and their legend; what decided comes first, so that the others lie over it."""
    x = WIDTH - RIGHT
    for row, (name, points) in enumerate(curves.items()):
        style = DECIDED if name == DECIDES else f'stroke="{COLOURS[row % len(COLOURS)]}" stroke-width="2"'
        line = " ".join(f"{axes.x(at):.1f},{axes.y(value):.1f}" for at, value in points)
        y = TOP + 10 + 20 * row
        yield f'<polyline points="{line}" fill="none" stroke-linejoin="round" {style}/>'
        yield f'<line x1="{x + 14}" x2="{x + 40}" y1="{y}" y2="{y}" {style}/>'
        yield f'<text x="{x + 48}" y="{y + 4}">{escape(name or "what decided")}</text>'


def _marks(course: Course, axes: _Axes) -> Iterator[str]:
    """Moments, with their names above the curves."""
    marks = [(change.at, f"{change.kind} {lineage(change.version)}", MOVED) for change in course.changes]
    if course.injected is not None:
        marks.append((course.injected, "drift injected", INJECTED))
    for row, (at, text, colour) in enumerate(sorted(marks)):
        if not axes.start <= at <= axes.end:
            continue
        x, y = axes.x(at), TOP - 22 + 14 * (row % 2)
        yield (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y + 4}" y2="{HEIGHT - BOTTOM}" stroke="{colour}" '
            f'stroke-dasharray="5 4"/><text x="{x + 4:.1f}" y="{y}" fill="{colour}">{escape(text)}</text>'
        )
