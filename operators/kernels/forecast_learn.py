"""What a series learns from one cell of its grid, and how it starts over from its ring when it knows more."""

import math
from typing import NamedTuple

import numpy as np

from models.kernels import kernel
from operators.kernels import forecast_state as S
from operators.kernels.forecast_pool import least_ahead, least_learn, smooth_ahead, smooth_learn, smooth_weights
from operators.kernels.forecast_state import Floats, Halves, Ints, Plan

CAP = 5.0
"""Largest loss that counts, in mean seasonal differences; several seasons ahead, so many times as much."""
DECAY = 0.999
SHARE = 0.02
"""Part of the mean that is added before a logarithm where values come near zero, and least value where none did."""
WILDEST = 1e6
"""Standard deviations at which the scale is taken to have changed whatever came just before; none further is learnt,
so that its square is a float32."""
MARGIN = 0.5
"""How far beyond the values seen a forecast may go, in standard deviations."""
RISE = 6
"""Cells over which the drift of a series without a season is taken."""


class Room(NamedTuple):
    """Scratch arrays, alive for one call; ahead: f64[voters + 1, h] in units of the series."""

    ahead: Floats
    path: Floats
    terms: Halves
    weights: Floats
    lags: Ints
    picks: Ints
    none: Halves
    looked: Floats


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
def members(s: Floats) -> Halves:
    """The smoothings' members for the seasons in use."""
    return S.GRID if s[S.S1] + s[S.S2] <= S.SHORT else S.LONG


@kernel
def learn(s: Floats, f: Halves, p: Plan, w: Room, x: float) -> None:
    """Learn the cell that follows, `x` its value or NaN: missing, filled by what a smoothing expected."""
    t = int(s[S.COUNT])
    real = x == x
    pair = (int(s[S.S1]), int(s[S.S2]))
    z, y = (x - s[S.MEAN]) / s[S.SPREAD], x
    if real:
        z, y = min(max(z, -WILDEST), WILDEST), min(max(scaled(s, x), -WILDEST), WILDEST)
    else:
        smoothed(s, f, p, w, 0, w.ahead[S.SMOOTH, :1])
        x = min(max(w.ahead[S.SMOOTH, 0] * s[S.SPREAD] + s[S.MEAN], s[S.LOW]), s[S.HIGH])
    smooth_learn(f, p.smooth32, members(s), pair, t, z, y, w.none)
    if real:
        regress(s, f, p, w, t, z, y)
        season = max(pair[0], 1)
        if t - season >= s[S.BEGIN]:
            s[S.SEASONAL] += abs(x - value(s, f, p, t - season))
            s[S.SEASONALS] += 1.0
        s[S.LOW] = min(s[S.LOW], x)
        s[S.HIGH] = max(s[S.HIGH], x)
    w.looked[0] = -1.0
    f[p.ring32 + t % p.ring] = x - s[S.BASE]
    f[p.logs32 + t % p.logs] = y if real else scaled(s, x)
    s[S.COUNT] = t + 1.0


@kernel
def smoothed(s: Floats, f: Halves, p: Plan, w: Room, log: int, out: Floats) -> None:
    """Write what a smoothing says of the len(out) cells to come, on its scale."""
    grid, t, pair = members(s), int(s[S.COUNT]), (int(s[S.S1]), int(s[S.S2]))
    n = smooth_weights(f, p.smooth32, grid, log, pair[0], t - s[S.BEGIN], w.picks, w.weights)
    smooth_ahead(f, p.smooth32, grid, pair, t, w.picks[:n], w.weights[:n], out)


