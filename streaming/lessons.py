"""The join of decisions with their outcomes in a replay.

The twin on a cluster is `streaming.loop`. No example comes before its label was known, none twice.
"""

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from operators.examples import rank
from streaming.decider import Decided
from streaming.engine import Events, Truth
from streaming.lesson import Lesson
from streaming.plan import Plan

Pending = tuple[str, int, float, tuple[str, ...], tuple[float, ...], NDArray[np.float64]]
"""Key, at, weight, versions, scores and row of a decision."""


class Lessons:
    """Decisions that wait for their outcome; `outcomes` in the order in which they became known."""

    def __init__(self, plan: Plan, outcomes: Sequence[Truth]):
        rule = plan.workload.learning
        assert rule is not None
        self._horizon, self._presume = rule.horizon, rule.presume
        self._outcomes = outcomes
        self._next = 0
        self._seen: set[str] = set()
        self._pending: dict[str, Pending] = {}
        self._expiring: list[tuple[int, str]] = []
        self._early: dict[str, list[Truth]] = {}  # as they became known
        self._ready: dict[str, Lesson] = {}

    def served(self, events: Events, decided: Decided) -> None:
        """Let the decisions that weigh something wait; each once."""
        rows = np.flatnonzero(decided.weight > 0)
        keys, at, weight = events.entities[0], events.at.tolist(), decided.weight.tolist()
        scores = list(zip(*(scores.tolist() for scores in decided.scored), strict=True))
        for i, row in zip(rows.tolist(), decided.columns[rows], strict=True):
            id = events.ids[i]
            if id in self._seen:
                continue
            self._seen.add(id)
            waiting = keys[i], at[i], weight[i], decided.versions, scores[i], row
            told = self._early.pop(id, None) if self._early else None
            early = min(reversed(told), key=lambda truth: rank(truth.at, at[i])) if told else None
            if early is not None and early.at <= at[i] + self._horizon:
                self._tell(waiting, early)
            else:
                self._pending[id] = waiting
                heappush(self._expiring, (at[i] + self._horizon, id))

    def before(self, at: int) -> list[Lesson]:
        """Examples whose label was known before `at`, in the order in which it became known; each once."""
        while self._next < len(self._outcomes) and self._outcomes[self._next].at < at:
            truth = self._outcomes[self._next]
            self._next += 1
            self._expire(truth.at)
            waiting, ready = self._pending.pop(truth.event, None), self._ready.get(truth.event)
            if waiting is not None:
                self._tell(waiting, truth)
            elif ready is not None and truth.at <= ready.known:
                self._ready[truth.event] = ready._replace(label=truth.label, source=truth.source)
            elif truth.event not in self._seen:
                self._early.setdefault(truth.event, []).append(truth)  # the event is yet to come, or none that waits
        self._expire(at)
        found = [lesson for lesson in self._ready.values() if lesson.known < at]
        for lesson in found:
            del self._ready[lesson.id]
        return sorted(found, key=lambda lesson: (lesson.known, lesson.id))

    def _tell(self, waiting: Pending, truth: Truth) -> None:
        known = max(truth.at, waiting[1])
        self._ready[truth.event] = _lesson(truth.event, waiting, known, truth.label, truth.source)

    def _expire(self, now: int) -> None:
        """Presume or drop what has waited longer than the horizon."""
        while self._expiring and self._expiring[0][0] < now:
            due, id = heappop(self._expiring)
            waiting = self._pending.pop(id, None)
            if waiting is not None and self._presume is not None:
                self._ready[id] = _lesson(id, waiting, due, self._presume, "", True)


def _lesson(id: str, waiting: Pending, known: int, label: bool, source: str, presumed: bool = False) -> Lesson:
    key, at, weight, versions, scores, row = waiting
    return Lesson(id, key, at, known, label, presumed, weight, source, versions, scores, row)
