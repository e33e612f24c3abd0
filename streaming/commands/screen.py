"""What the demo shows of a run: the live view, and its lines where there is no terminal."""

import time
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from streaming.plot import spark

if TYPE_CHECKING:
    from streaming.live import Live, Pace, Tally


def view(
    live: "Live", pace: "Pace", history: list[float], seconds: float, width: int, told: list[str]
) -> RenderableType:
    """One frame of the live view."""
    tally = live.tally
    now = time.strftime("%A %Y-%m-%d %H:%M", time.gmtime(tally.at / 1000)) if tally.at else "-"
    passed = f"  {min(live.seconds, seconds):.0f} of {seconds:.0f} s   simulated {now}   {past(tally)}"
    head = Text.assemble(("Millrace", "bold"), passed)
    figures = Table.grid(padding=(0, 3))
    figures.add_row("events/s", "decisions/s", "latency p50", "p99", "decided", "dead letters", style="dim")
    figures.add_row(
        f"{pace.events:,.0f}", f"{pace.decisions:,.0f}", ms(pace.p50), ms(pace.p99),
        f"{len(tally.decided):,}", f"{len(tally.dead):,}", style="bold",
    )  # fmt: skip
    top = max(max(history, default=0.0), 1.0)
    chart = Text(spark([value / top for value in history]), "green")
    mended = [Text(line, "red") for line in told[-2:]]
    note = Text("latency: from Kafka's stamp of the event to its stamp of the decision, last 3 s", "dim")
    return Group(head, Text(), figures, chart, Text(actions(tally)), note, *mended, Text(), *live.show.view(width))


def past(tally: "Tally") -> str:
    """How far the history is decided, until it is."""
    return "" if tally.past >= tally.before else f"history: {tally.past:,} of {tally.before:,} decided"


def actions(tally: "Tally") -> str:
    """How many decisions there were of each action."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(tally.actions.items()))


def ms(value: float | None) -> str:
    """A time in milliseconds."""
    return "-" if value is None else f"{value:.0f} ms"
