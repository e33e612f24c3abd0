"""The course of learning, watched from outside: what a workload's examples and signals topics tell of its models.

Beside the way of an event. An example carries the scores that each version served, so every curve here is
prequential: each score was given before its label was known. A lineage is what follows one another under one name.
"""

import threading
from collections import deque
from itertools import dropwhile
from typing import Any, NamedTuple

import msgspec
import numpy as np

from models.artifact import Artifact
from models.metrics import average_precision
from models.native import Native
from schemas.time import MILLISECONDS
from streaming import kafka
from streaming.lineages import lineage

DAY = MILLISECONDS["d"]

WINDOW = 3
"""Days of event time that one point of a curve covers; there is a new point each day."""

DECIDES = ""
"""The name of the curve of what decided, whichever lineage that was."""


class _Example(msgspec.Struct):
    event: str
    at: int
    label: bool
    label_at: int
    scores: dict[str, float | None]


class _Signal(msgspec.Struct):
    kind: str
    at: int
    detail: dict[str, Any] = {}


class Duel(NamedTuple):
    """Evidence (log10) that a challenger is better than the champion, and how much promotes it."""

    evidence: float
    needed: float


class Change(NamedTuple):
    """Who decides from event time `at` (ms) on, and instead of whom."""

    kind: str
    at: int
    version: str
    instead: str
    labels: int


class Drift(NamedTuple):
    """What moved, how far from what is usual, and since when: event times in ms."""

    at: int
    name: str
    found: float
    expected: float
    since: int


class Course:
    """What was learned in one run, of the events `prefix` + number; fed by the threads that read the topics.

    curves: by lineage and for DECIDES, (event time ms, average precision of the WINDOW days before it).
    """

    def __init__(self, prefix: str, model: Artifact | Native, start: int = 0, injected: int | None = None) -> None:
        """`model` is that of the workload, which begins; `start` and `injected`: event times (ms) of the first event,
        and from which on the simulated world is another."""
        self.injected = injected
        self._start = start
        self._model = model
        self.learned: set[str] = set()  # ids of the events whose outcome became an example
        self._known: dict[str, int] = {}  # event id → since when its label is known, of every example
        self._counts: list[tuple[int, int]] = []  # of each model: of how many examples it was made, known before when
        self.models = self.refused = self._made = 0
        self.champion: str | None = None  # the lineage that decides, as far as is known
        self.first: str | None = None  # the one that decided the oldest
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.duels: dict[str, Duel] = {}
        self.changes: list[Change] = []
        self.drifts: list[Drift] = []
        self.lock = threading.Lock()
        self._prefix, self._day = prefix, 0
        self._recent: deque[_Example] = deque()
        self._example, self._signal = msgspec.json.Decoder(_Example), msgspec.json.Decoder(_Signal)

    def example(self, record: kafka.Record) -> None:
        """Note an example; one that comes again, after a restart, counts once."""
        example = self._example.decode(record.value or b"")
        self._known[example.event] = example.label_at
        if not example.event.startswith(self._prefix) or example.event in self.learned:
            return
        day = example.at // DAY
        if self._recent and day > self._day:
            self._point(day * DAY)
        self._day = max(day, self._day)
        self._recent.append(example)
        self.learned.add(example.event)
        self.first = self.first or lineage(next(iter(example.scores)))
        self.champion = self.champion or self.first

    @property
    def start(self) -> str:
        """What decided first, in words: the workload's own model, or what was learned before."""
        own = lineage(self._model.version)
        if self.first not in (None, own):
            return f"{self.first}, as learned before"
        names = self._model.features
        return f"{own} ({', '.join(names) if len(names) < 4 else f'{len(names)} features'})"

    def _point(self, end: int) -> None:
        """The average precision of each lineage over the days before `end`."""
        self._recent = deque(dropwhile(lambda example: example.at < end - WINDOW * DAY, self._recent))
        label = np.array([example.label for example in self._recent])
        scores: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
        for row, example in enumerate(self._recent):
            for place, (version, score) in enumerate(example.scores.items()):
                for name in (lineage(version), DECIDES)[: 1 if place else 2]:
                    scores.setdefault(name, np.full(len(label), np.nan))[row] = np.nan if score is None else score
        with self.lock:
            for name, values in scores.items():
                seen = np.isfinite(values)
                if 2 * seen.sum() >= len(label) and label[seen].any():
                    point = end, average_precision(label[seen], values[seen])
                    self.curves.setdefault(name, []).append(point)

    def signal(self, record: kafka.Record) -> None:
        """Note a signal."""
        signal = self._signal.decode(record.value or b"")
        kind, at, detail = signal.kind, signal.at, signal.detail
        if kind == "model":
            self.models += 1
            if "by" not in detail and at >= self._start:  # others are made between two batches, or of an earlier run
                self._counts.append((detail["examples"], at))
                self._made = max(self._made, at)
        elif kind == "refused":
            self.refused += 1
        elif kind in ("promote", "rollback", "champion"):
            labels = int(detail.get("labels", 0))
            self.changes.append(Change(kind, at, detail["version"], detail["instead"], labels))
            self.champion, self.duels = lineage(detail["version"]), {}
        elif kind == "drift":
            found, expected = detail["found"], detail["expected"]
            self.drifts.append(Drift(at, detail["name"], found, expected, detail["since"]))
        elif kind == "evaluation":
            self.duels = {name: Duel(duel["evidence"], duel["needed"]) for name, duel in detail["duels"].items()}

    def behind(self, compile: int) -> bool:
        """Whether a model is still to come of the examples that came, where there is one every `compile` ms."""
        known = np.array(list(self._known.values()), np.int64)
        before = known[known < known.max(initial=0) // compile * compile]
        return bool(len(before)) and int(before.max() // compile + 1) * compile > self._made

    def learned_twice(self) -> int | None:
        """How many more examples the learners took, from the first model of this run to the last, than there were;
        below 0: so many were lost. None where no two models tell."""
        if not self._counts:
            return None
        (before, since), (after, until) = min(self._counts), max(self._counts)
        there = sum(since <= known < until for known in self._known.values())
        return after - before - there if until > since else None

    def now(self, name: str) -> float | None:
        """The newest average precision of a lineage."""
        with self.lock:
            return self.curves[name][-1][1] if name in self.curves else None

    def lineages(self) -> list[str]:
        """Every lineage with a curve or a duel, the champion first, then by what it is worth."""
        names = {*self.curves, *self.duels} - {DECIDES}
        return sorted(names, key=lambda name: (name != self.champion, -(self.now(name) or 0.0), name))
