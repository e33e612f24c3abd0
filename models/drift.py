"""Drift: features, scores and the loss of a model against what they were when it was trained.

Beside the way of an event: rows as served, and losses once labels have come, go in; signals come out that name
what moved, by how much and since when, for `W.signals`. What follows is the workload's declaration.

A column is watched by its population stability index, PSI = Σ (p - q) · log(p / q) over bins that held equal shares
q of the training rows, window by window of event time. What differs from day to day by nature (weekends) is in
the reference as well: the largest PSI of a window of the training range against all of it, and only what exceeds
both that and the declared threshold is a signal. Loss is watched by ADWIN (Bifet and Gavaldà, 2007).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.kernels.adwin import Windows, windows
from models.kernels.evaluation import COUNT, STEP, TIMES, count, follow, parts
from models.promotion import CLIP
from models.rules import DriftRule
from models.snapshot import pack, unpack
from schemas.errors import DefinitionError, ModelRejected
from schemas.time import duration

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

RARE = 1e-3  # a share of the rows
MARKS = 512  # times that tell since when; at most one in 256 of the window's length apart


@dataclass(frozen=True, slots=True)
class Signal:
    """`name` has moved: its `kind` measure is `found`, where `expected` is usual; since and at: event time, ms."""

    kind: Literal["psi", "loss"]
    name: str
    found: float
    expected: float
    since: int
    at: int


class Reference(msgspec.Struct, frozen=True):
    """What the columns of a model were in its training range; small, and JSON beside the model.

    edges: upper ends of each column's bins but the last; counts: rows in each bin, the last two those above all
    edges and missing; usual: the largest PSI of a window of the training range.
    """

    names: tuple[str, ...]
    edges: tuple[tuple[float, ...], ...]
    counts: tuple[tuple[float, ...], ...]
    usual: tuple[float, ...]

    @classmethod
    def of(
        cls, rows: F64, names: Sequence[str], at: I64 | None = None, window: str = "1d", bins: int = 10
    ) -> "Reference":
        """From rows f[n, d], the columns called `names`: features, scores or both; NaN is missing.

        `at` i64[n] ms, in order, tells windows apart; without it nothing is usual but no change.
        """
        values = np.ascontiguousarray(rows, np.float64)
        if values.ndim != 2 or values.shape[1] != len(names) or not len(values) or bins < 2:
            raise DefinitionError(
                f"drift.Reference: found rows {values.shape}, {bins} bins; expected {len(names)} columns, 2 bins"
            )
        edges = []
        for column in values.T:
            there = column[np.isfinite(column)]
            ends = np.quantile(there, np.arange(bins + 1) / bins, method="lower") if len(there) else np.zeros(1)
            ends[0] = np.nextafter(ends[0], -np.inf)  # what lies outside the training range has bins of its own
            edges.append(tuple(np.unique(ends).tolist()))
        made = cls(tuple(names), tuple(edges), ((),) * len(edges), (0.0,) * len(edges))
        total = made.count(values)
        usual = np.zeros(len(edges))
        if at is not None:
            of = np.asarray(at, np.int64) // duration(window)
            for part in np.split(values, np.flatnonzero(np.diff(of)) + 1):
                if 2 * len(part) * len(np.unique(of)) >= len(values):  # no window that is mostly cut off
                    usual = np.maximum(usual, psi(made.count(part), total))
        stored = tuple(tuple(row) for row in total.tolist())
        return msgspec.structs.replace(made, counts=stored, usual=tuple(usual.tolist()))

    def table(self) -> F64:
        """Edges as f64[d, widest], inf where a column has fewer."""
        table = np.full((len(self.edges), max(map(len, self.edges), default=0)), np.inf)
        for row, edges in zip(table, self.edges, strict=True):
            row[: len(edges)] = edges
        return table

    def count(self, rows: F64) -> F64:
        """Rows in each bin, f64[d, widest + 2]."""
        table = self.table()
        counts = np.zeros((len(table), table.shape[1] + 2))
        count(counts, table, np.ascontiguousarray(rows, np.float64), np.ones(len(rows)))
        return counts


def psi(found: F64, expected: F64) -> F64:
    """Population stability index of counts f64[d, b] against others, f64[d]. A bin counts for RARE at least: it is as
    large for a window of few rows as for one of many."""
    p, q = (np.maximum(c / np.maximum(c.sum(axis=1, keepdims=True), 1.0), RARE) for c in (found, expected))
    return np.asarray(((p - q) * np.log(p / q)).sum(axis=1))


class _Watch(msgspec.Struct, tag="drift-watch/1"):
    counts: NDArray[np.float64]
    psi: NDArray[np.float64]
    since: NDArray[np.int64]  # start of the first window that was over, -1: none is
    window: int = -1  # the first that is counted
    latest: int = -1
    rows: int = 0
    seconds: int = 0  # sum of the times of those rows
    size: int = 0  # of a window, ms


class Watch:
    """The columns of one model, window by window. Pure; goes on from `state`, a snapshot."""

    def __init__(self, rule: DriftRule, reference: Reference, state: bytes | None = None):
        self.rule, self.reference = rule, reference
        self._edges, self._expected = reference.table(), np.array(reference.counts)
        d = len(reference.names)
        self._s = _Watch(np.zeros_like(self._expected), np.zeros(d), np.full(d, -1))
        if state:
            self._s = unpack(state, _Watch)
            if self._s.counts.shape != self._expected.shape:
                found, expected = self._s.counts.shape, self._expected.shape
                raise ModelRejected(f"drift.Watch: found a state of {found}, expected {expected}; start a new one")
            size = self._s.size or rule.window  # of the rule that it ran with
            self._s.window, self._s.latest = (n * size // rule.window for n in (self._s.window, self._s.latest))
        self._s.size = rule.window

    def add(self, rows: F64, at: I64, weight: F64 | None = None) -> list[Signal]:
        """Take rows f64[k, d] of event time `at` i64[k] ms and `weight` f64[k]; a signal for each column that moved.

        A window ends with the first row of a later one; a late row counts in the window that is open, and a signal says
        of when its rows are, in the mean. One with too few rows goes on in the next. A column has moved until its PSI
        is a fifth below what made it a signal.
        """
        s, signals = self._s, list[Signal]()
        values = np.ascontiguousarray(rows, np.float64)
        w = np.ones(len(values)) if weight is None else np.ascontiguousarray(weight, np.float64)
        windows = np.maximum.accumulate(np.maximum(np.asarray(at, np.int64) // self.rule.window, s.latest))
        cuts = [0, *(np.flatnonzero(np.diff(windows)) + 1).tolist(), len(windows)]
        for start, end in pairwise(cuts):
            if start == end:
                break
            if windows[start] > s.latest:
                if s.rows >= self.rule.rows:
                    signals += self._close(int(at[start]))
                s.latest = int(windows[start])
                s.window = s.window if s.rows else s.latest
            count(s.counts, self._edges, values[start:end], w[start:end])
            s.rows += end - start
            s.seconds += int((np.asarray(at[start:end], np.int64) // 1000).sum())
        return signals

    def _close(self, at: int) -> list[Signal]:
        s, usual = self._s, self.reference.usual
        s.psi = psi(s.counts, self._expected)
        limit = np.maximum(self.rule.psi, 1.5 * np.array(usual))
        start = min(s.window, 1000 * s.seconds // s.rows // self.rule.window) * self.rule.window
        fresh = (s.psi > limit) & (s.since < 0)
        s.since = np.where(fresh, start, np.where(s.psi > 0.8 * limit, s.since, -1))
        s.counts[:], s.rows, s.seconds = 0.0, 0, 0
        names = self.reference.names
        return [Signal("psi", names[i], float(s.psi[i]), usual[i], start, at) for i in np.flatnonzero(fresh)]

    def report(self) -> dict[str, dict[str, float]]:
        """PSI of each column in the last whole window, and since when (ms) it is over its threshold, or -1."""
        columns = zip(self.reference.names, self._s.psi.tolist(), self._s.since.tolist(), strict=True)
        return {name: {"psi": value, "since": since} for name, value, since in columns}

    def snapshot(self) -> bytes:
        """The state; `Watch(rule, reference, snapshot)` goes on from it."""
        return pack(self._s)


class _Adwin(msgspec.Struct, tag="adwin/1"):
    window: Windows
    marks: NDArray[np.float64]


class Adwin:
    """ADWIN over one number for each example, here a loss in [0, 1]. Pure; goes on from `state`, a snapshot.

    Sampled examples count as they come, without weights: a steady way of sampling makes no change of its own.
    """

    def __init__(self, name: str, delta: float = 0.002, state: bytes | None = None):
        self.name, self.delta = name, delta
        self._s = self._empty()
        if state:
            self._s = unpack(state, _Adwin)
            self._s.window = self._s.window._replace(delta=delta)

    def _empty(self) -> _Adwin:
        return _Adwin(windows(2, self.delta), np.append(1.0, np.zeros(1 + MARKS)))

    def add(self, values: F64, at: I64) -> list[Signal]:
        """Take values f64[k] of times i64[k] ms; a signal wherever the mean has changed, then a new window.

        `since` is about where the window falls into the two parts that differ most, `expected` the mean before it and
        `found` behind it.
        """
        signals: list[Signal] = []
        x, times = np.ascontiguousarray(values, np.float64), np.asarray(at, np.float64)
        start = 0
        while start < len(x):
            window, marks = self._s.window, self._s.marks
            row = follow(window, marks, x[start:], times[start:])
            if row < 0:
                break
            start += row + 1
            behind, old, new = parts(window)
            since = marks[TIMES + int((marks[COUNT] - 1 - behind) // marks[STEP])]
            signals.append(Signal("loss", self.name, new, old, int(since), int(times[start - 1])))
            self._s = self._empty()
        return signals

    def snapshot(self) -> bytes:
        """The state; `Adwin(name, delta, snapshot)` goes on from it."""
        return pack(self._s)


def loss(scores: F64, labels: NDArray[np.bool_]) -> F64:
    """Log-loss of scores f64[k], clipped and divided by its largest value: f64[k] in [0, 1], for `Adwin`."""
    p = np.clip(np.where(labels, scores, 1 - scores), CLIP, 1 - CLIP)
    return np.asarray(np.log(p) / np.log(CLIP))
