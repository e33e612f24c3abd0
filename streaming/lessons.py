"""The join of decisions with their outcomes in a replay, and models refitted on a schedule: a year in a minute.

The twin on a cluster is `streaming.loop`. No example comes before its label was known, none twice.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ModelRejected
from streaming.engine import Decided, Events, Truth
from streaming.plan import Plan
from streaming.teacher import Lesson, Signal, Teacher

Pending = tuple[str, int, float, tuple[str, ...], tuple[float, ...], NDArray[np.float64]]
"""Key, at, weight, versions, scores and row of a decision."""


class Lessons:
    """Decisions that wait for their outcome."""

    def __init__(self, plan: Plan, outcomes: Sequence[Truth]):
        rule = plan.workload.learning
        assert rule is not None
        self._horizon, self._presume = rule.horizon, rule.presume
        self._outcomes = outcomes
        self._next = 0
        self._pending: dict[str, Pending] = {}
        self._early: dict[str, Truth] = {}
        self._ready: list[Lesson] = []
        self.counts = {"waiting": 0, "dropped": 0, "unmatched": 0}

    def served(self, events: Events, decided: Decided) -> None:
        """Let the decisions that weigh something wait."""
        rows = np.flatnonzero(decided.weight > 0).tolist()
        keys, at, weight = events.entities[0], events.at.tolist(), decided.weight.tolist()
        scores = list(zip(*(scores.tolist() for scores in decided.scored), strict=True))
        for i in rows:
            id = events.ids[i]
            waiting = keys[i], at[i], weight[i], decided.versions, scores[i], decided.columns[i]
            early = self._early.pop(id, None) if self._early else None
            if early is None:
                self._pending[id] = waiting
            else:
                self._ready.append(_lesson(id, waiting, max(early.at, at[i]), early.label, early.source))

    def before(self, at: int) -> list[Lesson]:
        """Examples whose label was known before `at`, in the order in which it became known; each once."""
        ready, self._ready = self._ready, []
        while self._next < len(self._outcomes) and self._outcomes[self._next].at < at:
            truth = self._outcomes[self._next]
            self._next += 1
            waiting = self._pending.pop(truth.event, None)
            if waiting is None:
                self._early[truth.event] = truth  # of its event, or of none that waits
            else:
                ready.append(_lesson(truth.event, waiting, truth.at, truth.label, truth.source))
        ready += self._expired(at)
        ready.sort(key=lambda lesson: lesson.known)
        return ready

    def _expired(self, now: int) -> Iterator[Lesson]:
        """What has waited longer than the horizon."""
        while self._pending:
            id = next(iter(self._pending))
            due = self._pending[id][1] + self._horizon
            if due >= now:
                return
            waiting = self._pending.pop(id)
            if self._presume is None:
                self.counts["dropped"] += 1
            else:
                yield _lesson(id, waiting, due, self._presume, "", True)


def _lesson(id: str, waiting: Pending, known: int, label: bool, source: str, presumed: bool = False) -> Lesson:
    key, at, weight, versions, scores, row = waiting
    return Lesson(id, key, at, known, label, presumed, weight, source, versions, scores, row)


class Refit:
    """Boosted trees, fitted every `every` ms of event time to all examples so far, as one lineage."""

    def __init__(self, teacher: Teacher, plan: Plan, every: int):
        self._teacher, self._every = teacher, every
        self._name = f"{plan.workload.name}-refit"
        self._columns = [plan.names.index(name) for name in teacher.inputs]
        self._rows: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.float64]] = []
        self._weights: list[NDArray[np.float64]] = []
        self._at: list[NDArray[np.int64]] = []
        self._due = 0

    def add(self, lessons: Sequence[Lesson]) -> list[Signal]:
        """Keep examples; fit where it is time, or where drift asks for it."""
        self._rows.append(np.array([lesson.row for lesson in lessons])[:, self._columns].astype(np.float32))
        self._labels.append(np.array([float(lesson.label) for lesson in lessons]))
        self._weights.append(np.array([lesson.weight for lesson in lessons]))
        self._at.append(np.array([lesson.at for lesson in lessons], np.int64))
        now = lessons[-1].known
        self._due = self._due or now + self._every
        if now < self._due and not self._teacher.refit_wanted:
            return []
        self._due, self._teacher.refit_wanted = now + self._every, False
        return self._fit(now)

    def _fit(self, now: int) -> list[Signal]:
        from models.boosting import fit  # brings LightGBM

        X, at = np.concatenate(self._rows), np.concatenate(self._at)
        label, weight = np.concatenate(self._labels), np.concatenate(self._weights)
        order = np.argsort(at, kind="stable")
        recipe = {"command": "millrace replay --refit", "until": now, "examples": len(label)}
        try:
            made = fit(
                X[order], label[order] > 0.5, self._teacher.inputs, self._name, at=at[order], weight=weight[order],
                recipe=recipe,
            )  # fmt: skip
        except ModelRejected as error:
            return [Signal("refused", self._name.rpartition("-")[0], now, {"model": self._name, "reason": str(error)})]
        return self._teacher.enter(made, now)
