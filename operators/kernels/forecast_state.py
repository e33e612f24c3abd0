"""What the forecasting kernels share: where a series' numbers lie in its row, and the pool's fixed settings.

A row is float64 words; `Plan` says at which word a part begins (fields named `…32` count in float32 halves).
"""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Halves = NDArray[np.float32]
Ints = NDArray[np.int64]
Plan = Any
"""A record of PLAN."""

WARMING, OK, REGAIN, TIMES, RANGE, BEHIND, AHEAD = range(7)
"""Status codes; the zero of a row is `WARMING`, and an observation of `RANGE` or above is not learnt."""

(
    COUNT,  # grid cells so far, filled ones included
    LAST,  # time of the newest cell, ms, as those of the observations tell it
    STEP,  # ms between cells; 0 until it is known
    BASE,  # first value: the ring holds what is above it, so that float32 is enough
    MEAN,
    SPREAD,
    LOG,  # whether the second scale is logarithmic
    SHIFT,  # what is added before the logarithm
    LOG_MEAN,
    LOG_SPREAD,
    LOW,
    HIGH,
    S1,
    S2,
    NEXT,  # COUNT at which everything is learnt again from the ring
    READY,
    SEASONAL,  # sum of |x[t] - x[t - season]|, and how many
    SEASONALS,
    SINCE,  # observations since the last forecast
    REASON,
    RESTART,  # COUNT at the last restart
    LAGS_RAW,
    LAGS_LOG,
    LATER,  # values met before the step is known
    BEGIN,  # first cell of the ring at the last restart
    STRAYS,  # observations in a row whose times are off the clock, below 0 where behind it; and the newest such time
    STRAY,
    MISFIT,  # observations that skipped cells or shared one, less FITS for each that did not
    RISING,  # expert that repeats the first season with its rise; -1: none
) = range(29)
HEAD = 29

NAIVE, WEEKLY, SMOOTH, SMOOTH_LOG, LEAST, LEAST_LOG, MEDIAN, COMBINED = range(8)
"""WEEKLY repeats the second season. Where there is none, it repeats the first one with its rise; beside a second one
NAIVE does, where that would have been nearer."""
EXPERTS = 6
VOTERS = 7
KEPT = (SMOOTH, SMOOTH_LOG, LEAST, LEAST_LOG, COMBINED)
"""Rows of a forecast that are kept until it is scored; the others follow from them and the ring."""
GROUPS = 4
FIRST = 9
"""Observations from whose times the step is found."""
USUAL = np.array(
    [seconds * 1e3 for seconds in (1, 5, 10, 15, 30)]
    + [minutes * 6e4 for minutes in (1, 2, 5, 10, 15, 20, 30)]
    + [hours * 3.6e6 for hours in (1, 2, 3, 4, 6, 8, 12, 24, 168)]
    + [31_556_952_000.0 / part for part in (12, 4, 1)]
)
"""Lengths of step that series usually have, in ms; months, quarters and years are mean ones."""

STAT = 11
"""Words of an anchor: lower and upper quantile, scale and its count, scored, sums of |error|, sMAPE, pinball loss and
hits, and how often of late the value lay below and above."""

ENTRY = 3
"""Halves of an issued forecast: mean (NaN: there is none), lower, upper."""

