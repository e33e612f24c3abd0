"""What differs by workload in a demo: the events that are made up, what is looked for in the decisions, what is shown.

Before the way of an event, and behind it. One module here is one demo: its class `Demo` is a `Show`.
"""

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from rich.console import RenderableType

from schemas.decisions import Decision
from schemas.errors import DefinitionError
from schemas.topics import Topics
from streaming import kafka

if TYPE_CHECKING:
    from streaming.simulator import Record
    from streaming.workload import Workload

NAMES = ("fraud", "anomaly", "forecast")

Taker = Callable[[kafka.Record], None]


@dataclass(frozen=True)
class Run:
    """One run of a demo: ids of its events are `prefix` + number; `rate` events a second for `seconds`; `newest` is the
    event time (ms) of the newest event that was there before, `now` the wall clock (ms)."""

    prefix: str
    workload: "Workload"
    rate: float
    seconds: float
    newest: int | None
    now: int

    def start(self, days: int) -> int:
        """Event time (ms) of the first of `days` days: those after the newest event. DefinitionError where they would
        run into the future."""
        from streaming.simulator import BOOK_START, DAY

        start = BOOK_START if self.newest is None else (self.newest // DAY + 1) * DAY
        if start + days * DAY > self.now:
            known = time.strftime("%Y-%m-%d", time.gmtime((self.newest or 0) / 1000))
            raise DefinitionError(
                f"demo: found events up to {known} in the topic, and {days} simulated days after them would run into "
                "the future; expected fewer --seconds, or an installation of its own: "
                "MILLRACE_HOME=another-folder millrace demo"
            )
        return start


class Show(Protocol):
    """A demo of one workload, made for one `Run`. Threads that send and read call it, and the one that draws.

    sets: parameters of the workload that the demo overrides; decision: what a decision is decoded as; before: seconds
    of the stream that are published at once, before anything is shown.
    """

    sets: ClassVar[Mapping[str, str]]
    decision: ClassVar[type[Decision]]
    run: Run
    before: float

    def __init__(self, run: Run) -> None: ...

    def records(self) -> "Iterator[Record]":
        """Events (and outcomes) without end; event number i is due at i / rate seconds."""

    def decided(self, decision: Any) -> None:
        """Take a decision of this run, which is new."""

    def takers(self, topics: Topics) -> Mapping[str, Taker]:
        """What else is to be read, and who takes it."""

    def owed(self) -> int:
        """How much is still to come, beside decisions, of what was published."""

    def view(self, width: int) -> list[RenderableType]:
        """The workload's part of the live view."""

    def line(self) -> str:
        """The same as one line of text."""

    def told(self) -> list[str]:
        """What happened, in lines of the summary."""

    def picture(self) -> str:
        """The same as a page of HTML."""


def kind(name: str) -> type[Show]:
    """The demo of workload `name`."""
    if name not in NAMES:
        raise DefinitionError(f"demo {name}: found no simulation of it, expected {', '.join(NAMES)}")
    return cast(type[Show], importlib.import_module(f"{__name__}.{name}").Demo)
