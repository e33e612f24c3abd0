"""The plan over files, in process: no JVM, no broker, no clock, the same decisions as on a cluster, byte for byte.

Events are taken in the order of their file. Before a chunk of them is decided, every outcome that became known
before the newest of them has met its event; each feature then counts only what was known before its own event.
"""

import gc
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, repeat
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.drift import Reference
from models.onnx import Session
from operators.join import Label
from operators.kernels.tables import Rows
from schemas.codec import DeadLetter
from streaming.decider import Decided, Decider
from streaming.engine import Events, Intake, Joiner, Labels, Lookup, OutcomeIntake, Truth, no_labels, to_labels, update
from streaming.lessons import Lessons
from streaming.plan import Plan, Stage
from streaming.refit import Refit
from streaming.signals import Signal
from streaming.teacher import Teacher

CHUNK = 1024
"""Events a step: large enough for vectors, small enough to stay in the cache."""


class Refused(NamedTuple):
    """A record that could not be decided: its file (`events` or `outcomes`), its number there from 1 on, its value."""

    file: str
    record: int
    value: bytes
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Step:
    """What came of one chunk: the events that are no duplicates, what was decided about each, the records that
    were refused, how many were duplicates, and what was signalled."""

    events: Events
    decided: Decided
    refused: Sequence[Refused]
    duplicates: int
    signals: Sequence[Signal] = ()


