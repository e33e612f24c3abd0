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
SINGLE, MOVED, APART, DRIFTING, RUNS, SHIFT, JUMP, JUMPS = range(1, 9)
"""From JUMPS on one for each value: the jumps of a wild one would hide those of a calm one."""
SKETCHES = JUMPS + LIMIT

OWN = A.RINGS + SKETCHES * A.BLOCKS // 2
SEEN, WEIGHT = OWN, OWN + 1
ORIGIN, MEAN, VARIANCE, LAST = (OWN + 2 + LIMIT * k for k in range(4))
LOCAL = OWN + 2 + LIMIT * 4
STEADY, RUN, LONGEST, DRIFTED = (2 * (LOCAL + 4 * LIMIT) + LIMIT * k for k in range(4))
"""Of the state as float32."""
LEVELS, CHANGES, NAMES = (LOCAL + 6 * LIMIT + TRIANGLE * k for k in range(3))
"""Numbers that stand for the names of the values, in the order in which those are kept."""
WORDS = NAMES + LIMIT

Told = tuple[int, Floats, Floats]
"""How many values a reading has; those there is room for, and numbers that stand for their names."""

KEEP, RIDGE, SWING = 0.999, 0.01, 16.0


@kernel
def distance(s: Floats, b: int, o: int, n: int, x: Floats, y: Floats) -> float:
    """Root mean square of `x` in the units of its covariance, which then learns of it; y[i]: share of value i."""
    square = max(A.weigh(s, b + o, n, x, y), 0.0)
    for i in range(n):
        y[LIMIT + i] = max(x[i] * y[i], 0.0) / max(square, 1e-300)
        x[i] = min(max(x[i], -4.0), 4.0)
    norm = KEEP + A.weigh(s, b + o, n, x, y)
    A.shrink(s, b + o, n, y, norm, KEEP)
    axis, ridge = int(s[b + SEEN]) % n, math.sqrt(RIDGE * n)
    for i in range(n):
        y[i] = ridge * s[b + o + A.cell(i, axis)]
    A.shrink(s, b + o, n, y, 1.0 + ridge * y[axis], 1.0)
    for i in range(n):
        y[i] = y[LIMIT + i]
    return math.sqrt(square * s[b + WEIGHT] / n)


@kernel
def standardise(s: Floats, g: A.Singles, b: int, n: int, values: Floats, x: Floats) -> tuple[float, int, float]:
    """x[:n] values and x[16:16 + n] changes, in deviations; the greatest value, how many are missing, the stuck.

    x[32:32 + n] are the values from the first; of one that is missing NaN there, and 0: it says nothing.
    """
    greatest, missing, stuck = 0.0, 0, -math.inf
    for i in range(n):
        v, p, q = values[i], b + i, 2 * b + i
        if v != v:
            x[i], x[LIMIT + i], x[2 * LIMIT + i] = 0.0, 0.0, math.nan
            missing += 1
            continue
        if s[p + LAST] != s[p + LAST]:
            s[p + ORIGIN] = v
        v = min(max(v - s[p + ORIGIN], -1e30), 1e30)
        deviation = math.sqrt(s[p + VARIANCE])
        x[i] = min(max((v - s[p + MEAN]) / deviation, -1e6), 1e6) if deviation > 0.0 else 0.0
        steady, before = float(g[q + STEADY]), s[p + LAST]
        last = (before - s[p + MEAN]) / deviation if deviation > 0.0 else 0.0
        x[LIMIT + i] = (x[i] - steady * min(max(last, -1e6), 1e6)) / math.sqrt(1.0 - steady * steady)
        greatest = max(greatest, abs(x[i]))
        if v != before:
            g[q + LONGEST] = max(0.9995 * g[q + LONGEST], g[q + RUN])
        g[q + RUN] = g[q + RUN] + 1.0 if v == before else 0.0
        if deviation > 0.0:  # what never changed yet would hide another that stops
            stuck = max(stuck, math.log((1.0 + g[q + RUN]) / (2.0 + g[q + LONGEST])))
        x[2 * LIMIT + i] = v
    return greatest, missing, stuck


@kernel
def learn(s: Floats, g: A.Singles, b: int, n: int, x: Floats) -> None:
    """Move each value's mean, variance and autocorrelation; x as `standardise` left it, values at x[32:]."""
    rate = max(1.0 / (s[b + SEEN] + 1.0), 0.0005)
    for i in range(n):
        p, q, v = b + i, 2 * b + i, x[2 * LIMIT + i]
        if v != v:
            continue
        deviation = math.sqrt(s[p + VARIANCE])
        if deviation > 0.0:
            both = (v - s[p + MEAN]) * (s[p + LAST] - s[p + MEAN]) / s[p + VARIANCE]
            g[q + STEADY] += max(rate, 0.002) * (min(max(both, -9.0), 9.0) - g[q + STEADY])
            g[q + STEADY] = min(max(g[q + STEADY], -0.95), 0.98)
        move = v - s[p + MEAN]
        s[p + MEAN] += rate * move
        s[p + VARIANCE] = (1.0 - rate) * (s[p + VARIANCE] + rate * move * move)
        s[p + LAST] = v
    s[b + SEEN] += 1.0
    s[b + WEIGHT] = KEEP * s[b + WEIGHT] + 1.0


