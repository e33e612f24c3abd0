"""The plan over files, in process: no JVM, no broker, no clock, the same decisions as on a cluster, byte for byte.

Events are taken in the order of their file. Before a chunk of them is decided, every outcome that became known
before the newest of them has met its event; each feature then counts only what was known before its own event.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.join import Label
from schemas.codec import DeadLetter
from streaming.engine import Decided, Decider, Events, Intake, Joiner, Labels, Lookup, no_labels, to_labels, update
from streaming.plan import Plan, Stage

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
    were refused, and how many were duplicates."""

    events: Events
    decided: Decided
    refused: Sequence[Refused]
    duplicates: int


class _Table:
    """The states of one stage: a row for each key, in a matrix that grows."""

    def __init__(self, stage: Stage):
        self._features = stage.features
        self._rows: dict[str, int] = {}
        self.states = stage.features.zero(1024)

    def slots(self, keys: Sequence[str]) -> NDArray[np.int32]:
        """The row of each key; new keys get fresh ones."""
        rows = self._rows
        known = list(map(rows.get, keys))
        if None in known:
            known = [rows.setdefault(key, len(rows)) for key in keys]
        slots = np.array(known, np.int32)
        if len(rows) > len(self.states):
            more = self._features.zero(max(len(self.states), len(rows) - len(self.states)))
            self.states = np.concatenate((self.states, more))
        return slots


class Replay:
    """One run of a plan. `now` (ms since the epoch) stands in for the time at which every record arrived."""

    def __init__(self, plan: Plan, now: int, lookup: Lookup | None = None):
        self.plan = plan
        self._now = now
        self._intake = Intake(plan)
        self._decider = Decider(plan, lookup)
        self._tables = [_Table(stage) for stage in plan.stages]
        self._labelled = plan.labelled
        self._joiner = Joiner(plan) if self._labelled else None
        self._pending: defaultdict[str, bytes] = defaultdict(bytes)

    def run(self, events: Iterable[bytes], outcomes: Iterable[bytes]) -> Iterator[Step]:
        """Decide `events`, JSON values in order, with `outcomes` in any order."""
        truth = Outcomes(self._joiner, outcomes, self._now) if self._joiner else None
        refused, number = truth.refused if truth else [], 0
        for values in _chunks(events, CHUNK):
            yield self._step(values, truth, number, refused)
            refused, number = [], number + len(values)

    def _step(self, values: list[bytes], truth: "Outcomes | None", number: int, refused: list[Refused]) -> Step:
        events, dead = self._intake(values, np.full(len(values), self._now))
        labels: list[Label] = []
        if truth is not None and self._joiner is not None and len(events.ids):
            known = truth.before(int(events.at.max()))
            labels = self._joiner.events(events, self._pending, events.ids)
            labels += self._joiner.outcomes(known, self._pending, [event for event, _, _ in known])
        duplicates = 0
        for stage, table in zip(self.plan.stages, self._tables, strict=True):
            keys, told = self._told(stage, labels)
            slot = table.slots([*keys, *events.entities[stage.index]])
            events, again = update(stage, table.states, slot, events, told)
            duplicates += again
        decided = self._decider(events)
        return Step(events, decided, [*refused, *_refused("events", number, values, dead)], duplicates)

    def _told(self, stage: Stage, labels: Sequence[Label]) -> tuple[list[str], Labels]:
        """What `labels` tell `stage`, and the key that each is about."""
        if stage not in self._labelled or not labels:
            return [], no_labels(len(stage.columns))
        position = self._labelled.index(stage)
        return [label.texts[position].decode() for label in labels], to_labels(labels, stage)


class Outcomes:
    """All outcomes of a run, in the order in which they became known."""

    def __init__(self, joiner: Joiner, values: Iterable[bytes], now: int):
        self._outcomes: list[tuple[str, int, bool]] = []
        self.refused: list[Refused] = []
        number = 0
        for chunk in _chunks(values, 65_536):
            good, _, dead = joiner.decode(chunk, np.full(len(chunk), now))
            self._outcomes += good
            self.refused += _refused("outcomes", number, chunk, dead)
            number += len(chunk)
        self._outcomes.sort(key=lambda outcome: outcome[1])
        self._at = np.fromiter((at for _, at, _ in self._outcomes), np.int64, len(self._outcomes))
        self._next = 0

    def before(self, at: int) -> list[tuple[str, int, bool]]:
        """Outcomes known before `at` that were not handed out yet."""
        end = max(int(np.searchsorted(self._at, at, side="left")), self._next)
        taken = self._outcomes[self._next : end]
        self._next = end
        return taken


def _refused(file: str, before: int, values: Sequence[bytes], dead: Sequence[DeadLetter]) -> Iterator[Refused]:
    for letter in dead:
        yield Refused(file, before + letter.index + 1, values[letter.index], letter.kind, letter.detail)


def _chunks(values: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    for value in values:
        chunk.append(value)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