@kernel
def regress(s: Floats, f: Halves, p: Plan, w: Room, t: int, z: float, y: float) -> None:
    """One step of both least squares, once the longest lag has been seen."""
    n = int(s[S.LAGS_RAW])
    terms = w.terms[0]
    terms[0] = 1.0
    if t - f[p.lags_raw32 + n] >= s[S.BEGIN]:
        low, scale = s[S.BASE] - s[S.MEAN], 1.0 / s[S.SPREAD]
        for j in range(n):
            i = t % p.ring - int(f[p.lags_raw32 + 1 + j])
            terms[1 + j] = (low + f[p.ring32 + (i if i >= 0 else i + p.ring)]) * scale
        least_learn(f, p.raw32, n + 1, w.terms, z, 1.0)
    n = int(s[S.LAGS_LOG])
    if t - f[p.lags_log32 + n] >= s[S.BEGIN]:
        for j in range(n):
            i = t % p.logs - int(f[p.lags_log32 + 1 + j])
            terms[1 + j] = f[p.logs32 + (i if i >= 0 else i + p.logs)]
        least_learn(f, p.log32, n + 1, w.terms, y, 0.9998)


@kernel
def repeat(s: Floats, f: Halves, p: Plan, season: int, out: Floats) -> None:
    """Write the last round of `season`, again and again."""
    i = (int(s[S.COUNT]) - season) % p.ring
    for q in range(min(season, len(out))):
        out[q] = s[S.BASE] + f[p.ring32 + i]
        i = i + 1 if i + 1 < p.ring else 0
    for q in range(season, len(out)):
        out[q] = out[q - season]


@kernel
def risen(s: Floats, f: Halves, p: Plan, t: int) -> float:
    """By how much the cell before `t` is above the one a season before; without a season, the mean of RISE steps."""
    first, season = int(s[S.BEGIN]), max(int(s[S.S1]), 1)
    span = season if season > 1 else min(RISE, t - 1 - first)
    if span < 1 or t - 1 - span < first:
        return 0.0
    rise = float(f[p.ring32 + (t - 1) % p.ring]) - float(f[p.ring32 + (t - 1 - span) % p.ring])
    return rise * season / span


