"""The detectors of a sensor with several values (up to 16): robust distances of the values and of their changes.

Values are standardised one by one (exponential mean and variance); a change is a value less what the one before tells
of it (autoregression of order 1). Each distance is Mahalanobis', under an inverse covariance that is learned from
vectors clipped at four deviations, with forgetting .999 and a ridge of .01.
"""

import math

import numpy as np

from models.kernels import kernel
from operators.kernels import anomaly as A
from operators.kernels import part
from operators.kernels.tables import Floats

LIMIT = 16
TRIANGLE = LIMIT * (LIMIT + 1) // 2
SINGLE, MOVED, APART, DRIFTING, RUNS = range(5)

SEEN, WEIGHT = A.OWN, A.OWN + 1
ORIGIN, MEAN, VARIANCE, LAST, STEADY, RUN, LONGEST, DRIFTED = (A.OWN + 2 + LIMIT * k for k in range(8))
LEVELS = A.OWN + 2 + LIMIT * 8
CHANGES = LEVELS + TRIANGLE
WORDS = CHANGES + TRIANGLE

KEEP, RIDGE, SWING = 0.999, 0.01, 16.0


@part
def cell(i: int, j: int) -> int:
    """Place of row i and column j in a symmetric matrix that is stored as its lower triangle."""
    return (i * (i + 1)) // 2 + j if i >= j else (j * (j + 1)) // 2 + i


@part
def weigh(s: Floats, o: int, n: int, x: Floats, y: Floats) -> float:
    """y = P x and x'P x."""
    total = 0.0
    for i in range(n):
        v = 0.0
        for j in range(n):
            v += s[o + cell(i, j)] * x[j]
        y[i] = v
        total += v * x[i]
    return total


@part
def shrink(s: Floats, o: int, n: int, y: Floats, norm: float) -> None:
    """P -= y y' / norm (Sherman and Morrison)."""
    for i in range(n):
        for j in range(i + 1):
            s[o + cell(i, j)] -= y[i] * y[j] / norm


