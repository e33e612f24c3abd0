"""Kernels over examples in order: the evidence of a duel, Platt scaling, counts by bin, the adaptive window.

Each goes on from the state arrays it is given and changes them in place, so that results don't depend on how
examples are split into batches.
"""

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from models.kernels.adwin import CLOCK, ROWS, SHORTEST, SIZES, TICK, TOTAL, WIDTH, Windows, update

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


EVERY, SPREAD = 100, 0.2
"""A duel starts anew every so many examples; the share of its evidence that is staked on these later starts."""


@kernel
def later(t: float) -> float:
    """Share that is left for starts behind example t: from SPREAD down to 0, so slowly that it lasts for years."""
    return float(SPREAD / (1.0 + np.log1p(t / 1000.0)))


@kernel
def advance(evidence: F64, stakes: F64, d: F64, may: NDArray[np.bool_], bound: float) -> int:
    """Bet `stakes` f64[m] on differences `d` f64[k] in [-1, 1], from the start and from later ones.

    evidence f64[m + 1]: for each stake the log of its sum, over starts, of share · Π (1 + stake · d); and the number
    of examples. Returns the first row with `may` where the log of the evidence, which is the mean of these sums and
    what is left for later starts, is at least `bound`; or -1. Rows behind it are left alone.
    """
    m = len(stakes)
    least = np.log(np.exp(bound) - SPREAD)
    for i in range(len(d)):
        t = evidence[m]
        evidence[m] += 1.0
        begun = t - t % EVERY
        fresh = t == begun and t > 0.0
        share = np.log(later(t - EVERY) - later(t)) if fresh else 0.0
        most = -np.inf
        for j in range(m):
            if fresh:
                evidence[j] = np.logaddexp(evidence[j], share)
            evidence[j] += np.log1p(stakes[j] * d[i])
            most = max(most, evidence[j])
        if may[i] and most >= least:  # the mean is never above the largest
            total = 0.0
            for j in range(m):
                total += np.exp(evidence[j] - most)
            if np.logaddexp(most + np.log(total / m), np.log(later(begun))) >= bound:
                return i
    return -1


@kernel
def platt(state: F64, z: F64, y: F64, w: F64, keep: float) -> F64:
    """Calibrate log-odds `z` f64[k], each before its outcome `y` (0 or 1, weight `w`) is learned from.

    state f64[5]: slope, intercept, and the upper triangle of the curvature that has been seen, by which a step
    is divided (online Newton); curvature above the start's fades by `keep` an example. Returns f64[k].
    """
    out = np.empty(len(z))
    for i in range(len(z)):
        a, b, ss, sc, cc = state
        p = 1.0 / (1.0 + np.exp(-(a * z[i] + b)))
        out[i] = p
        curve = w[i] * p * (1.0 - p)
        ss = 1.0 + (ss - 1.0) * keep + curve * z[i] * z[i]
        sc = sc * keep + curve * z[i]
        cc = 1.0 + (cc - 1.0) * keep + curve
        det = ss * cc - sc * sc
        g = w[i] * (p - y[i]) / det
        moved = abs(g) * (cc * z[i] * z[i] - 2.0 * sc * z[i] + ss)
        g /= max(moved, 1.0)  # by at most 1 where it stands: a heavy one that was not expected would throw it far off
        state[0] = max(a - g * (cc * z[i] - sc), 1e-3)  # never turns the order of scores round
        state[1] = b - g * (ss - sc * z[i])
        state[2], state[3], state[4] = ss, sc, cc
    return out


@kernel
def count(counts: F64, edges: F64, rows: F64, weight: F64) -> None:
    """Add `weight` f64[n] for each value of `rows` f64[n, d] to counts f64[d, b + 2], in place.

    Bin j < b holds values up to and with edges[column, j], edges f64[d, b] rising (inf where a column has fewer);
    bin b what is above all of them, bin b + 1 what is missing (NaN).
    """
    most = edges.shape[1]
    for i in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            x = rows[i, c]
            low, high = 0, most
            while low < high:
                middle = (low + high) // 2
                if x <= edges[c, middle]:
                    high = middle
                else:
                    low = middle + 1
            counts[c, most + 1 if np.isnan(x) else low] += weight[i]


STEP, COUNT, TIMES = range(3)


@kernel
def follow(window: Windows, marks: F64, x: F64, at: F64) -> int:
    """Give ADWIN values `x` f64[k] of times `at` until it sees a change: the row, or -1.

    window: detector 0, and in 1 its window before it last looked. marks f64[2 + 2n]: how many values lie between two
    times that are kept, values so far, and the times.
    """
    for i in range(len(x)):
        if marks[COUNT] == marks[STEP] * (len(marks) - TIMES):  # full: every other time goes
            half = (len(marks) - TIMES) // 2
            for k in range(half):
                marks[TIMES + k] = marks[TIMES + 2 * k]
            marks[STEP] *= 2.0
        if marks[COUNT] % marks[STEP] == 0:
            marks[TIMES + int(marks[COUNT] / marks[STEP])] = at[i]
        marks[COUNT] += 1.0
        if (window.moments[0, TICK] + 1) % CLOCK == 0:
            for k in range(window.moments.shape[1]):
                window.moments[1, k] = window.moments[0, k]
            for level in range(SIZES):
                window.used[1, level] = window.used[0, level]
                for k in range(window.totals.shape[2]):
                    window.totals[1, level, k] = window.totals[0, level, k]
        if update(window, np.int64(0), x[i]):  # type: ignore[arg-type]  # a literal 0 is compiled anew
            return i
    return -1


@kernel
def parts(window: Windows) -> tuple[int, float, float]:
    """Where detector 1's window falls into the two parts that differ most: values behind the cut, both means."""
    m = window.moments[1]
    n0, u0, best = 0.0, 0.0, -1.0
    found = (0, 0.0, 0.0)
    for level in range(int(m[ROWS]) - 1, -1, -1):
        for k in range(window.used[1, level]):
            n0, u0 = n0 + 2.0**level, u0 + window.totals[1, level, k]
            n1 = m[WIDTH] - n0
            if n0 >= SHORTEST and n1 >= SHORTEST:
                old, new = u0 / n0, (m[TOTAL] - u0) / n1
                apart = (new - old) * (new - old) * n0 * n1
                if apart > best:
                    best, found = apart, (int(n1), old, new)
    return found