@kernel
def look(s: Floats, f: Halves, p: Plan, w: Room) -> None:
    """Fill w.ahead: each expert's forecast of the `h` cells to come, their median, and the combination.

    `w.looked` is COUNT where w.ahead holds that already, so that a forecast kept and issued is made once.
    """
    if w.looked[0] == s[S.COUNT]:
        return
    w.looked[0] = s[S.COUNT]
    s1, s2 = max(int(s[S.S1]), 1), int(s[S.S2])
    repeat(s, f, p, s1, w.ahead[S.NAIVE])
    repeat(s, f, p, s2 if s2 > 0 else s1, w.ahead[S.WEEKLY])
    rising, rise = int(s[S.RISING]), risen(s, f, p, int(s[S.COUNT]))
    for q in range(p.h if rising >= 0 else 0):
        w.ahead[rising, q] += rise * (q // s1 + 1)
    margin = MARGIN * s[S.SPREAD]
    low, high = s[S.LOW] - margin, s[S.HIGH] + margin
    if s[S.LOW] >= 0.0:
        low = max(low, 0.0)
    for log in range(2):
        out = w.ahead[S.SMOOTH_LOG if log else S.SMOOTH]
        smoothed(s, f, p, w, log, out)
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
    size, at = (p.logs, p.logs32) if log else (p.ring, p.ring32)
    i = (t - longest) % size
    low, high = scaled(s, bounds[0]), scaled(s, bounds[1])
    shift, scale = 0.0, 1.0
    if not log:
        scale = 1.0 / s[S.SPREAD]
        shift = (s[S.BASE] - s[S.MEAN]) * scale
        low, high = (bounds[0] - s[S.MEAN]) * scale, (bounds[1] - s[S.MEAN]) * scale
    part = min(longest, size - i)
    for k in range(part):
        w.path[k] = shift + scale * f[at + i + k]
    for k in range(part, longest):
        w.path[k] = shift + scale * f[at + k - part]
    least_ahead(f, p.log32 if log else p.raw32, w.lags[:n], w.path, longest, p.h, low, high)
    for q in range(p.h):
        v = w.path[longest + q]
        w.ahead[row, q] = unscaled(s, v) if log else v * s[S.SPREAD] + s[S.MEAN]


@kernel
def combine(s: Floats, p: Plan, w: Room) -> None:
    """Median of the experts, and the mean of all weighed by a power of their delayed losses at such horizons."""
    v = w.ahead
    for q in range(p.h):
        v[S.MEDIAN, q] = middle(v[0, q], v[1, q], v[2, q], v[3, q], v[4, q], v[5, q])
    for group in range(S.GROUPS):
        begin, end = -(-group * p.h // S.GROUPS), -(-(group + 1) * p.h // S.GROUPS)
        best, total = np.inf, 0.0
        for i in range(S.VOTERS):
            best = min(best, s[p.losses + i * S.GROUPS + group])
        for i in range(S.VOTERS):
            ratio = (best + 1e-9) / (s[p.losses + i * S.GROUPS + group] + 1e-9)
            w.weights[i] = ratio * ratio * ratio * ratio
            total += w.weights[i]
        for q in range(begin, end):
            v[S.COMBINED, q] = 0.0
        for i in range(S.VOTERS):
            share = w.weights[i] / total
            for q in range(begin, end):
                v[S.COMBINED, q] += share * v[i, q]


@kernel
def middle(a: float, b: float, c: float, d: float, e: float, g: float) -> float:
    """Median of six: of each half sorted, the third and the fourth of all lie between its first and last."""
    a, b = min(a, b), max(a, b)
    b, c = min(b, c), max(b, c)
    a, b = min(a, b), max(a, b)
    d, e = min(d, e), max(d, e)
    e, g = min(e, g), max(e, g)
    d, e = min(d, e), max(d, e)
    third = max(max(min(a, g), min(b, e)), min(c, d))
    fourth = min(min(max(a, g), max(b, e)), max(c, d))
    return 0.5 * (third + fourth)


@kernel
def keep(s: Floats, f: Halves, p: Plan, w: Room) -> None:
    """Keep what the pool says now, in the slot whose last origin is out of reach, to score it later."""
    t = int(s[S.COUNT])
    slot = t // p.stride % p.slots
    s[S.HEAD + slot] = t
    o = p.slots32 + slot * len(S.KEPT) * p.h
    for row in S.KEPT:
        for q in range(p.h):
            f[o + q] = w.ahead[row, q] - s[S.BASE]
        o += p.h


@kernel
def score(s: Floats, f: Halves, p: Plan, w: Room, x: float) -> None:
    """Charge each expert its error at `x`, the cell COUNT, in each forecast kept that reached so far."""
    t = int(s[S.COUNT])
    scale = s[S.SEASONAL] / max(s[S.SEASONALS], 1.0)
    scale = scale if scale > 0.0 else 1.0
    said, v = w.weights, x - s[S.BASE]
    s1, s2, rising = max(int(s[S.S1]), 1), int(s[S.S2]), int(s[S.RISING])
    for slot in range(p.slots):
        origin = s[S.HEAD + slot]
        q = t - int(origin)
        if origin < 0.0 or q < 0 or q >= p.h:
            continue
        o = p.slots32 + slot * len(S.KEPT) * p.h + q
        said[S.NAIVE] = said[S.WEEKLY] = f[p.ring32 + (t - s1 * (q // s1 + 1)) % p.ring]
        if s2 > 0:
            said[S.WEEKLY] = f[p.ring32 + (t - s2 * (q // s2 + 1)) % p.ring]
        if rising >= 0:
            said[rising] += risen(s, f, p, int(origin)) * (q // s1 + 1)
        for k in range(4):
            said[S.SMOOTH + k] = f[o + k * p.h]
        said[S.MEDIAN] = middle(said[0], said[1], said[2], said[3], said[4], said[5])
        group = q * S.GROUPS // p.h
        for i in range(S.VOTERS):
            loss = min(abs(v - said[i]) / scale, CAP * (q // s1 + 1))
            k = p.losses + i * S.GROUPS + group
            s[k] = s[k] * DECAY + loss
        e = v - f[o + 4 * p.h]
        if e == e:
            nearest(s, f, p, e, q + 1)


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
