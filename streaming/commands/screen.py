"""What the demo shows of a run: the live view, and its lines where there is no terminal."""

import time
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from streaming.course import Change, Course, Drift
    from streaming.live import Live, Pace

BARS = "▁▂▃▄▅▆▇█"
CHANGES = {"promote": "promoted", "rollback": "rolled back to", "champion": "made champion by hand"}


def view(live: "Live", pace: "Pace", history: list[float], seconds: float) -> RenderableType:
    """One frame of the live view."""
    tally = live.tally
    day = time.strftime("%A %Y-%m-%d %H:%M", time.gmtime(tally.at / 1000))
    passed = f"  {min(live.seconds, seconds):.0f} of {seconds:.0f} s   simulated {day}"
    head = Text.assemble(("Millrace", "bold"), passed)
    figures = Table.grid(padding=(0, 3))
    figures.add_row("events/s", "decisions/s", "latency p50", "p99", "decided", "dead letters", style="dim")
    figures.add_row(
        f"{pace.events:,.0f}", f"{pace.decisions:,.0f}", ms(pace.p50), ms(pace.p99),
        f"{len(tally.decided):,}", f"{len(tally.dead):,}", style="bold",
    )  # fmt: skip
    top = max(max(history, default=0.0), 1.0)
    actions = Text("   ".join(f"{name} {count:,}" for name, count in sorted(tally.actions.items())))
    latest = Table("score", "key", "simulated time", "reasons, strongest first", box=None, header_style="dim")
    for decision in list(tally.latest)[:5]:
        when = time.strftime("%m-%d %H:%M:%S", time.gmtime(decision.at / 1000))
        latest.add_row(f"{decision.score:.3f}", decision.key, when, ", ".join(decision.reasons))
    note = Text("latency: from Kafka's stamp of the event to its stamp of the decision, last 3 s", "dim")
    title = Text(f"Latest to {tally.alarm}" if tally.latest else f"Nothing to {tally.alarm} yet", "bold red")
    chart = Text(_spark([value / top for value in history]), "green")
    learned = _learned(live.course, tally.at)
    return Group(head, Text(), figures, chart, actions, note, Text(), *learned, Text(), title, latest)


def _learned(course: "Course", now: int) -> list[RenderableType]:
    """The part on learning: who decides, how good each is and was, what happened."""
    table = Table("model", "AP, 3 days", "", "evidence, log10", box=None, header_style="dim")
    for name in course.lineages():
        value, curve = course.now(name), [ap for _, ap in course.curves.get(name, [])]
        champion = name == course.champion
        shown = "-" if value is None else f"{value:.2f}"
        style = "bold" if champion else ""
        table.add_row(
            ("★ " if champion else "  ") + name, shown, _spark(curve[-30:]), evidence(course, name), style=style
        )
    events = [Text(happened(change)) for change in course.changes[-2:]]
    counts = f"Labels {len(course.learned):,}   models compiled {course.models}   starts with {course.start}"
    return [Text(counts, "bold"), table, *events, *(Text(line, "red") for line in drift(course, now))]


def learning(course: "Course", now: int) -> str:
    """The same as one line of text."""
    worth = [
        f"{name}{'*' if name == course.champion else ''} {value:.2f} ({evidence(course, name)})"
        for name in course.lineages()
        if (value := course.now(name)) is not None
    ]
    changes = [happened(change) for change in course.changes[-1:]]
    told = [f"labels {len(course.learned):,}", "AP " + ", ".join(worth) if worth else "no AP yet"]
    return "; ".join([*told, *changes, *drift(course, now)])


def evidence(course: "Course", name: str) -> str:
    """Where a lineage stands in its duel with the champion, log10."""
    duel = course.duels.get(name)
    if name == course.champion:
        return "champion"
    return "no duel yet" if duel is None else f"{duel.evidence:+.1f} of {duel.needed:.1f}"


def happened(change: "Change") -> str:
    """A promotion or rollback in words."""
    after = f" after {change.labels:,} labels" if change.labels else ""
    return f"{day(change.at)}: {CHANGES[change.kind]} {change.version}, instead of {change.instead}{after}"


def drift(course: "Course", now: int) -> list[str]:
    """What is known of drift: when it was injected, as soon as that is past, and what was signalled since."""
    if course.injected is None or now < course.injected:
        return [moved(found) for found in course.drifts[-1:]]
    later = [found for found in course.drifts if found.at >= course.injected]
    return [f"drift injected on {day(course.injected)}", *map(moved, later[:2])]


def moved(found: "Drift") -> str:
    """A signal of drift in words."""
    change = f"{found.found:.3g} where {found.expected:.3g} is usual"
    return f"{day(found.at)}: drift signalled, {found.name} {change}, since {day(found.since)}"


def day(at: int) -> str:
    """The day of an event time in ms."""
    return time.strftime("%Y-%m-%d", time.gmtime(at / 1000))


def ms(value: float | None) -> str:
    """A time in milliseconds."""
    return "-" if value is None else f"{value:.0f} ms"


def _spark(shares: list[float]) -> str:
    """The last 60 of values from 0 to 1 as bars."""
    return "".join(BARS[max(0, min(int(value * 7.99), 7))] for value in shares[-60:])
