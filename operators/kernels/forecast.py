"""A series' observations in, forecasts with intervals out: the kernel that `operators.forecast` calls once a batch."""

import math

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from operators.kernels import forecast_state as S
from operators.kernels.forecast_learn import Room, keep, learn, look, score
from operators.kernels.forecast_start import DAY, ready, restart
from operators.kernels.forecast_state import Floats, Halves, Ints, Plan

Slots = NDArray[np.int32]
Flags = NDArray[np.bool_]

RATE = 0.12
"""Step of the quantile trackers, in mean absolute normalised errors."""
RECENT, WIDEN = 0.02, 8.0
"""Rate of the error integrator, and how much wider an interval is for each missed share beyond what is allowed."""
LARGEST = 1e30
FAR = 1e3
"""Standard deviations from the mean at which the scale is taken to have changed."""
CYCLE = 1 << 22
LEAST = 0.1


@kernel
def step(states: Floats, slot: Slots, at: Ints, columns: Floats, fresh: Flags, out: Floats, plans: Plan) -> None:
    """Learn row after row, and forecast where one is due; see `operators.forecast.Tracker`. plans: one PLAN."""
    halves = states.view(np.float32)
    p = plans[0]
    w = Room(
        np.empty((S.VOTERS + 1, p.h)), np.empty(p.ring + p.h), np.empty((3, S.RAW_TERMS)), np.empty(64),
        np.empty(S.RAW_TERMS, np.int64), np.empty(S.VOTERS + 1),
    )  # fmt: skip
    for i in range(len(slot)):
        for j in range(out.shape[1]):
            out[i, j] = 0.0
        if not fresh[i]:
            continue
        s, f = states[slot[i]], halves[slot[i]]
        observe(s, f, p, w, float(at[i]), columns[i, 0])
        s[S.SINCE] += 1.0
        if s[S.SINCE] >= p.emit:
            s[S.SINCE] = 0.0
            emit(s, f, p, w, out[i])


@kernel
def observe(s: Floats, f: Halves, p: Plan, w: Room, at: float, x: float) -> None:
    """Learn an observation; the first ones wait until their times tell the step, where none is declared."""
    s[S.REASON] = 0.0 if s[S.REASON] == S.RANGE else s[S.REASON]
    if not abs(x) < LARGEST:
        s[S.REASON] = S.RANGE
        return
    if p.step > 0.0:
        s[S.STEP] = p.step
    if s[S.STEP] > 0.0:
        place(s, f, p, w, at, x)
        return
    n = int(s[S.LATER])
    if n > 0 and at <= s[p.early + 2 * n - 2]:
        s[S.REASON] = S.TIMES
        return
    s[S.REASON] = S.WARMING
    s[p.early + 2 * n], s[p.early + 2 * n + 1] = at, x
    s[S.LATER] = n + 1.0
    if n + 1 < S.FIRST:
        return
    s[S.STEP] = spacing(s, p, w.path)
    for i in range(S.FIRST):
        place(s, f, p, w, s[p.early + 2 * i], s[p.early + 2 * i + 1])


