"""ADWIN, a window that shrinks where the mean of its newer part differs from that of the older; as in River 0.23.

Bifet and Gavaldà, SIAM SDM 2007, with River's defaults (5 buckets a size, a check every 32 values). Detectors are rows
of arrays, so that forests keep and restore many. Values should be from 0 to 1.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

BUCKETS, SIZES = 5, 32  # buckets of each size before two are merged; sizes 1, 2, 4, … values
CLOCK, GRACE, SHORTEST = 32, 10, 5
TOTAL, VARIANCE, WIDTH, TICK, ROWS = range(5)


class Windows(NamedTuple):
    """`n` detectors."""

    delta: float  # significance
    moments: F64  # [n, 5]: total, variance, width, values seen, sizes in use
    used: I64  # [n, SIZES] buckets of each size
    totals: F64  # [n, SIZES, BUCKETS + 1], oldest first
    variances: F64  # [n, SIZES, BUCKETS + 1]


def windows(n: int, delta: float) -> Windows:
    """`n` new detectors."""
    shape = (n, SIZES, BUCKETS + 1)
    made = Windows(delta, np.zeros((n, 5)), np.zeros((n, SIZES), np.int64), np.zeros(shape), np.zeros(shape))
    made.moments[:, ROWS] = 1
    return made


@kernel
def reset(w: Windows, i: int) -> None:
    """Make detector `i` a new one."""
    w.moments[i] = 0.0
    w.moments[i, ROWS] = 1
    w.used[i] = 0
    w.totals[i] = 0.0
    w.variances[i] = 0.0


@kernel
def _put(w: Windows, i: int, row: int, total: float, variance: float) -> None:
    w.totals[i, row, w.used[i, row]] = total
    w.variances[i, row, w.used[i, row]] = variance
    w.used[i, row] += 1


@kernel
def _drop(w: Windows, i: int, row: int, n: int) -> None:
    """Remove the `n` oldest buckets of a size."""
    for values in (w.totals[i, row], w.variances[i, row]):
        for k in range(n, BUCKETS + 1):
            values[k - n] = values[k]
        values[BUCKETS + 1 - n :] = 0.0
    w.used[i, row] -= n


@kernel
def _compress(w: Windows, i: int) -> None:
    """Merge the two oldest buckets of each size that has too many."""
    m = w.moments[i]
    row = 0
    while row < m[ROWS] and w.used[i, row] == BUCKETS + 1 and row + 1 < SIZES:
        if row + 1 == m[ROWS]:
            m[ROWS] += 1
        n = 2.0**row
        u, v = w.totals[i, row], w.variances[i, row]
        between = n * n * (u[0] / n - u[1] / n) * (u[0] / n - u[1] / n) / (n + n)
        _put(w, i, row + 1, u[0] + u[1], v[0] + v[1] + between)
        _drop(w, i, row, 2)
        row += 1


@kernel
def _forget_oldest(w: Windows, i: int) -> None:
    m = w.moments[i]
    row = int(m[ROWS]) - 1
    n, u, v = 2.0**row, w.totals[i, row, 0], w.variances[i, row, 0]
    m[WIDTH] -= n
    m[TOTAL] -= u
    apart = u / n - m[TOTAL] / m[WIDTH]
    m[VARIANCE] -= v + n * m[WIDTH] * apart * apart / (n + m[WIDTH])
    _drop(w, i, row, 1)
    if w.used[i, row] == 0:
        m[ROWS] -= 1


@kernel
def _cut(w: Windows, i: int) -> bool:
    """Whether some older part's mean differs from that of the rest."""
    m = w.moments[i]
    width, n0, u0 = m[WIDTH], 0.0, 0.0
    n1, u1 = width, m[TOTAL]
    prime = math.log(2 * math.log(width) / w.delta)
    for row in range(int(m[ROWS]) - 1, -1, -1):
        for k in range(w.used[i, row]):
            n0 += 2.0**row
            n1 -= 2.0**row
            u0 += w.totals[i, row, k]
            u1 -= w.totals[i, row, k]
            if row == 0 and k == w.used[i, row] - 1:
                return False
            if n0 >= SHORTEST and n1 >= SHORTEST:
                inverse = 1.0 / (n0 - SHORTEST + 1) + 1.0 / (n1 - SHORTEST + 1)
                epsilon = math.sqrt(2 * inverse * (m[VARIANCE] / width) * prime) + 2 / 3 * prime * inverse
                if abs(u0 / n0 - u1 / n1) > epsilon:
                    return True
    return False


@kernel
def update(w: Windows, i: int, value: float) -> bool:
    """Add a value to detector `i`; whether the mean has changed (the window is then cut)."""
    m = w.moments[i]
    _put(w, i, 0, value, 0.0)
    m[WIDTH] += 1
    if m[WIDTH] > 1:
        apart = value - m[TOTAL] / (m[WIDTH] - 1)
        m[VARIANCE] += (m[WIDTH] - 1) * apart * apart / m[WIDTH]
    m[TOTAL] += value
    _compress(w, i)
    m[TICK] += 1
    changed = False
    if m[TICK] % CLOCK == 0 and m[WIDTH] > GRACE:
        while _cut(w, i):
            changed = True
            _forget_oldest(w, i)
    return changed
