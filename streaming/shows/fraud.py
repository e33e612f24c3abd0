"""The demo of fraud: simulated cards; a rule by hand is beaten by what is learned, and frauds change on a known day."""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import msgspec
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from schemas.decisions import Decision, Scored
from schemas.topics import Topics
from streaming.course import WINDOW, Change, Course, Drift
from streaming.lineages import lineage
from streaming.plot import INJECTED, MOVED, Panel, day, draw, spark
from streaming.shows import Run, Taker
from streaming.simulator import DAY, Frauds, Record, Spec, stream

DAYS_A_SECOND = 1.05
"""Simulated days that pass in a second, about, in runs of minutes: labels, 7 days late, are there after 7 seconds."""

DAYS = 1000
"""Simulated days that a longer run takes at most, about: its days pass more slowly."""

HISTORY = 18.0
"""Seconds of the stream that are published at once, before anything is shown: of nearly three weeks, the first twelve
days come with their labels."""

DRIFT, LIMIT = 0.45, 110.0
"""The share of a run after which frauds change: from then on every payment above the limit is one; it was 220 before.
So much of the run is left that the labels of that time, models that learned them, and the labels of what those decided
all come within it."""

TRANSACTIONS = 1.9
"""Transactions of a card in a day, about."""

CHANGES = {"promote": "promoted", "rollback": "rolled back to", "champion": "made champion by hand"}


class _Time(msgspec.Struct):
    at: int


def calendar(run: Run) -> Spec:
    """The simulated world of a run: cards and terminals, and days that go on after those that were there before.

    There are half as many cards as events a second, so that a day is over in one, and both windows and labels
    that are days late mean something within a minute. Frauds are some six times as frequent as in the book's data,
    and change on a day of their own.
    """
    rate, seconds = run.rate, run.seconds
    cards = max(50, round(rate / TRANSACTIONS / min(DAYS_A_SECOND, DAYS / seconds)))
    pace = rate / TRANSACTIONS / cards  # days a second
    days = int((seconds + HISTORY) * pace * 1.05) + 3
    start = run.start(days)
    later = (start - Spec.start) // DAY  # days that runs before this one took: other draws for other days
    frauds, changed = Frauds(terminals=1, cards=1), round((HISTORY + DRIFT * seconds) * pace)
    return Spec(
        cards=cards, terminals=max(1000, 2 * cards), days=days, start=start, frauds=frauds,
        drift=((changed, replace(frauds, amount_above=LIMIT)),),
        transaction_seed=later * 7919 % 2**31, fraud_seed=later * 7919 % 2**31,
    )  # fmt: skip