@kernel
def spacing(s: Floats, p: Plan, gaps: Floats) -> float:
    """Step of the first observations, in ms: gaps as multiples of a short one, and a usual length if that is near.

    A short one is the second quartile's first, so that a quarter and more of the cells may be missing.
    """
    n = S.FIRST - 1
    for i in range(n):
        k, gap = i, s[p.early + 2 * i + 2] - s[p.early + 2 * i]
        while k > 0 and gaps[k - 1] > gap:
            gaps[k] = gaps[k - 1]
            k -= 1
        gaps[k] = gap
    total, cells = 0.0, 0.0
    for i in range(n):
        total += gaps[i]
        cells += max(math.floor(gaps[i] / gaps[n // 4] + 0.5), 1.0)
    step = total / cells
    if gaps[0] == gaps[n - 1] and step < 27.0 * DAY:
        return step
    for i in range(len(S.USUAL)):
        if abs(step - S.USUAL[i]) <= 0.04 * step:
            return float(S.USUAL[i])
    return step


@kernel
def place(s: Floats, f: Halves, p: Plan, w: Room, at: float, x: float) -> None:
    """Put an observation on the grid: the nearest cell after the last one, what is missing before it filled.

    One less than half a step after the last, or before it, changes nothing.
    """
    gap = 1
    if s[S.COUNT] > 0.0:
        gap = math.floor((at - s[S.LAST]) / s[S.STEP] + 0.5)
        if gap < 1:
            return
        if gap > max(p.longest, p.h, 16):
            found, since = s[S.STEP], s[S.SINCE]
            for j in range(p.words):
                s[j] = 0.0
            s[S.STEP], s[S.SINCE], s[S.REASON] = found, since, S.REGAIN
            gap = 1
    if s[S.COUNT] == 0.0:
        s[S.BASE], s[S.NEXT] = x, ready(s, p)
    for _ in range(gap - 1):
        cell(s, f, p, w, np.nan)
    cell(s, f, p, w, x)
    s[S.LAST] = at


@kernel
def cell(s: Floats, f: Halves, p: Plan, w: Room, x: float) -> None:
    """Judge and learn one cell, `x` its value or NaN."""
    t = int(s[S.COUNT])
    real = x == x
    if s[S.READY] == 0.0:
        f[p.ring32 + t % p.ring] = x - s[S.BASE] if real else f[p.ring32 + (t - 1) % p.ring]
        s[S.COUNT] = t + 1.0
    else:
        if real:
            judge(s, f, p, x)
            score(s, f, p, x)
        learn(s, f, p, w, x)
        if (t + 1) % p.stride == 0:
            look(s, f, p, w)
            keep(s, f, p, w)
    strange = real and (abs(x - s[S.MEAN]) > FAR * s[S.SPREAD] or (s[S.LOG] > 0.0 and x < 0.0))
    if t + 1 >= s[S.NEXT] or (strange and s[S.READY] > 0.0 and t - s[S.RESTART] > 16):
        restart(s, f, p, w)
        if s[S.READY] == 0.0:
            for a in range(p.judges):
                s[p.stats + a * S.STAT], s[p.stats + a * S.STAT + 1] = p.first_below, p.first_above
        s[S.READY] = 1.0


@kernel
def judge(s: Floats, f: Halves, p: Plan, x: float) -> None:
    """Score what was issued for the cell COUNT at each anchor, and move its quantiles by whether it was covered.

    Quantile tracking with an error integrator, as in conformal PID control (Angelopoulos, Candès & Tibshirani 2023).
    """
    t = int(s[S.COUNT])
    v = np.float32(x - s[S.BASE])
    nothing = 1e-6 * s[S.SPREAD] + 1e-12 * abs(x)
    for a in range(p.judges):
        ahead = p.anchors[a]
        origin = t + 1 - ahead
        e = p.issued32 + p.starts[a] + S.ENTRY * (origin % ahead)
        if origin < 0 or f[e] != np.float32(origin % CYCLE + 1):
            continue
        o = p.stats + a * S.STAT
        under, over = v < f[e + 2] - nothing, v > f[e + 3] + nothing
        s[o] = min(s[o] + RATE * (p.below - under), 0.0)
        s[o + 1] = max(s[o + 1] + RATE * (over - p.above), 0.0)
        s[o + 9] += RECENT * (under - s[o + 9])
        s[o + 10] += RECENT * (over - s[o + 10])
        mean = s[S.BASE] + f[e + 1]
        size = abs(x) + abs(mean)
        s[o + 4] += 1.0
        s[o + 5] += abs(x - mean)
        s[o + 6] += 200.0 * abs(x - mean) / size if size > 0.0 else 0.0
        s[o + 7] += 0.5 * (pinball(v - f[e + 2], p.below) + pinball(v - f[e + 3], 1.0 - p.above))
        s[o + 8] += 0.0 if under or over else 1.0


@kernel
def pinball(e: float, q: float) -> float:
    """Loss of a `q`-quantile that the value exceeds by `e`."""
    return max(q * e, (q - 1.0) * e)


@kernel
def emit(s: Floats, f: Halves, p: Plan, w: Room, out: Floats) -> None:
    """Write a row of output: emitted, status, step, mean, lower and upper of each step, figures so far."""
    out[0] = 1.0
    out[1] = s[S.REASON]
    out[2] = s[S.STEP]
    figures(s, p, out)
    if s[S.READY] == 0.0 or s[S.REASON] == S.RANGE:
        return
    out[1] = S.OK
    s[S.REASON] = 0.0
    look(s, f, p, w)
    t = int(s[S.COUNT])
    season = max(int(s[S.S1]), 1)
    floor = 0.0 if s[S.LOW] >= 0.0 else -np.inf
    a = 0
    for q in range(p.h):
        while p.anchors[a] < q + 1:
            a += 1
        o = p.stats + a * S.STAT
        low, high = edges(s, p, o)
        if p.anchors[a] > q + 1:
            part = (p.anchors[a] - q - 1.0) / (p.anchors[a] - p.anchors[a - 1])
            before = edges(s, p, o - S.STAT)
            low += part * (before[0] - low)
            high += part * (before[1] - high)
        phase = max(f[p.phases32 + (t + q) % season], LEAST)
        mean = max(w.ahead[S.COMBINED, q], floor)
        out[3 + q], out[3 + p.h + q] = mean, max(mean + low * phase, floor)
        out[3 + 2 * p.h + q] = mean + high * phase
        if p.anchors[a] == q + 1:
            e = p.issued32 + p.starts[a] + S.ENTRY * (t % (q + 1))
            f[e] = t % CYCLE + 1
            for k in range(3):
                f[e + 1 + k] = out[3 + k * p.h + q] - s[S.BASE]


@kernel
def edges(s: Floats, p: Plan, o: int) -> tuple[float, float]:
    """Lower and upper edge at the anchor `o`, from the mean.

    Wider while more than allowed was missed of late, and narrower, down to half, while less.
    """
    low = s[o] * s[o + 2] * (1.0 + WIDEN * max(s[o + 9] - p.below, -0.5 / WIDEN))
    high = s[o + 1] * s[o + 2] * (1.0 + WIDEN * max(s[o + 10] - p.above, -0.5 / WIDEN))
    return low, high


@kernel
def figures(s: Floats, p: Plan, out: Floats) -> None:
    """MASE, sMAPE, scaled pinball loss and coverage so far, at the first, the middle and the last step."""
    scale = s[S.SEASONAL] / max(s[S.SEASONALS], 1.0)
    k = 3 + 3 * p.h
    for i in range(3):
        o = p.stats + p.shown[i] * S.STAT
        n = max(s[o + 4], 1.0)
        out[k] = s[o + 5] / n / scale if scale > 0.0 else 0.0
        out[k + 1] = s[o + 6] / n
        out[k + 2] = s[o + 7] / n / scale if scale > 0.0 else 0.0
        out[k + 3] = s[o + 8] / n
        k += 4
