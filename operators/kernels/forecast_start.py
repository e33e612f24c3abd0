"""How a series starts, and starts over from its ring while that holds all there is, or when its scale has changed."""

import math

import numpy as np

from models.kernels import kernel
from operators.kernels import forecast_state as S
from operators.kernels.forecast_learn import SHARE, Room, keep, learn, look, members, scaled, score, value
from operators.kernels.forecast_pool import correlation, least_zero, line, phases, smooth_learn, tame
from operators.kernels.forecast_state import Floats, Halves, Ints, Plan

HOUR, DAY, WEEK, YEAR = 3_600_000.0, 86_400_000.0, 604_800_000.0, 31_556_952_000.0
GROWTH = 1.5
PRIOR = 8.0
"""Observations that the loss charged beforehand is worth."""
OUTLIERS = 5.0
"""Root mean square of a ring beside its usual distance from a line, from where outliers are taken to make its scale."""
TRUST = 1.3
"""Loss that an expert is charged beforehand where smoothings and the median are charged 1."""


@kernel
def candidate(p: Plan, step: float, k: int) -> int:
    """The `k`-th season that may be, in steps, shortest first; 0 where there is none."""
    if p.auto == 0:
        return p.s1 if k == 0 else (p.s2 if k == 1 else 0)
    if k >= 5:
        return 0
    steps = (60_000.0, HOUR, DAY, WEEK, YEAR)[k] / step
    season = math.floor(steps + 0.5)
    return season if 3 <= season <= p.longest and abs(steps - season) < 0.02 * season else 0