class Demo:
    """Cards, terminals and their frauds; the course of learning, and the latest that were declined.

    It starts with a weak model; and every simulated day, one a second, would be too often for new ones, each of which
    is tried in a process of its own.
    """

    sets: ClassVar[Mapping[str, str]] = {"learn": "true", "model": "rule", "compile": "3d"}
    decision: ClassVar[type[Decision]] = Scored
    before = HISTORY

    def __init__(self, run: Run) -> None:
        self.run, self._world = run, calendar(run)
        start, changed = self._world.start, self._world.drift[0][0] * DAY
        self.course = Course(run.prefix, run.workload.model, start, start + changed)
        self._alarm = run.workload.policy.actions[-1]
        self._latest: deque[Scored] = deque(maxlen=5)
        self._now = self._newest = 0  # event time of the newest decision and event, ms
        self._known: list[int] = []  # since when each outcome that was published is known
        self._time = msgspec.json.Decoder(_Time)

    def records(self) -> Iterator[Record]:
        """Transactions and their labels, as they become known."""
        for record in stream(self._world, self.run.rate, prefix=self.run.prefix):
            yield record
            at = self._time.decode(record.value).at  # it is published by now
            if record.topic == "events":
                self._newest = at
            else:
                self._known.append(at)

    def decided(self, decision: Scored) -> None:
        """Note the latest that were declined."""
        self._now = decision.at
        if decision.action == self._alarm:
            self._latest.appendleft(decision)

    def takers(self, topics: Topics) -> Mapping[str, Taker]:
        """Examples and signals tell what is learned."""
        return {topics.examples: self.course.example, topics.signals: self.course.signal}

    def owed(self) -> int:
        """Outcomes that are known by now, and are no examples yet; where all are, whether they have no model yet."""
        learning = self.run.workload.learning
        return self._missing() or int(learning is not None and self.course.behind(learning.compile))

    def _missing(self) -> int:
        if self.run.workload.learning is None:
            return 0
        return max(bisect_left(self._known, self._newest) - len(self.course.learned), 0)

    def view(self, width: int) -> list[RenderableType]:
        """Who decides, how good each is and was, what happened, and who was declined."""
        course = self.course
        table = Table("model", f"AP, {WINDOW} days", "", "evidence, log10", box=None, header_style="dim")
        for name in course.lineages():
            value, curve = course.now(name), [ap for _, ap in course.curves.get(name, [])]
            champion = name == course.champion
            row = ("★ " if champion else "  ") + name, "-" if value is None else f"{value:.2f}", spark(curve[-30:])
            table.add_row(*row, self._evidence(name), style="bold" if champion else "")
        latest = Table("score", "key", "simulated time", "reasons, strongest first", box=None, header_style="dim")
        for decision in list(self._latest):
            when = time.strftime("%m-%d %H:%M:%S", time.gmtime(decision.at / 1000))
            latest.add_row(f"{decision.score:.3f}", decision.key, when, ", ".join(decision.reasons))
        counts = f"Labels {len(course.learned):,}   models compiled {course.models}   starts with {course.start}"
        title = Text(f"Latest to {self._alarm}" if self._latest else f"Nothing to {self._alarm} yet", "bold red")
        changes = [Text(_happened(change)) for change in course.changes[-2:]]
        drift = [Text(line, "red") for line in self._drift()]
        return [Text(counts, "bold"), table, *changes, *drift, Text(), title, latest]

    def line(self) -> str:
        """What each model is worth, who decides, and what happened last."""
        course = self.course
        worth = [
            f"{name}{'*' if name == course.champion else ''} {value:.2f} ({self._evidence(name)})"
            for name in course.lineages()
            if (value := course.now(name)) is not None
        ]
        told = [f"labels {len(course.learned):,}", "AP " + ", ".join(worth) if worth else "no AP yet"]
        return "; ".join([*told, *map(_happened, course.changes[-1:]), *self._drift()])

    def told(self) -> list[str]:
        """What was learned, and whether each outcome was, once."""
        course, twice = self.course, self.course.learned_twice()
        lines = [
            f"{len(course.learned):,} labels learned, {course.models} models compiled; started with {course.start}"
        ]
        lines += [*map(_happened, course.changes), *self._drift()]
        lines += [f"{course.refused} models refused: {self.run.workload.topics.signals} says why"] * bool(
            course.refused
        )
        checked = "too few models to tell how often" if twice is None else f"{max(twice, 0):,} learned twice"
        lost = self._missing() + max(-(twice or 0), 0)
        return [*lines, f"outcomes: {len(self._known):,} published, {lost:,} lost, {checked}"]

    def picture(self) -> str:
        """Average precision by model over event time: a line for each lineage, a broad one for what decided."""
        course = self.course
        marks = [(change.at, f"{change.kind} {lineage(change.version)}", MOVED) for change in course.changes]
        marks += [(course.injected, "drift injected", INJECTED)] if course.injected is not None else []
        decided = "what decided"
        curves = {name or decided: list(course.curves[name]) for name in sorted(course.curves)}  # it comes first
        about = f"average precision of the last {WINDOW} days' events, from scores as served; event time"
        panel = Panel("", curves, decided, marks=marks, top=1.0)
        return draw(f"fraud: starts with {course.start}", about, [panel])

    def _evidence(self, name: str) -> str:
        """Where a lineage stands in its duel with the champion, log10."""
        duel = self.course.duels.get(name)
        if name == self.course.champion:
            return "champion"
        return "no duel yet" if duel is None else f"{duel.evidence:+.1f} of {duel.needed:.1f}"

    def _drift(self) -> list[str]:
        """What is known of drift: when it was injected, as soon as that is past, and what was signalled since."""
        course = self.course
        if course.injected is None or self._now < course.injected:
            return [_moved(found) for found in course.drifts[-1:]]
        later = [found for found in course.drifts if found.at >= course.injected]
        return [f"drift injected on {day(course.injected)}", *map(_moved, later[:2])]


def _happened(change: Change) -> str:
    """A promotion or rollback in words."""
    after = f" after {change.labels:,} labels" if change.labels else ""
    return f"{day(change.at)}: {CHANGES[change.kind]} {change.version}, instead of {change.instead}{after}"


def _moved(found: Drift) -> str:
    """A signal of drift in words."""
    change = f"{found.found:.3g} where {found.expected:.3g} is usual"
    return f"{day(found.at)}: drift signalled, {found.name} {change}, since {day(found.since)}"
