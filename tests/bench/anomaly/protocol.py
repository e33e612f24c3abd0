"""Scoring by early detection, after Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms" (2015).

A labelled window rewards its first detection, more the earlier it comes: 2 / (1 + exp(5 y)) - 1 at relative place y
(-1 where the window begins, 0 where it ends), so that the first reading of a window is worth 1. A window without
detection costs 1. A detection outside costs 0.11 times the same sigmoid of its distance from the end of the window
before it, in windows: little just after a window, 0.11 far from one. What is sooner than the probation (the first
15 % of a series, at most 750 readings) is not scored. One threshold serves the whole corpus, and the sum is put on
a scale where a detector that never alarms has 0 and one that is right at the start of each window 100.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FALSE_ALARM = 0.11
MISS = 1.0
PROBATION, PROBATION_MOST = 0.15, 750
WINDOW = 0.1

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A labelled series: at i64[n] ms, values f64[n, c], begins and ends (exclusive) of its anomalies."""

    name: str
    kind: str
    at: NDArray[np.int64]
    values: F64
    anomalies: tuple[tuple[int, int], ...]

    @property
    def probation(self) -> int:
        """Readings at the start that are not scored."""
        return int(min(PROBATION * len(self.at), PROBATION_MOST))

    @property
    def windows(self) -> list[tuple[int, int]]:
        """A window for each anomaly: a tenth of the series shared by them, or the anomaly if longer.

        As in the paper they are centred on labels that people gave by hand; generated anomalies have a known start,
        where their windows begin. What overlaps is one window, what begins in the probation is none.
        """
        room = int(WINDOW * len(self.at) / max(len(self.anomalies), 1))
        found: list[tuple[int, int]] = []
        for begin, end in self.anomalies:
            spare = max(room - (end - begin), 0)
            before = spare // 2 if self.kind == "packaged" else 0
            begin, end = begin - before, min(end + spare - before, len(self.at))
            if begin < self.probation:
                continue
            if found and begin <= found[-1][1]:
                found[-1] = (found[-1][0], max(end, found[-1][1]))
            else:
                found.append((begin, end))
        return found


def worth(series: Series) -> tuple[F64, NDArray[np.int64]]:
    """What a detection at each reading is worth, f64[n], and its window, i64[n] (-1: none)."""
    places = np.arange(len(series.at), dtype=np.float64)
    gain, window = np.full(len(places), -FALSE_ALARM), np.full(len(places), -1)
    top = 2 / (1 + np.exp(-5.0)) - 1
    for index, (begin, end) in enumerate(series.windows):
        y = (places[end:] - end + 1) / max(end - begin - 1, 1)
        gain[end:] = FALSE_ALARM * (2 / (1 + np.exp(5 * np.minimum(y, 3))) - 1)
        gain[end:][y > 3] = -FALSE_ALARM
        y = -(end - places[begin:end]) / (end - begin)
        gain[begin:end] = (2 / (1 + np.exp(5 * y)) - 1) / top
        window[begin:end] = index
    gain[: series.probation] = 0.0
    return gain, window


def points(corpus: Sequence[Series], alarms: Sequence[NDArray[np.bool_]]) -> float:
    """Normalised score of given alarms, bool[n] a series."""
    scores = [np.where(alarm, 1.0, 0.0) for alarm in alarms]
    return _scale(corpus, _sums(corpus, scores).get(1.0, 0.0))


def best(corpus: Sequence[Series], scores: Sequence[F64]) -> tuple[float, float]:
    """Highest normalised score over all thresholds, one for the corpus, and that threshold."""
    sums = _sums(corpus, scores)
    threshold = max(sums, key=lambda score: sums[score], default=np.inf)
    total = sums.get(threshold, 0.0)
    return (_scale(corpus, total), threshold) if total > 0 else (0.0, np.inf)


def _scale(corpus: Sequence[Series], total: float) -> float:
    windows = sum(len(series.windows) for series in corpus)
    return 100.0 * total / (windows * (1.0 + MISS)) if windows else total


def _sums(corpus: Sequence[Series], scores: Sequence[F64]) -> dict[float, float]:
    """Gain over silence for each score taken as threshold."""
    gains, ids, values, count = [], [], [], 0
    for series, score in zip(corpus, scores, strict=True):
        gain, window = worth(series)
        scored = np.arange(len(gain)) >= series.probation
        gains.append(gain[scored])
        ids.append(np.where(window >= 0, window + count, -1)[scored])
        values.append(np.nan_to_num(score[scored], nan=-np.inf))
        count += len(series.windows)
    gain, window, value = np.concatenate(gains), np.concatenate(ids), np.concatenate(values)
    keep = value > 0
    gain, window, value = gain[keep], window[keep], value[keep]
    order = np.argsort(-value, kind="stable")
    best_of: dict[int, float] = {}
    total, sums = 0.0, {}
    for g, w, v in zip(gain[order].tolist(), window[order].tolist(), value[order].tolist(), strict=True):
        if w < 0:
            total += g
        elif w not in best_of:
            best_of[w] = g
            total += g + MISS
        elif g > best_of[w]:
            total += g - best_of[w]
            best_of[w] = g
        sums[v] = total
    return sums
