"""Sums by score and a day's best: the tables that evaluation keeps, and what can be read from them.

Beside `evaluation`, which fills them in the order of examples; here is no time and no version, only keys and sums.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.policy import DIGITS

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Measures = dict[str, float]

ONE = 10**DIGITS
CLIP = 0.5 / ONE  # log-loss is that of scores half a digit from 0 and 1
STEP = 1.05  # delays are counted in steps of 5 %


LOW = 21
"""Bits of a key that change from line to line."""


class _Column(msgspec.Struct):
    """Numbers, most of them small and whole: those, and where (`at`) there are others, `rest`."""

    small: NDArray[np.generic]  # u16, or f64: all of them where others are many
    at: NDArray[np.uint32]
    rest: NDArray[np.float64]

    def values(self) -> F64:
        values = self.small.astype(np.float64)
        values[self.at] = self.rest
        return values


class Packed(msgspec.Struct):
    """A table in a snapshot, without loss: the upper parts of its keys, how often each is there, the lower parts, and
    the columns, in few bytes."""

    high: NDArray[np.int64]
    counts: NDArray[np.int64]
    low: NDArray[np.uint32]
    columns: list[_Column]

    def unpacked(self) -> tuple[I64, F64]:
        """Keys i64[n] and columns f64[n, c]."""
        keys = np.repeat(self.high << LOW, self.counts) | self.low.astype(np.int64)
        return keys, np.column_stack([column.values() for column in self.columns])


def packed(keys: I64, columns: list[F64]) -> Packed:
    """`keys` i64[n] that do not fall, and columns of n."""
    high, counts = np.unique(keys >> LOW, return_counts=True)
    return Packed(high, counts, (keys & (1 << LOW) - 1).astype(np.uint32), [_packed(column) for column in columns])


def _packed(values: F64) -> _Column:
    with np.errstate(invalid="ignore"):
        small = np.clip(values, 0, 65535).astype(np.uint16)
    at = np.flatnonzero(small != values).astype(np.uint32)
    if 2 * len(at) > len(values):
        return _Column(values, at[:0], values[:0])
    small[at] = 0
    return _Column(small, at, values[at])


class Table(msgspec.Struct):
    """Sums by key: keys i64[n] rising, sums f64[n, columns]."""

    keys: NDArray[np.int64]
    sums: NDArray[np.float64]

    @classmethod
    def of(cls, keys: I64, rows: F64) -> "Table":
        """The sums of rows f64[k, columns], added one by one in their order."""
        table = cls(np.zeros(0, np.int64), np.zeros((0, rows.shape[1])))
        table.add(keys, rows)
        return table

    def add(self, keys: I64, rows: F64) -> None:
        """Add rows f64[k, columns], one by one in their order."""
        found = np.unique(keys)
        at = np.searchsorted(self.keys, found)
        new = np.append(self.keys, -1)[at] != found
        self.keys = np.insert(self.keys, at[new], found[new])
        self.sums = np.insert(self.sums, at[new], 0.0, axis=0)
        place = np.searchsorted(self.keys, keys)
        for column in range(rows.shape[1]):
            np.add.at(self.sums[:, column], place, rows[:, column])

    def keep(self, those: NDArray[np.bool_]) -> None:
        """Forget the others."""
        self.keys, self.sums = self.keys[those], self.sums[those]

    def move(self, those: NDArray[np.bool_], keys: I64) -> None:
        """Give some rows other keys, and add them to what is there."""
        sums = self.sums[those]
        self.keep(~those)
        self.add(keys, sums)

    def within(self, first: I64, width: int, modulo: int) -> "Table":
        """The rows whose keys are in [f, f + width) for an f of `first`, added up by what `modulo` leaves of them."""
        spans = zip(np.searchsorted(self.keys, first), np.searchsorted(self.keys, first + width), strict=True)
        rows = np.concatenate([np.zeros(0, np.int64), *(np.arange(low, high) for low, high in spans)])
        return Table.of(self.keys[rows] % modulo, self.sums[rows])


class Best(msgspec.Struct):
    """Of each day, version and segment the k groups with the highest scores, and those with a positive.

    places i64[n]: the key without its score; groups u64[n]; rows f64[n, 3]: score in millionths, weight, whether one
    is positive.
    """

    places: NDArray[np.int64]
    groups: NDArray[np.uint64]
    rows: NDArray[np.float64]

    def top(self, k: int) -> "Best":
        """One row for each group, highest first in each place."""
        if not len(self.places):
            return self
        order = np.lexsort((-self.rows[:, 0], self.groups, self.places))
        places, groups, rows = self.places[order], self.groups[order], self.rows[order]
        first = np.flatnonzero(np.append(True, (np.diff(places) != 0) | (groups[1:] != groups[:-1])))
        positive = np.maximum.reduceat(rows[:, 2], first)
        places, groups, rows = places[first], groups[first], rows[first]
        rows[:, 2] = positive
        order = np.lexsort((groups, -rows[:, 0], places))
        rank = np.arange(len(order)) - np.searchsorted(places[order], places[order])
        order = order[(rank < k) | (rows[order, 2] > 0)]
        return Best(places[order], groups[order], rows[order])

    def pick(self, those: NDArray[np.bool_]) -> "Best":
        """Some of them."""
        return Best(self.places[those], self.groups[those], self.rows[those])


def coarse(keys: I64) -> I64:
    """Keys that end in score and label, with the score rounded to three significant digits of it, or of one less it:
    6,401 different ones at most, none moved by more than 0.5 % of its distance to 0 or 1."""
    score = keys % (1 << LOW) >> 1
    near = np.minimum(score, ONE - score)
    step = np.array([1, 10, 100, 1000])[np.searchsorted([1_000, 10_000, 100_000], near, side="right")]
    return np.asarray(keys + (((score + step // 2) // step * step - score) << 1))


def precision(rows: F64, k: int) -> float:
    """Share of positives in k places, filled from the highest score down; a row takes as many as its weight."""
    fill = np.cumsum(rows[:, 1])
    taken = np.clip(k - (fill - rows[:, 1]), 0, rows[:, 1])
    return float((taken * rows[:, 2]).sum() / k)


def measures(keys: I64, weights: F64, bins: int) -> Measures:
    """Measures of weights f64[n] by score and label: keys i64[n] rising, twice the score in millionths, 1 for positive.

    Weighted AP and AUC as `models.metrics` defines them, log-loss, Brier score, and the calibration error
    Σ over equal-width bins |Σ outcome - Σ score| / n.
    """
    scores, place = np.unique(keys >> 1, return_inverse=True)
    pos, neg = (np.bincount(place, weights * (keys & 1 == label), len(scores)) for label in (1, 0))
    score, n, positives = scores / ONE, float((pos + neg).sum()), float(pos.sum())
    true, false = np.cumsum(pos[::-1]), np.cumsum(neg[::-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        at, area = pos[::-1] * true / (true + false), neg[::-1] * (true - pos[::-1] / 2)
        p = np.clip(score, CLIP, 1 - CLIP)
        gap = np.zeros(bins)
        np.add.at(gap, np.minimum(scores * bins // ONE, bins - 1), pos - (pos + neg) * score)
        return {
            "n": n,
            "positives": positives,
            "average_precision": float(np.nansum(at) / np.float64(positives)),
            "roc_auc": float(area.sum() / np.float64(positives * float(neg.sum()))),
            "log_loss": float(-(pos * np.log(p) + neg * np.log1p(-p)).sum() / np.float64(n)),
            "brier": float((pos * (1 - score) ** 2 + neg * score**2).sum() / np.float64(n)),
            "calibration_error": float(np.abs(gap).sum() / np.float64(n)),
        }


def delays(counts: F64, total: float) -> Measures:
    """Mean, p50 and p90, ms, of delays f64[b]: in `counts[i]` those from STEP**i - 1 ms on, `total` ms together."""
    if not (weight := float(counts.sum())):
        return dict.fromkeys(("mean", "p50", "p90"), float("nan"))
    at = np.searchsorted(np.cumsum(counts), np.array([0.5, 0.9]) * weight)
    p50, p90 = np.expm1((at + 0.5) * np.log(STEP)).tolist()
    return {"mean": total / weight, "p50": p50, "p90": p90}