@kernel
def seasons(s: Floats, p: Plan, z: Floats, n: int) -> None:
    """Choose at most two seasons of which z[:n], without its line, has two rounds: those declared or found in it.

    A season is found where the autocorrelation at it is at least 0.2 and above that on either side, so that a slow
    curve is not taken for a season.
    """
    s[S.S1], s[S.S2] = 0.0, 0.0
    for k in range(5):
        season = candidate(p, s[S.STEP], k)
        if season == 0 or n < 2 * season:
            continue
        if p.auto:
            here = correlation(z, n, season)
            side = int(s[S.S1]) if s[S.S1] > 0.0 and 2 * s[S.S1] < season else max(season // 4, 1)
            if here < 0.2 or here <= correlation(z, n, season - side):
                continue
            if n > 2 * season + side and here <= correlation(z, n, season + side):
                continue
        if s[S.S1] > 0.0 and (p.auto == 0 or s[S.S1] * 3 <= season):
            s[S.S2] = season
        else:
            s[S.S1] = season


@kernel
def rising(s: Floats, f: Halves, p: Plan, n: int) -> int:
    """Which expert is to repeat the first season with its rise; beside a second season only what does rise."""
    if s[S.S2] == 0.0:
        return int(S.WEEKLY)
    season, last, still, risen = int(s[S.S1]), int(s[S.COUNT]) - 1, 0.0, 0.0
    for i in range(n - 2 * season):
        now, then = value(s, f, p, last - i), value(s, f, p, last - i - season)
        still += abs(now - then)
        risen += abs(now - 2.0 * then + value(s, f, p, last - i - 2 * season))
    return int(S.NAIVE) if risen < still else -1


@kernel
def due(s: Floats, p: Plan) -> float:
    """COUNT of the next start: when a season has been seen twice, or half as much again; never past the ring."""
    n = s[S.COUNT]
    if n >= p.ring:
        return np.inf
    later = min(math.ceil(n * GROWTH), float(p.ring))
    for k in range(5):
        twice = 2.0 * candidate(p, s[S.STEP], k)
        if twice > n:
            later = min(later, twice)
    return float(later)


@kernel
def ready(s: Floats, p: Plan) -> int:
    """Cells before the first forecast: two rounds of the shortest season."""
    for k in range(5):
        season = candidate(p, s[S.STEP], k)
        if season > 0:
            return max(S.FIRST + 1, 2 * season)
    return S.FIRST + 1


@kernel
def lags(f: Halves, at: int, table: Ints, s: tuple[int, int], limit: int, most: int) -> int:
    """Write the lags of `table` for the seasons `s` to f[at + 1:], in ascending order; how many."""
    n = 0
    for k in range(len(table)):
        offset, first, second = table[k, 0], table[k, 1], table[k, 2]
        lag = offset + first * s[0] + second * s[1]
        if (first != 0 and s[0] == 0) or (second != 0 and s[1] == 0) or not 0 < lag <= limit or n >= most:
            continue
        if first > 1 and second == 0 and s[1] > 0 and lag >= s[1]:
            continue
        i = n
        while i > 0 and f[at + i] > lag:
            i -= 1
        if i > 0 and f[at + i] == lag:
            continue
        for j in range(n, i, -1):
            f[at + 1 + j] = f[at + j]
        f[at + 1 + i] = lag
        n += 1
    return n


@kernel
def scales(s: Floats, z: Floats, n: int) -> None:
    """Mean and spread of z[:n], and of its logarithm where none is negative."""
    low, high, mean, square = z[0], z[0], 0.0, 0.0
    for t in range(n):
        low, high = min(low, z[t]), max(high, z[t])
        mean += z[t] / n
    for t in range(n):
        square += (z[t] - mean) ** 2
    s[S.LOW], s[S.HIGH], s[S.MEAN] = low, high, mean
    s[S.SPREAD] = max(math.sqrt(square / n), 1e-9 * abs(mean), 1e-12)
    s[S.LOG] = 1.0 if s[S.LOW] >= 0.0 and mean > 0.0 else 0.0
    s[S.SHIFT] = 0.0 if s[S.LOW] > 0.2 * mean else SHARE * mean
    if s[S.LOG] > 0.0:
        total, square = 0.0, 0.0
        for t in range(n):
            y = math.log(z[t] + s[S.SHIFT])
            total += y
            square += y * y
        s[S.LOG_MEAN] = total / n
        s[S.LOG_SPREAD] = max(math.sqrt(max(square / n - (total / n) ** 2, 0.0)), 1e-9)


@kernel
def restart(s: Floats, f: Halves, p: Plan, w: Room) -> None:
    """Choose scales, seasons and lags anew from the ring, and let the pool learn the ring again."""
    count = int(s[S.COUNT])
    n = min(count, p.ring)
    z = w.path
    for i in range(n):
        z[i] = value(s, f, p, count - n + i)
    scales(s, z, n)
    line(z, n)
    seasons(s, p, z, n)
    excess = tame(z, n)
    if p.auto and s[S.S1] == 0.0:  # one outlier hides every season
        seasons(s, p, z, n)
    s[S.RISING] = rising(s, f, p, n)
    rebase(s, f, p, z, n)
    pair = (int(s[S.S1]), int(s[S.S2]))
    s[S.LAGS_RAW] = lags(f, p.lags_raw32, S.LAG_TABLE, pair, 2 * n // 3, max(n // 6, 1))
    s[S.LAGS_LOG] = lags(f, p.lags_log32, S.LAG_TABLE_LOG, pair, 2 * n // 3, max(n // 6, 1))
    least_zero(f, p.raw32, int(s[S.LAGS_RAW]) + 1, 1.0)
    least_zero(f, p.log32, int(s[S.LAGS_LOG]) + 1, 1.0)
    smooth_start(s, f, p, w, (count, n))
    for i in range(S.VOTERS):
        trusted = i == S.MEDIAN or i == S.SMOOTH or i == S.SMOOTH_LOG
        for g in range(S.GROUPS):
            s[p.losses + i * S.GROUPS + g] = PRIOR * (1.0 if trusted else TRUST)
    for slot in range(p.slots):
        s[S.HEAD + slot] = -1.0
    for a in range(p.judges):
        o = p.stats + a * S.STAT
        s[o + 2], s[o + 3] = s[o + 2] if s[o + 2] < np.inf else 0.0, 0.0
    for j in range(max(pair[0], 1)):
        f[p.phases32 + j] = 1.0
    s[S.SEASONAL], s[S.SEASONALS] = 0.0, 0.0
    s[S.COUNT], s[S.BEGIN] = count - n, count - n
    replay(s, f, p, w, n)
    size = s[S.SEASONAL] / max(s[S.SEASONALS], 1.0)
    for a in range(p.judges):  # too far ahead to have been scored: as errors of a random walk grow
        o = p.stats + a * S.STAT
        size *= math.sqrt(p.anchors[a] / p.anchors[max(a - 1, 0)])
        size = s[o + 2] = s[o + 2] if s[o + 3] > 0.0 else max(s[o + 2], size)
    s[S.RESTART] = count
    s[S.NEXT] = due(s, p)
    if excess > OUTLIERS:
        s[S.NEXT] = min(s[S.NEXT], float(count + p.ring))


@kernel
def rebase(s: Floats, f: Halves, p: Plan, z: Floats, n: int) -> None:
    """Let the ring, and what was issued, hold what is above a usual value: the one whose z[:n] is nearest to 0.

    Above a first value that is far from the others, float32 would not tell these apart.
    """
    usual, first, before = 0, int(s[S.COUNT]) - n, s[S.BASE]
    for i in range(n):
        usual = i if abs(z[i]) < abs(z[usual]) else usual
    s[S.BASE] = value(s, f, p, first + usual)
    for i in range(n):
        k = p.ring32 + (first + i) % p.ring
        f[k] += before - s[S.BASE]
    for k in range(p.issued32, p.issued32 + S.ENTRY * p.issued):
        f[k] += before - s[S.BASE]


@kernel
def replay(s: Floats, f: Halves, p: Plan, w: Room, n: int) -> None:
    """Learn the `n` cells of the ring from COUNT on; forecasts made in the later half are scored."""
    for i in range(n):
        t = int(s[S.COUNT])
        x = value(s, f, p, t)
        if 2 * i >= n:
            score(s, f, p, w, x)
        learn(s, f, p, w, x)
        if 2 * i >= n and (t + 1) % p.stride == 0:
            look(s, f, p, w)
            keep(s, f, p, w)


@kernel
def smooth_start(s: Floats, f: Halves, p: Plan, w: Room, span: tuple[int, int]) -> None:
    """First level, trend and seasons of each member: the means of each phase, then learnt backwards from the end."""
    count, n = span
    pair, grid, o = (int(s[S.S1]), int(s[S.S2])), members(s), p.smooth32
    k, z, rounds = grid.shape[1], w.path, w.path[n:]
    half = k // 2
    for j in range(S.MEMBER * k):
        f[o + j] = 0.0
    for log in range(2):
        for i in range(n):
            x = value(s, f, p, count - n + i)
            z[i] = scaled(s, x) if log else (x - s[S.MEAN]) / s[S.SPREAD]
        last, at = z[n - 1], o + S.MEMBER * k
        line(z, n)
        for season in pair:
            if season > 0:
                phases(z, n, season, rounds, count - n)
            for j in range(season):
                for i in range(half * log, half * log + half):
                    f[at + j * k + i] = rounds[j] * grid[6, i]
            at += season * k
        for i in range(half * log, half * log + half):
            f[o + i] = last - (f[o + (S.MEMBER + (count - 1) % pair[0]) * k + i] if pair[0] > 0 else 0.0)
    for t in range(count - 1, count - n - 1, -1):
        x = value(s, f, p, t)
        smooth_learn(f, o, grid, pair, t, (x - s[S.MEAN]) / s[S.SPREAD], scaled(s, x), w.none)
    for i in range(k):
        f[o + k + i] = -f[o + k + i]
        f[o + 2 * k + i], f[o + 3 * k + i] = 0.0, 0.0