class _Table:
    """The states of one stage: a row for each key, in a matrix that grows."""

    def __init__(self, stage: Stage):
        self._features = stage.features
        self._rows: dict[str, int] = {}
        self._states = stage.features.zero(1024)

    def slots(self, keys: Sequence[str]) -> NDArray[np.int32]:
        """The row of each key; new keys get fresh ones."""
        rows = self._rows
        slots = np.fromiter(map(rows.get, keys, repeat(-1)), np.int32, len(keys))
        if (slots < 0).any():
            slots = np.fromiter((rows.setdefault(key, len(rows)) for key in keys), np.int32, len(keys))
        if len(rows) > len(self._states):
            more = self._features.zero(max(len(self._states), len(rows) - len(self._states)))
            self._states = np.concatenate((self._states, more))
        return slots

    def fold(self, rows: Rows, out: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Fold records into their rows; features to `out`. Which of them were fresh."""
        return self._features.update(self._states, rows, out)


class Replay:
    """One run of a plan. `now` (ms since the epoch) stands in for the time at which every record arrived.

    With `teach` it learns from the outcomes as it goes, and with `refit` (ms of event time) trees are fitted to them
    again and again; `teacher` has what was learned. `truth`, once it runs: by event id, since when (ms) its outcome is
    known, the first one of several, and what that is.
    """

    def __init__(self, plan: Plan, now: int, lookup: Lookup | None = None, teach: bool = False, refit: int = 0):
        self.plan = plan
        self._now = now
        self._intake = Intake(plan)
        self._decider = Decider(plan, lookup)
        self._tables = [_Table(stage) for stage in plan.stages]
        self._labelled = plan.labelled
        self._joiner = Joiner(plan) if self._labelled else None
        self._pending: defaultdict[str, bytes] = defaultdict(bytes)
        usual = dict[str, Reference]()
        self.teacher = Teacher(plan, usual.get) if teach else None
        self._refit = None
        if self.teacher and (refit or self.teacher.rule.drift.then == "refit"):
            self._refit = Refit(self.teacher, plan, refit or sys.maxsize, usual)
        self._lineup = self.teacher.lineup if self.teacher else None
        self._sessions: dict[str, Session] = {}
        self._newest = 0
        self.truth: dict[str, tuple[int, bool]] = {}

    def run(self, events: Iterable[bytes], outcomes: Iterable[bytes]) -> Iterator[Step]:
        """Decide `events`, JSON values in order, with `outcomes` in any order. At the end, what was known before the
        newest event is learned; what is signalled then comes in a step without events."""
        truth = Outcomes(self.plan, outcomes, self._now) if self.plan.workload.outcome else None
        for outcome in truth.all if truth else ():
            self.truth.setdefault(outcome.event, (outcome.at, outcome.label))
        self._lessons = Lessons(self.plan, truth.all) if truth and self.teacher else None
        gc.freeze()  # millions of outcomes, which stay: no collection of garbage need look at them
        refused, number = truth.refused if truth else [], 0
        for values in _chunks(events, CHUNK):
            yield from self._steps(values, truth, number, refused)
            refused, number = [], number + len(values)
        if signals := self._learn(self._newest):  # what the last chunk was too early for
            none, _ = self._intake([], np.empty(0, np.int64))
            yield Step(none, self._decider(none), (), 0, signals)

    def _steps(
        self, values: list[bytes], truth: "Outcomes | None", number: int, refused: list[Refused]
    ) -> Iterator[Step]:
        events, dead = self._intake(values, np.full(len(values), self._now))
        signals = self._learn(int(events.at.min())) if len(events.ids) else []
        self._newest = max(self._newest, int(events.at.max(initial=0)))
        refused = [*refused, *_refused("events", number, values, dead)]
        for part in self._parts(events):
            part, decided, duplicates = self._decide(part, truth)
            yield Step(part, decided, refused, duplicates, signals)
            refused, signals = [], []

    def _parts(self, events: Events) -> Iterator[Events]:
        """`events` in pieces, so that none is decided beside a later one whose label was known before it."""
        before = np.maximum.accumulate(np.concatenate(([0], events.at)))[:-1]
        cuts = [0]
        for row in np.flatnonzero(events.at < before).tolist() if self._joiner else ():
            known = self.truth.get(events.ids[row])
            if known is not None and known[0] < before[row]:
                cuts.append(row)
        for begin, end in pairwise([*cuts, len(events.ids)]):
            some = np.zeros(len(events.ids), np.bool_)
            some[begin:end] = True
            yield events.take(some) if len(cuts) > 1 else events

    def _decide(self, events: Events, truth: "Outcomes | None") -> tuple[Events, Decided, int]:
        labels: list[Label] = []
        if truth is not None and self._joiner is not None and len(events.ids):
            known = truth.before(int(events.at.max()))
            labels = self._joiner.events(events, self._pending, events.ids)
            labels += self._joiner.outcomes(known, self._pending, [outcome.event for outcome in known])
        duplicates = 0
        for stage, table in zip(self.plan.stages, self._tables, strict=True):
            keys, told = self._told(stage, labels)
            slot = table.slots([*keys, *events.entities[stage.index]])
            events, fresh = update(stage, table.fold, slot, events, told)
            duplicates += len(fresh) - int(fresh.sum())
        decided = self._decider(events)
        if self._lessons is not None and self.teacher is not None:
            self._lessons.served(events, decided)
            self.teacher.served(decided.waiting)
        return events, decided, duplicates

    def _learn(self, before: int) -> list[Signal]:
        """Learn what was known before `before`, the first event of a chunk, and let serve whom that made better."""
        lessons = self._lessons.before(before) if self._lessons else []
        if self.teacher is None or not lessons:
            return []
        signals = self.teacher.add(lessons)
        if self._refit is not None:
            signals += self._refit.add(lessons)
        if self.teacher.lineup != self._lineup:
            self._lineup = self.teacher.lineup
            artifacts = self.teacher.artifacts
            self._sessions = {v: self._sessions.get(v) or Session(artifact) for v, artifact in artifacts.items()}
            beside = [self._sessions[v] for v in self._lineup.challengers if v in self._sessions]
            self._decider.take(self._sessions.get(self._lineup.champion), beside)
        return signals

    def _told(self, stage: Stage, labels: Sequence[Label]) -> tuple[list[str], Labels]:
        """What `labels` tell `stage`, and the key that each is about."""
        if stage not in self._labelled or not labels:
            return [], no_labels(len(stage.columns))
        position = self._labelled.index(stage)
        return [label.texts[position].decode() for label in labels], to_labels(labels, stage)


class Outcomes:
    """All outcomes of a run, in the order in which they became known."""

    def __init__(self, plan: Plan, values: Iterable[bytes], now: int):
        self.all: list[Truth] = []
        self.refused: list[Refused] = []
        intake, number = OutcomeIntake(plan), 0
        for chunk in _chunks(values, 65_536):
            good, _, dead = intake(chunk, np.full(len(chunk), now))
            self.all += good
            self.refused += _refused("outcomes", number, chunk, dead)
            number += len(chunk)
        self.all.sort(key=attrgetter("at"))
        self._at = np.fromiter((outcome.at for outcome in self.all), np.int64, len(self.all))
        self._next = 0

    def before(self, at: int) -> list[Truth]:
        """Outcomes known before `at` that were not handed out yet."""
        end = max(int(np.searchsorted(self._at, at, side="left")), self._next)
        taken = self.all[self._next : end]
        self._next = end
        return taken


def _refused(file: str, before: int, values: Sequence[bytes], dead: Sequence[DeadLetter]) -> Iterator[Refused]:
    for letter in dead:
        yield Refused(file, before + letter.index + 1, values[letter.index], letter.kind, letter.detail)


def _chunks(values: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    left = iter(values)
    while chunk := list(islice(left, size)):
        yield chunk
