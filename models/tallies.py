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


class Table(msgspec.Struct):
    """Sums by key: keys i64[n] rising, sums f64[n, columns]."""

    keys: NDArray[np.int64]
    sums: NDArray[np.float64]

    def add(self, keys: I64, rows: F64) -> None:
        """Add rows f64[k, columns], one by one in their order."""
        every = np.union1d(self.keys, keys)
        sums = np.zeros((len(every), rows.shape[1]))
        sums[np.searchsorted(every, self.keys)] = self.sums
        place = np.searchsorted(every, keys)
        for column in range(rows.shape[1]):
            np.add.at(sums[:, column], place, rows[:, column])
        self.keys, self.sums = every, sums

    def keep(self, those: NDArray[np.bool_]) -> None:
        """Forget the others."""
        self.keys, self.sums = self.keys[those], self.sums[those]


class Best(msgspec.Struct):
    """Of each day, version and segment the k groups with the highest scores, and those with a positive.

    places i64[n]: the key without its score; groups u64[n]; rows f64[n, 3]: score, weight, whether one is positive.
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


def precision(rows: F64, k: int) -> float:
    """Share of positives in k places, filled from the highest score down; a row takes as many as its weight."""
    fill = np.cumsum(rows[:, 1])
    taken = np.clip(k - (fill - rows[:, 1]), 0, rows[:, 1])
    return float((taken * rows[:, 2]).sum() / k)


def measures(keys: I64, sums: F64, bins: int) -> Measures:
    """Measures of weights by score: keys i64[n] rising, millionths; sums f64[n, 2 or 3]: positive, negative, cost.

    Weighted AP and AUC as `models.metrics` defines them, log-loss, Brier score, and the calibration error
    Σ over equal-width bins |Σ outcome - Σ score| / n.
    """
    score, pos, neg = keys / ONE, sums[:, 0], sums[:, 1]
    n, positives = float((pos + neg).sum()), float(pos.sum())
    true, false = np.cumsum(pos[::-1]), np.cumsum(neg[::-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        at, area = pos[::-1] * true / (true + false), neg[::-1] * (true - pos[::-1] / 2)
        p = np.clip(score, CLIP, 1 - CLIP)
        gap = np.zeros(bins)
        np.add.at(gap, np.minimum(keys * bins // ONE, bins - 1), pos - (pos + neg) * score)
        found = {
            "n": n,
            "positives": positives,
            "average_precision": float(np.nansum(at) / np.float64(positives)),
            "roc_auc": float(area.sum() / np.float64(positives * float(neg.sum()))),
            "log_loss": float(-(pos * np.log(p) + neg * np.log1p(-p)).sum() / np.float64(n)),
            "brier": float((pos * (1 - score) ** 2 + neg * score**2).sum() / np.float64(n)),
            "calibration_error": float(np.abs(gap).sum() / np.float64(n)),
        }
    return found | ({"cost": float(sums[:, 2].sum())} if sums.shape[1] > 2 else {})
