"""What a series learns from one cell of its grid, and how it starts over from its ring when it knows more."""

import math
from typing import NamedTuple

import numpy as np

from models.kernels import kernel
from operators.kernels import forecast_state as S
from operators.kernels.forecast_pool import least_ahead, least_learn, smooth_ahead, smooth_learn, smooth_weights
from operators.kernels.forecast_state import Floats, Halves, Ints, Plan

CAP = 5.0
"""Largest loss that counts, in mean seasonal differences."""
DECAY = 0.999
SHARE = 0.02
"""Part of the mean that is added before a logarithm where values come near zero, and least value where none did."""
POWER = 4.0
MARGIN = 0.5
"""How far beyond the values seen a forecast may go, in standard deviations."""


class Room(NamedTuple):
    """Scratch arrays, alive for one call; ahead: f64[experts + 2, h] in units of the series."""

    ahead: Floats
    path: Floats
    terms: Floats
    weights: Floats
    lags: Ints
    sorted: Floats


@kernel
def value(s: Floats, f: Halves, p: Plan, t: int) -> float:
    """Value of cell `t`, one of the newest `p.ring`."""
    return float(s[S.BASE] + f[p.ring32 + t % p.ring])


@kernel
def scaled(s: Floats, x: float) -> float:
    """`x` on the second scale: logarithmic where the series allows, standardised."""
    if s[S.LOG] > 0.0:
        low = SHARE * s[S.MEAN] if s[S.SHIFT] == 0.0 else 0.0
        return float((math.log(max(x, low) + s[S.SHIFT]) - s[S.LOG_MEAN]) / s[S.LOG_SPREAD])
    return float((x - s[S.MEAN]) / s[S.SPREAD])


@kernel
def unscaled(s: Floats, z: float) -> float:
    """The value that `scaled` takes to `z`."""
    if s[S.LOG] > 0.0:
        return math.exp(min(z * s[S.LOG_SPREAD] + s[S.LOG_MEAN], 700.0)) - float(s[S.SHIFT])
    return float(z * s[S.SPREAD] + s[S.MEAN])


@kernel
def members(s: Floats, p: Plan, log: bool) -> Floats:
    """The smoothing's members for the seasons in use."""
    if s[S.S1] + s[S.S2] <= S.SHORT:
        return S.GRID
    return S.LONG_LOG if log else S.LONG


@kernel
def learn(s: Floats, f: Halves, p: Plan, w: Room, x: float) -> None:
    """Learn the cell that follows, `x` its value or NaN: missing, filled by what a smoothing expected."""
    t = int(s[S.COUNT])
    real = x == x
    s1, s2 = int(s[S.S1]), int(s[S.S2])
    z, y = (x - s[S.MEAN]) / s[S.SPREAD], x
    if real:
        y = scaled(s, x)
    for log in range(2):
        grid = members(s, p, log == 1)
        o = p.smooth_log32 if log else p.smooth32
        smooth_weights(f, o, grid, (s1, s2), t - s[S.BEGIN], w.weights)
        expected = 0.0
        for k in range(len(grid)):
            e = smooth_learn(f, o + k * (S.MEMBER + s1 + s2), grid[k], s1, s2, t, y if log else z)
            expected += w.weights[k] * e
        if not real and log == 0:
            x = s[S.BASE] if s[S.SPREAD] == 0.0 else min(max(expected * s[S.SPREAD] + s[S.MEAN], s[S.LOW]), s[S.HIGH])
    if real:
        regress(s, f, p, w, t, z, y)
        season = max(s1, 1)
        if t - season >= s[S.BEGIN]:
            s[S.SEASONAL] += abs(x - value(s, f, p, t - season))
            s[S.SEASONALS] += 1.0
        s[S.LOW] = min(s[S.LOW], x)
        s[S.HIGH] = max(s[S.HIGH], x)
    f[p.ring32 + t % p.ring] = x - s[S.BASE]
    f[p.logs32 + t % p.ring] = scaled(s, x)
    s[S.COUNT] = t + 1.0


