"""A series' observations in, forecasts with intervals out: the kernel that `operators.forecast` calls once a batch."""

import math

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from operators.kernels import forecast_state as S
from operators.kernels.forecast_learn import WILDEST, Room, keep, learn, look, score
from operators.kernels.forecast_start import DAY, ready, restart
from operators.kernels.forecast_state import Floats, Halves, Ints, Plan

Slots = NDArray[np.int32]
Flags = NDArray[np.bool_]

RATE = 0.3
"""Step of the quantile trackers one step ahead, in mean absolute normalised errors."""
DELAYED = 0.1
"""By how much the rates are lower for each further step ahead: whether a value was covered is known so much later, and
large steps would go on for as long in the wrong direction."""
RECENT, WIDEN = 0.02, 8.0
"""Rate of the error integrator, and how much wider an interval is for each missed share beyond what is allowed."""
FOLLOW = 0.2
"""Part of a time's distance from the grid by which the grid is moved."""
LARGEST = 1e30
YOUNG = 25.0
"""Cells after which intervals are twice as wide as errors say: these are of a pool that was started on the same cells.
Then the excess falls as the square of the cells."""
FAR = 1e3
"""Standard deviations from the mean at which the scale is taken to have changed."""
LEAST = 0.1
FITS, MISFITS = 3.0, 64.0
"""What an observation in the cell after the last one counts, and how much against the step makes it wrong."""
PATIENCE = 16
"""Observations in a row, each later than the one before, that must be behind the clock before it is taken for wrong."""


@kernel
def step(states: Floats, slot: Slots, at: Ints, columns: Floats, fresh: Flags, out: Floats, plans: Plan) -> None:
    """Learn row after row, and forecast where one is due; see `operators.track.Tracker`. plans: one PLAN."""
    halves = states.view(np.float32)
    p = plans[0]
    w = Room(
        np.empty((S.VOTERS + 1, p.h)), np.empty(p.ring + max(p.h, p.longest)),
        np.empty((3, S.RAW_TERMS), np.float32), np.empty(S.MEMBERS),
        np.empty(S.RAW_TERMS, np.int64), np.empty(S.MEMBERS, np.int64), np.zeros(S.MEMBERS, np.float32),
        np.full(1, -1.0),
    )  # fmt: skip
    for i in range(len(slot)):
        for j in range(out.shape[1]):
            out[i, j] = 0.0
        if not fresh[i]:
            continue
        s, f = states[slot[i]], halves[slot[i]]
        w.looked[0] = -1.0
        observe(s, f, p, w, float(at[i]), columns[i, 0])
        s[S.SINCE] += 1.0
        if s[S.SINCE] >= p.emit:
            s[S.SINCE] = 0.0
            emit(s, f, p, w, out[i])


@kernel
def observe(s: Floats, f: Halves, p: Plan, w: Room, at: float, x: float) -> None:
    """Learn an observation; the first ones wait until their times tell the step, where none is declared."""
    s[S.REASON] = 0.0 if s[S.REASON] >= S.RANGE else s[S.REASON]
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
        if not strayed(s, at, -1.0, PATIENCE):
            return
        n = 0
    s[S.REASON], s[S.STRAYS] = S.WARMING, 0.0
    s[p.early + 2 * n], s[p.early + 2 * n + 1] = at, x
    s[S.LATER] = n + 1.0
    if n + 1 < S.FIRST:
        return
    s[S.STEP] = spacing(s, p, w.path)
    for i in range(S.FIRST):
        if s[S.STEP] > 0.0:  # else one of them made all begin anew
            place(s, f, p, w, s[p.early + 2 * i], s[p.early + 2 * i + 1])