@kernel
def distance(s: Floats, b: int, o: int, n: int, x: Floats, y: Floats) -> float:
    """Root mean square of `x` in the units of its covariance, which then learns of it; y[i]: share of value i."""
    square = max(weigh(s, b + o, n, x, y), 0.0)
    for i in range(n):
        y[LIMIT + i] = max(x[i] * y[i], 0.0) / max(square, 1e-300)
        x[i] = min(max(x[i], -4.0), 4.0)
    norm = KEEP + weigh(s, b + o, n, x, y)
    shrink(s, b + o, n, y, norm)
    for i in range(n * (n + 1) // 2):
        s[b + o + i] /= KEEP
    axis, ridge = int(s[b + SEEN]) % n, math.sqrt(RIDGE * n)
    for i in range(n):
        y[i] = ridge * s[b + o + cell(i, axis)]
    shrink(s, b + o, n, y, 1.0 + ridge * y[axis])
    for i in range(n):
        y[i] = y[LIMIT + i]
    return math.sqrt(square * s[b + WEIGHT] / n)


@kernel
def standardise(s: Floats, b: int, n: int, values: Floats, x: Floats) -> tuple[float, int, float]:
    """x[:n] values and x[16:16 + n] changes, in deviations; the greatest value, how many are missing, the stuck."""
    greatest, missing, stuck = 0.0, 0, -math.inf
    for i in range(n):
        v, p = values[i], b + i
        if s[b + SEEN] == 0.0:
            s[p + ORIGIN] = v if v == v else 0.0
        v = min(max(v - s[p + ORIGIN], -1e30), 1e30) if v == v else s[p + MEAN]
        missing += int(values[i] != values[i])
        deviation = math.sqrt(s[p + VARIANCE])
        x[i] = min(max((v - s[p + MEAN]) / deviation, -1e6), 1e6) if deviation > 0.0 else 0.0
        steady, before = s[p + STEADY], s[p + LAST]
        last = (before - s[p + MEAN]) / deviation if deviation > 0.0 else 0.0
        x[LIMIT + i] = (x[i] - steady * min(max(last, -1e6), 1e6)) / math.sqrt(1.0 - steady * steady)
        greatest = max(greatest, abs(x[i]))
        if v != before:
            s[p + LONGEST] = max(0.9995 * s[p + LONGEST], s[p + RUN])
        s[p + RUN] = s[p + RUN] + 1.0 if v == before else 0.0
        stuck = max(stuck, math.log((1.0 + s[p + RUN]) / (2.0 + s[p + LONGEST])))
        x[2 * LIMIT + i] = v
    return greatest, missing, stuck


@kernel
def learn(s: Floats, b: int, n: int, x: Floats) -> None:
    """Move each value's mean, variance and autocorrelation; x as `standardise` left it, values at x[32:]."""
    rate = max(1.0 / (s[b + SEEN] + 1.0), 0.0005)
    for i in range(n):
        p, v = b + i, x[2 * LIMIT + i]
        deviation = math.sqrt(s[p + VARIANCE])
        if deviation > 0.0:
            both = (v - s[p + MEAN]) * (s[p + LAST] - s[p + MEAN]) / s[p + VARIANCE]
            s[p + STEADY] += max(rate, 0.002) * (min(max(both, -9.0), 9.0) - s[p + STEADY])
            s[p + STEADY] = min(max(s[p + STEADY], -0.95), 0.98)
        move = v - s[p + MEAN]
        s[p + MEAN] += rate * move
        s[p + VARIANCE] = (1.0 - rate) * (s[p + VARIANCE] + rate * move * move)
        s[p + LAST] = v
    s[b + SEEN] += 1.0
    s[b + WEIGHT] = KEEP * s[b + WEIGHT] + 1.0


@kernel
def readings(s: Floats, g: A.Singles, b: int, at: float, values: Floats, given: A.Given, row: Floats) -> None:
    """Score one reading of several values, values f64[n] in the order of their names, and learn from it."""
    _, rules, raw, x, y, room = given
    n = values.shape[0]
    step, flags = A.clock(s, b, at)
    if np.isnan(values).all():
        A.absent(s, b, (step, flags), rules, row)
        return
    learning = flags & (A.DUPLICATE | A.LATE) == 0
    raw[:], room[0], room[1] = math.nan, -math.inf, 0.0
    if learning:
        raw[SINGLE], missing, raw[RUNS] = standardise(s, b, n, values, x)
        flags |= A.MISSING if missing > 0 else 0
        if flags & A.GAP:
            for i in range(n):
                x[LIMIT + i] = 0.0
        drifting = 0.0
        for i in range(n):
            p = b + DRIFTED + i
            s[p] += (min(max(x[LIMIT + i], -6.0), 6.0) - s[p]) / SWING
            drifting = max(drifting, abs(s[p]))
        raw[DRIFTING] = drifting
        raw[MOVED] = distance(s, b, CHANGES, n, x[LIMIT:], y[2 * LIMIT :])
        raw[APART] = distance(s, b, LEVELS, n, x, y)
        moved, apart = A.excess(s, b, MOVED, raw[MOVED]), A.excess(s, b, APART, raw[APART])
        A.add(A.excess(s, b, SINGLE, raw[SINGLE]), 0.5, A.LEVEL, row, room)
        A.add(moved, 1.0, A.FORECAST, row, room)
        A.add(apart, 1.0, A.DISTANCE, row, room)
        A.add(A.excess(s, b, DRIFTING, drifting), 0.25, A.DRIFT, row, room)
        stuck = A.excess_log(s, b, RUNS, raw[RUNS] - 0.7) if s[b + A.BOUND + RUNS] > -math.inf else math.nan
        A.add(stuck, 0.5, A.UNCHANGED, row, room)
        flags |= A.STUCK if stuck > 0.0 else 0
        for i in range(min(n, row.shape[0] - A.TOLD - A.MEMBERS)):
            blame = (moved * y[2 * LIMIT + i] if moved > 0.0 else 0.0) + (apart * y[i] if apart > 0.0 else 0.0)
            row[A.TOLD + A.MEMBERS + i] = blame
    total = A.finish(s, g, b, (step, flags), rules, room, row)
    if learning:
        learn(s, b, n, x)
        A.keep(s, g, b, total, raw, room)