@kernel
def regress(s: Floats, f: Halves, p: Plan, w: Room, t: int, z: float, y: float) -> None:
    """One step of both least squares, once the longest lag has been seen."""
    n = int(s[S.LAGS_RAW])
    if t - f[p.lags_raw32 + n] >= s[S.BEGIN]:
        w.terms[0, 0] = 1.0
        for j in range(n):
            lagged = value(s, f, p, t - int(f[p.lags_raw32 + 1 + j]))
            w.terms[0, 1 + j] = (lagged - s[S.MEAN]) / s[S.SPREAD]
        least_learn(s, p.raw, n + 1, w.terms, z, 1.0)
    n = int(s[S.LAGS_LOG])
    if t - f[p.lags_log32 + n] >= s[S.BEGIN]:
        w.terms[0, 0] = 1.0
        for j in range(n):
            w.terms[0, 1 + j] = f[p.logs32 + (t - int(f[p.lags_log32 + 1 + j])) % p.ring]
        least_learn(s, p.log, n + 1, w.terms, y, 0.9998)


@kernel
def look(s: Floats, f: Halves, p: Plan, w: Room) -> None:
    """Fill w.ahead: each expert's forecast of the `h` cells to come, their median, and the combination."""
    t = int(s[S.COUNT])
    s1, s2 = max(int(s[S.S1]), 1), int(s[S.S2])
    for q in range(p.h):
        w.ahead[S.NAIVE, q] = value(s, f, p, t + q - s1 * (q // s1 + 1))
        if s2 > 0:
            w.ahead[S.WEEKLY, q] = value(s, f, p, t + q - s2 * (q // s2 + 1))
        else:
            w.ahead[S.WEEKLY, q] = w.ahead[S.NAIVE, q]
    margin = MARGIN * s[S.SPREAD]
    low, high = s[S.LOW] - margin, s[S.HIGH] + margin
    if s[S.LOW] >= 0.0:
        low = max(low, 0.0)
    for log in range(2):
        row = S.SMOOTH_LOG if log else S.SMOOTH
        grid = members(s, p, log == 1)
        o = p.smooth_log32 if log else p.smooth32
        pair = (int(s[S.S1]), s2)
        smooth_weights(f, o, grid, pair, t - s[S.BEGIN], w.weights)
        out = w.ahead[row]
        for q in range(p.h):
            out[q] = 0.0
        for k in range(len(grid)):
            if w.weights[k] > 0.01:
                smooth_ahead(f, o + k * (S.MEMBER + pair[0] + s2), grid[k], pair, t, w.weights[k], out)
        squares(s, f, p, w, log, (low, high))
        for q in range(p.h):
            v = unscaled(s, out[q]) if log else out[q] * s[S.SPREAD] + s[S.MEAN]
            out[q] = min(max(v, low - margin if low != 0.0 else 0.0), high + margin)
    combine(s, p, w)


@kernel
def squares(s: Floats, f: Halves, p: Plan, w: Room, log: int, bounds: tuple[float, float]) -> None:
    """The least squares' row of w.ahead; before it has learnt, the naive forecast."""
    at = p.lags_log32 if log else p.lags_raw32
    row = S.LEAST_LOG if log else S.LEAST
    n = int(s[S.LAGS_LOG if log else S.LAGS_RAW])
    t = int(s[S.COUNT])
    longest = int(f[at + n])
    if t - s[S.BEGIN] <= longest + 2 * n:
        for q in range(p.h):
            w.ahead[row, q] = w.ahead[S.NAIVE, q]
        return
    for j in range(n):
        w.lags[j] = int(f[at + 1 + j])
    for k in range(longest):
        i = (t - longest + k) % p.ring
        if log:
            w.path[k] = f[p.logs32 + i]
        else:
            w.path[k] = (s[S.BASE] + f[p.ring32 + i] - s[S.MEAN]) / s[S.SPREAD]
    if log:
        low, high = scaled(s, bounds[0]), scaled(s, bounds[1])
        least_ahead(s, p.log, w.lags[:n], w.path, longest, p.h, low, high)
    else:
        low, high = (bounds[0] - s[S.MEAN]) / s[S.SPREAD], (bounds[1] - s[S.MEAN]) / s[S.SPREAD]
        least_ahead(s, p.raw, w.lags[:n], w.path, longest, p.h, low, high)
    for q in range(p.h):
        v = w.path[longest + q]
        w.ahead[row, q] = unscaled(s, v) if log else v * s[S.SPREAD] + s[S.MEAN]


@kernel
def combine(s: Floats, p: Plan, w: Room) -> None:
    """Median of the experts, and the mean of all weighed by a power of their delayed losses at such horizons."""
    for q in range(p.h):
        for i in range(S.EXPERTS):
            v = w.ahead[i, q]
            k = i
            while k > 0 and w.sorted[k - 1] > v:
                w.sorted[k] = w.sorted[k - 1]
                k -= 1
            w.sorted[k] = v
        w.ahead[S.MEDIAN, q] = 0.5 * (w.sorted[S.EXPERTS // 2 - 1] + w.sorted[S.EXPERTS // 2])
    group = -1
    for q in range(p.h):
        if q * S.GROUPS // p.h != group:
            group = q * S.GROUPS // p.h
            best = np.inf
            for i in range(S.VOTERS):
                best = min(best, s[p.losses + i * S.GROUPS + group])
            total = 0.0
            for i in range(S.VOTERS):
                w.weights[i] = ((best + 1e-9) / (s[p.losses + i * S.GROUPS + group] + 1e-9)) ** POWER
                total += w.weights[i]
            for i in range(S.VOTERS):
                w.weights[i] /= total
        v = 0.0
        for i in range(S.VOTERS):
            v += w.weights[i] * w.ahead[i, q]
        w.ahead[S.COMBINED, q] = v


@kernel
def keep(s: Floats, f: Halves, p: Plan, w: Room) -> None:
    """Keep what the pool says now, in the slot whose last origin is out of reach, to score it later."""
    t = int(s[S.COUNT])
    slot = t // p.stride % p.slots
    s[S.HEAD + slot] = t
    o = p.slots32 + slot * (S.VOTERS + 1) * p.h
    for i in range(S.VOTERS + 1):
        for q in range(p.h):
            f[o + i * p.h + q] = w.ahead[i, q]


@kernel
def score(s: Floats, f: Halves, p: Plan, x: float) -> None:
    """Charge each expert its error at `x`, the cell COUNT, in each forecast kept that reached so far."""
    t = int(s[S.COUNT])
    scale = s[S.SEASONAL] / max(s[S.SEASONALS], 1.0)
    scale = scale if scale > 0.0 else 1.0
    for slot in range(p.slots):
        origin = s[S.HEAD + slot]
        q = t - int(origin)
        if origin < 0.0 or q < 0 or q >= p.h:
            continue
        o = p.slots32 + slot * (S.VOTERS + 1) * p.h + q
        group = q * S.GROUPS // p.h
        for i in range(S.VOTERS):
            loss = min(abs(x - f[o + i * p.h]) / scale, CAP)
            k = p.losses + i * S.GROUPS + group
            s[k] = s[k] * DECAY + loss
        nearest(s, f, p, x - f[o + S.VOTERS * p.h], q + 1)


@kernel
def nearest(s: Floats, f: Halves, p: Plan, e: float, ahead: int) -> None:
    """Move the scale of the anchor next to `ahead` steps, and that of the phase, towards the error `e`."""
    a = 0
    while a + 1 < p.judges and p.anchors[a] < ahead:
        a += 1
    o = p.stats + a * S.STAT
    phase = p.phases32 + int(s[S.COUNT]) % max(int(s[S.S1]), 1)
    size = abs(e)
    seen = s[o + 3]
    if s[o + 2] > 0.0:
        f[phase] += 0.05 * (min(size / s[o + 2], 5.0) - f[phase])
    size /= max(f[phase], 0.1)
    rate = max(1.0 / (seen + 1.0), 0.02)
    s[o + 2] += rate * (size - s[o + 2])
    s[o + 3] = seen + 1.0