@kernel
def spacing(s: Floats, p: Plan, gaps: Floats) -> float:
    """Step of the first observations, in ms: gaps as multiples of a usual one, or of a short one if that fits better.

    A short one is the second quartile's first, so that a quarter and more of the cells may be missing. A length that
    steps usually have is taken if it is near and fits as well: the first times may be early or late by a part of it.
    """
    n = S.FIRST - 1
    for i in range(n):
        k, gap = i, s[p.early + 2 * i + 2] - s[p.early + 2 * i]
        while k > 0 and gaps[k - 1] > gap:
            gaps[k] = gaps[k - 1]
            k -= 1
        gaps[k] = gap
    step, misfit = multiple(gaps[:n], gaps[n // 4])
    other, off = multiple(gaps[:n], gaps[n // 2])
    if off <= 1.25 * misfit:
        step, misfit = other, off
    if gaps[0] == gaps[n - 1] and step < 27.0 * DAY:
        return step
    for i in range(len(S.USUAL)):
        if abs(step - S.USUAL[i]) <= 0.12 * step and multiple(gaps[:n], S.USUAL[i])[1] <= 1.25 * misfit + 0.02:
            return float(S.USUAL[i])
    return step


@kernel
def multiple(gaps: Floats, unit: float) -> tuple[float, float]:
    """Mean length of `gaps` as whole multiples of about `unit`, and how far they are from multiples of `unit`."""
    total, cells, off = 0.0, 0.0, 0.0
    for gap in gaps:
        count = max(math.floor(gap / unit + 0.5), 1.0)
        total, cells, off = total + gap, cells + count, off + abs(gap / unit - count)
    return total / cells, off / len(gaps)


@kernel
def place(s: Floats, f: Halves, p: Plan, w: Room, at: float, x: float) -> None:
    """Put an observation on the grid: the nearest cell after the last one, what is missing before it filled.

    One less than half a step after the last changes nothing, nor do those that are off the clock, before it or far
    ahead, until so many are that it is taken for wrong: then all begins anew. LAST, where the grid is thought to be,
    follows the times slowly: so neither early and late ones nor a step that is a little off shift the cells.
    """
    gap, expected = 1, at
    if s[S.COUNT] > 0.0:
        gap = math.floor((at - s[S.LAST]) / s[S.STEP] + 0.5)
        if gap > 1 or (gap == 0 and at > s[S.LAST]):
            s[S.MISFIT] += 1.0
        elif gap == 1:
            s[S.MISFIT] = max(s[S.MISFIT] - FITS, 0.0)
        if p.step == 0.0 and s[S.MISFIT] >= MISFITS:
            anew(s, p, at, x)
            return
        if gap == 0:
            return
        expected = s[S.LAST] + gap * s[S.STEP]
        if gap < 0 or gap > max(p.longest, p.h, 16):
            s[S.REASON] = S.BEHIND if gap < 0 else S.AHEAD
            if not strayed(s, at, math.copysign(1.0, gap), 2.0 if gap > 0 else max(s[S.COUNT], PATIENCE)):
                return
            anew(s, p, at, x)
            if p.step == 0.0:
                return
            s[S.STEP], gap, expected = p.step, 1, at
    if s[S.COUNT] == 0.0:
        s[S.BASE], s[S.NEXT] = x, ready(s, p)
    for _ in range(gap - 1):
        cell(s, f, p, w, np.nan)
    cell(s, f, p, w, x)
    s[S.LAST], s[S.STRAYS] = expected + FOLLOW * (at - expected), 0.0


@kernel
def anew(s: Floats, p: Plan, at: float, x: float) -> None:
    """Forget the series; this observation is the first whose times tell the step."""
    since = s[S.SINCE]
    for j in range(p.words):
        s[j] = 0.0
    s[S.SINCE], s[S.REASON] = since, S.REGAIN
    s[p.early], s[p.early + 1], s[S.LATER] = at, x, 1.0


@kernel
def strayed(s: Floats, at: float, side: float, most: float) -> bool:
    """Whether this is the `most`-th observation in a row, in the order of their times, on one side of the clock."""
    s[S.STRAYS] = s[S.STRAYS] + side if s[S.STRAYS] * side > 0.0 and at > s[S.STRAY] else side
    s[S.STRAY] = at
    return bool(abs(s[S.STRAYS]) >= most)


@kernel
def cell(s: Floats, f: Halves, p: Plan, w: Room, x: float) -> None:
    """Judge and learn one cell, `x` its value or NaN."""
    t = int(s[S.COUNT])
    real = x == x
    if s[S.READY] == 0.0:
        f[p.ring32 + t % p.ring] = x - s[S.BASE] if real else f[p.ring32 + (t - 1) % p.ring]
        s[S.COUNT] = t + 1.0
    else:
        judge(s, f, p, x)
        if real:
            score(s, f, p, w, x)
        learn(s, f, p, w, x)
        if (t + 1) % p.stride == 0:
            look(s, f, p, w)
            keep(s, f, p, w)
    off = abs(x - s[S.MEAN]) if real else 0.0
    strange = off > FAR * s[S.SPREAD] or (s[S.LOG] > 0.0 and x < 0.0)
    strange = strange and (t - s[S.RESTART] > 16 or off > WILDEST * s[S.SPREAD])
    if t + 1 >= s[S.NEXT] or (strange and s[S.READY] > 0.0):
        restart(s, f, p, w)
        if s[S.READY] == 0.0:
            for a in range(p.judges):
                s[p.stats + a * S.STAT], s[p.stats + a * S.STAT + 1] = p.first_below, p.first_above
            for j in range(S.ENTRY * p.issued):
                f[p.issued32 + j] = np.nan
        s[S.READY] = 1.0


@kernel
def judge(s: Floats, f: Halves, p: Plan, x: float) -> None:
    """Score what was issued for the cell COUNT, `x` or NaN, and move the quantiles by whether it was covered.

    Quantile tracking with an error integrator, as in conformal PID control (Angelopoulos, Candès & Tibshirani 2023).
    """
    t = int(s[S.COUNT])
    v = np.float32(x - s[S.BASE])
    nothing = 1e-6 * s[S.SPREAD] + 1e-12 * abs(x)
    for a in range(p.judges):
        ahead = p.anchors[a]
        e = p.issued32 + S.ENTRY * (p.starts[a] + (t + 1) % ahead)
        mean, lower, upper = f[e], f[e + 1], f[e + 2]
        f[e] = np.nan
        if mean != mean or x != x:
            continue
        o = p.stats + a * S.STAT
        under, over = v < lower - nothing, v > upper + nothing
        slower = 1.0 / (1.0 + DELAYED * ((ahead - 1) // p.emit))
        s[o] = min(s[o] + RATE * slower * (p.below - under), 0.0)
        s[o + 1] = max(s[o + 1] + RATE * slower * (over - p.above), 0.0)
        s[o + 9] += RECENT * slower * (under - s[o + 9])
        s[o + 10] += RECENT * slower * (over - s[o + 10])
        size = abs(x) + abs(mean + s[S.BASE])
        s[o + 4] += 1.0
        s[o + 5] += abs(v - mean)
        s[o + 6] += 200.0 * abs(v - mean) / size if size > 0.0 else 0.0
        s[o + 7] += 0.5 * (pinball(v - lower, p.below) + pinball(v - upper, 1.0 - p.above))
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
    if s[S.READY] == 0.0 or s[S.REASON] >= S.RANGE:
        return
    out[1] = S.OK
    s[S.REASON] = 0.0
    look(s, f, p, w)
    t = int(s[S.COUNT])
    season = max(int(s[S.S1]), 1)
    floor = 0.0 if s[S.LOW] >= 0.0 else -np.inf
    q, low, high = 0, 0.0, 0.0
    phase = t % season
    for a in range(p.judges):
        ahead, (to_low, to_high) = p.anchors[a], edges(s, p, p.stats + a * S.STAT)
        low_step, high_step = (to_low - low) / (ahead - q), (to_high - high) / (ahead - q)
        while q < ahead:
            low, high = min(low + low_step, 0.0), max(high + high_step, 0.0)
            wide = max(f[p.phases32 + phase], LEAST)
            phase = phase + 1 if phase + 1 < season else 0
            mean = max(w.ahead[S.COMBINED, q], floor)
            out[3 + q], out[3 + p.h + q] = mean, max(mean + low * wide, floor)
            out[3 + 2 * p.h + q] = mean + high * wide
            q += 1
        e = p.issued32 + S.ENTRY * (p.starts[a] + t % ahead)
        for k in range(3):
            f[e + k] = out[2 + k * p.h + q] - s[S.BASE]


@kernel
def edges(s: Floats, p: Plan, o: int) -> tuple[float, float]:
    """Lower and upper edge at the anchor `o`, from the mean.

    Wider while more than allowed was missed of late, and narrower, down to half, while less.
    """
    scale = s[o + 2] * (1.0 + (YOUNG / s[S.COUNT]) ** 2)
    low = s[o] * scale * (1.0 + WIDEN * max(s[o + 9] - p.below, -0.5 / WIDEN))
    high = s[o + 1] * scale * (1.0 + WIDEN * max(s[o + 10] - p.above, -0.5 / WIDEN))
    return low, high


@kernel
def figures(s: Floats, p: Plan, out: Floats) -> None:
    """MASE, sMAPE, scaled pinball loss and coverage so far, at each step that is judged."""
    scale = s[S.SEASONAL] / max(s[S.SEASONALS], 1.0)
    k = 3 + 3 * p.h
    for i in range((len(out) - k) // 4):
        o = p.stats + p.shown[i] * S.STAT
        n = max(s[o + 4], 1.0)
        out[k] = s[o + 5] / n / scale if scale > 0.0 else 0.0
        out[k + 1] = s[o + 6] / n
        out[k + 2] = s[o + 7] / n / scale if scale > 0.0 else 0.0
        out[k + 3] = s[o + 8] / n
        k += 4