LAG_TABLE = np.array([
    (1, 0, 0), (0, 0, 1), (0, 1, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (3, 0, 0), (0, 2, 0), (-1, 0, 1), (-1, 1, 0),
    (4, 0, 0), (0, 3, 0), (0, 4, 0), (0, 5, 0), (0, 6, 0), (5, 0, 0), (6, 0, 0), (7, 0, 0), (8, 0, 0), (0, 0, 2),
])  # fmt: skip
"""Lags of the least squares on values: offset, times the first season, times the second; most useful first."""
LAG_TABLE_LOG = np.array([
    (1, 0, 0), (0, 0, 1), (0, 1, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (3, 0, 0), (-1, 1, 0), (-1, 0, 1), (2, 1, 0),
    (0, 2, 0), (0, -1, 1), (2, 0, 1), (0, 0, 2),
])  # fmt: skip
RAW_TERMS = len(LAG_TABLE) + 1
LOG_TERMS = len(LAG_TABLE_LOG) + 1

SHORT = 12
"""Seasons of at most so many steps in all are smoothed by the whole grid, longer ones by one member each."""
SHAPES = [
    (level, trend, damping, max(season, 0.0), 0.0, 0.0, float(season > 0.0))
    for level in (0.07, 0.2, 0.4, 0.7)
    for season in (-1.0, 0.001, 0.1)
    for trend, damping in ((0.0, 0.0), (0.1, 0.9), (0.05, 1.0))
]
GRID = np.array(SHAPES + SHAPES, np.float32).T.copy()
"""Members of the smoothings, f32[7, members]: level, trend, damping, first and second season, autocorrelation of
errors, whether seasonal. Half of them are for values, half for their logarithm."""
LONG = np.array([(0.02, 0.0, 1.0, 0.02, 0.3, 0.8, 1.0), (0.1, 0.0, 1.0, 0.1, 0.2, 0.5, 1.0)], np.float32).T.copy()
MEMBERS = GRID.shape[1]
MEMBER = 4
"""Halves of a member beside its seasons: level, trend, last error, decayed squared error. They lie member beside
member: first all levels, …, last all of the second season's last step."""


VERSION = 5
SETTINGS = b"".join(a.tobytes() for a in (LAG_TABLE, LAG_TABLE_LOG, GRID, LONG)) + bytes([VERSION])
"""What a stored state depends on, beside its plan."""

ANCHORS = 8
"""Most horizons whose intervals are judged; between them they are interpolated."""

PLAN = np.dtype(
    [(name, np.float64) for name in ("step", "below", "above", "first_below", "first_above")]
    + [
        (name, np.int64)
        for name in (
            *("h", "emit", "s1", "s2", "auto", "longest", "ring", "logs", "slots", "stride"),
            *("words", "judges", "issued"),
            *("losses", "stats", "early", "raw32", "log32"),
            *("lags_raw32", "lags_log32", "ring32", "logs32", "smooth32"),
            *("phases32", "slots32", "issued32"),
        )
    ]
    + [("anchors", np.int64, ANCHORS), ("starts", np.int64, ANCHORS), ("shown", np.int64, 3)],
    align=True,
)
"""A forecaster's settings and the layout of its rows; h: steps ahead, s1, s2: declared seasons in steps (0: none)."""


def judged(h: int) -> tuple[int, ...]:
    """Steps ahead whose prequential figures are written: 1, the middle and the last of `h`, each once."""
    return tuple(sorted({1, max(h // 2, 1), h}))


def rls_words(terms: int) -> int:
    """Coefficients, variances and the strict upper triangle of `terms` terms."""
    return 2 * terms + terms * (terms - 1) // 2


def plan(
    h: int, emit: int, seasons: tuple[int, int] | None, step: float, tails: tuple[float, float], longest: int
) -> NDArray[Any]:
    """Lay a row out for seasons of at most `longest` steps; tails: probabilities below and above the interval."""
    s1, s2 = seasons or (0, 0)
    anchors = sorted({1, 2, 4, 8, max(h // 2, 1), h} | {round(h * part) for part in (0.25, 0.75)})
    anchors = [a for a in anchors if 1 <= a <= h]
    starts = np.cumsum([0, *anchors])
    ring = max(3 * longest if longest <= 400 else 2 * longest + h, longest + h + 1, 160)
    reach = 2 * longest + 2
    short = seasons is None or s1 + s2 <= SHORT
    both = longest + longest // 3 if seasons is None else s1 + s2
    smooth = max(MEMBERS * (MEMBER + SHORT) if short else 0, 2 * (MEMBER + both))
    slots = 3
    at = HEAD + slots
    begins: list[int] = []
    for words in ((EXPERTS + 1) * GROUPS, STAT * len(anchors), 2 * FIRST):
        begins.append(at)
        at += words
    at *= 2
    for halves in (
        rls_words(RAW_TERMS), rls_words(LOG_TERMS), RAW_TERMS, LOG_TERMS, ring, reach, smooth,
        longest if seasons is None else max(s1, 1), slots * len(KEPT) * h, ENTRY * int(starts[-1]),
    ):  # fmt: skip
        begins.append(at)
        at += halves
    first = [NormalDist().inv_cdf(q) * math.sqrt(math.pi / 2) for q in (tails[0], 1.0 - tails[1])]
    shown = [anchors.index(a) for a in judged(h)]
    shown += [0] * (3 - len(shown))
    padding = [0] * (ANCHORS - len(anchors))
    declared = (h, emit, s1, s2, int(seasons is None), longest, ring, reach, slots, -(-h // slots))
    sizes = (-(-at // 2), len(anchors), starts[-1])
    nested = ([*anchors, *padding], [*starts[:-1], *padding], shown)
    record = (step, *tails, *first, *declared, *sizes, *begins, *nested)
    return np.array([record], PLAN)
