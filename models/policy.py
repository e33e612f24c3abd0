"""Policies: what is done about a score.

A policy turns the scored rows of a batch into decisions. It is the only place that names actions, and it must
state the action of a degraded decision, one that was made while a dependency was down.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from types import MappingProxyType
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.decisions import Decision, Scored
from schemas.errors import DefinitionError

F64 = NDArray[np.float64]

DIGITS = 6
"""Digits of a score in a decision: beyond those, float32 models say nothing."""


class Batch(msgspec.Struct, frozen=True, eq=False):
    """`k` scored events.

    ids and keys k strings, at i64[k] ms, degraded bool[k], scores f64[k] in 0–1, columns f64[k, c] by `names`;
    `contributions(rows)` gives, for some rows, what each of `inputs` added to the score, f64[len(rows), inputs];
    `maps` the names in each event's mapping fields, parted by zero characters, in the order of their columns.
    """

    workload: str
    model: str
    ids: Sequence[str]
    keys: Sequence[str]
    at: NDArray[np.int64]
    degraded: NDArray[np.bool_]
    scores: F64
    names: tuple[str, ...]
    columns: F64
    inputs: tuple[str, ...]
    contributions: Callable[[NDArray[np.int64]], F64]
    maps: Mapping[str, Sequence[str]] = MappingProxyType({})

    def column(self, name: str) -> F64:
        """One of `columns`, f64[k]."""
        return self.columns[:, self.names.index(name)]


class Policy(Protocol):
    """Scored rows → decisions, and the action of each for the metrics."""

    @property
    def actions(self) -> tuple[str, ...]:
        """Every action that this policy can take."""

    def decide(self, batch: Batch) -> tuple[Sequence[Decision | None], Sequence[str]]:
        """Decisions of `batch` in its order, and their actions; None where an event is not to be decided about."""


@dataclass(frozen=True)
class Thresholds:
    """The action of the highest level that the score reaches. Rows that reach any level get `reasons` reasons."""

    levels: tuple[float, ...]
    actions: tuple[str, ...]
    degraded: str
    reasons: int

    def decide(self, batch: Batch) -> tuple[Sequence[Decision], Sequence[str]]:
        """A `Scored` decision for each row; a degraded one takes the action declared for it."""
        rounded = batch.scores.round(DIGITS)
        levels = np.array(self.levels).searchsorted(rounded, "right")
        taken = np.where(batch.degraded, -1, levels).tolist()
        actions = list(map((*self.actions, self.degraded).__getitem__, taken))
        reasons: list[tuple[str, ...]] = [()] * len(actions)
        alerted = ((levels > 0) | batch.degraded).nonzero()[0].tolist()
        if alerted and self.reasons:
            for row, strongest in zip(alerted, self._reasons(batch, np.array(alerted)), strict=True):
                reasons[row] = strongest
        workload, model = ([name] * len(actions) for name in (batch.workload, batch.model))
        who = batch.ids, workload, batch.ids, batch.at.tolist(), batch.keys, model
        rows = zip(*who, batch.degraded.tolist(), rounded.tolist(), actions, reasons, strict=True)
        return list(starmap(Scored, rows)), actions

    def _reasons(self, batch: Batch, rows: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """Names of the inputs that raised the score of each row, strongest first."""
        raised = batch.contributions(rows)
        order = np.argsort(-raised, axis=1, kind="stable")[:, : self.reasons]
        return [
            tuple(batch.inputs[i] for i in best if row[i] > 0)
            for row, best in zip(raised.tolist(), order.tolist(), strict=True)
        ]


def thresholds(*, degraded: str, otherwise: str = "approve", reasons: int = 3, **levels: float) -> Thresholds:
    """A policy by score: `thresholds(review=0.5, decline=0.9, degraded="review")`.

    `levels` are the least scores of their actions, `otherwise` the action below all of them, `degraded` the action
    of a degraded decision, and `reasons` how many reasons an alerted decision names.
    """
    for action, level in levels.items():
        if not isinstance(level, int | float) or not 0 <= level <= 1:
            raise DefinitionError(f"thresholds({action}={level!r}): found {level!r}, expected a score between 0 and 1")
    if not isinstance(reasons, int) or reasons < 0:
        raise DefinitionError(f"thresholds(reasons={reasons!r}): expected how many reasons to name, 0 or more")
    ordered = sorted(levels.items(), key=lambda level: level[1])
    actions = (otherwise, *(action for action, _ in ordered))
    if len(set(actions)) < len(actions) or len({level for _, level in ordered}) < len(ordered):
        raise DefinitionError(f"thresholds: found {levels} over {otherwise!r}, expected different actions and levels")
    if degraded not in actions:
        raise DefinitionError(f"thresholds(degraded={degraded!r}): expected one of {', '.join(actions)}")
    return Thresholds(tuple(level for _, level in ordered), actions, degraded, reasons)