@part
def greater(a: float, b: float) -> float:
    """The greater of two, of which either may be NaN."""
    return b if not a >= b and b == b else a


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
        raw[SINGLE], missing, raw[RUNS] = standardise(s, g, b, n, values, x)
        flags |= A.MISSING if missing > 0 else 0
        if flags & A.GAP:
            x[LIMIT : LIMIT + n] = 0.0
        drifting, jumped = 0.0, math.nan
        for i in range(n):
            shift = jump = math.nan
            if values[i] == values[i]:
                last = math.nan if flags & A.GAP else s[b + LAST + i]
                shift, jump = A.local(s, b + LOCAL + 4 * i, s[b + SEEN], x[2 * LIMIT + i], last)
                raw[SHIFT], raw[JUMP] = greater(raw[SHIFT], shift), greater(raw[JUMP], jump)
            raw[JUMPS + i], beyond = jump, A.excess(s, b, JUMPS + i, jump)
            jumped = greater(jumped, beyond)
            x[3 * LIMIT + i] = greater(0.07 * A.excess(s, b, SHIFT, shift), 0.02 * beyond)
            q = 2 * b + DRIFTED + i
            g[q] += (min(max(x[LIMIT + i], -6.0), 6.0) - g[q]) / SWING
            drifting = max(drifting, abs(g[q]))
        raw[DRIFTING] = drifting
        raw[MOVED] = distance(s, b, CHANGES, n, x[LIMIT:], y[2 * LIMIT :])
        raw[APART] = distance(s, b, LEVELS, n, x, y)
        moved, apart = A.excess(s, b, MOVED, raw[MOVED]), A.excess(s, b, APART, raw[APART])
        A.add(A.excess(s, b, SINGLE, raw[SINGLE]), 0.5, A.LEVEL, row, room)
        A.add(moved, 1.0, A.FORECAST, row, room)
        A.add(apart, 1.0, A.DISTANCE, row, room)
        A.add(A.excess(s, b, DRIFTING, drifting), 0.25, A.DRIFT, row, room)
        A.add(A.excess(s, b, SHIFT, raw[SHIFT]), 0.07, A.SHIFT, row, room)
        A.add(A.excess(s, b, JUMP, raw[JUMP]), 0.05, A.JUMP, row, room)
        A.add(jumped, 0.02, A.JUMP, row, room)
        stuck = A.excess_log(s, b, RUNS, raw[RUNS] - 0.7) if s[b + A.BOUND + RUNS] > -math.inf else math.nan
        A.add(stuck, 0.5, A.UNCHANGED, row, room)
        flags |= A.STUCK if stuck > 0.0 else 0
        for i in range(min(n, row.shape[0] - A.TOLD - A.MEMBERS)):
            blame = (moved * y[2 * LIMIT + i] if moved > 0.0 else 0.0) + (apart * y[i] if apart > 0.0 else 0.0)
            row[A.TOLD + A.MEMBERS + i] = greater(blame, x[3 * LIMIT + i])
    total = A.finish(s, g, b, (step, flags), rules, room, row)
    if learning:
        learn(s, g, b, n, x)
        A.keep(s, g, b, total, raw, room, SKETCHES)


@part
def place_of(s: Floats, b: int, n: int, name: float) -> int:
    """Where the value called `name` is among the n of a sensor; n: nowhere."""
    for i in range(n):
        if s[b + NAMES + i] == name:
            return i
    return n


@kernel
def known(s: Floats, b: int, total: int, names: Floats, limit: int, anew: Floats) -> int:
    """Make sure that a sensor, which has room for `limit`, knows the `names` of a reading that has `total`; flags.

    A name not seen before begins anew, as a new sensor does (`anew`), with the names of this reading; and, while the
    sensor is young, with those it had, too: they may come apart. Names for which there is no room are left out.
    """
    n, strange, flags = max(int(s[b + A.KIND]) - 1, 0), 0, A.IGNORED if total > limit else 0
    for name in names:
        strange += int(place_of(s, b, n, name) == n)
    if strange > 0 and (total <= limit or n < limit or strange == names.shape[0]):
        flags |= A.RENAMED if s[b + A.KIND] > 0.0 else 0
        n = n if s[b + A.READINGS] < A.FIRST * 4 and n + strange <= limit else 0
        A.restart(s, b, anew[:NAMES])
        for name in names:
            place = place_of(s, b, n, name)
            s[b + NAMES + place] = name
            n += int(place == n)
        s[b + A.KIND] = n + 1.0
    return flags


@kernel
def named(s: Floats, g: A.Singles, b: int, at: float, told: Told, given: A.Given, row: Floats) -> None:
    """Score a reading of values by name: one that is absent is NaN; row tells of each in the order of the reading."""
    total, found, names = told
    first, limit = A.TOLD + A.MEMBERS, row.shape[0] - A.TOLD - A.MEMBERS
    flags, n = known(s, b, total, names, limit, given[0][1]), int(s[b + A.KIND]) - 1
    values = np.full(limit + 1, math.nan)  # what has no place is written, and read, at the end
    for i in range(names.shape[0]):
        values[place_of(s, b, n, names[i])] = found[i]
    readings(s, g, b, at, values[:n], given, row)
    values[:n], values[n], row[3] = row[first : first + n], 0.0, float(int(row[3]) | flags)
    row[first:] = 0.0
    for i in range(names.shape[0]):
        row[first + i] = values[place_of(s, b, n, names[i])]
