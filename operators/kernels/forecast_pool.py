"""The pool of a forecaster: exponential smoothings and recursive least squares, each a run of numbers in a row.

All learn from one observation in O(size) and look `h` steps ahead from what they hold. Values are standardised.
"""

import math

import numpy as np

from models.kernels import kernel
from operators.kernels.forecast_state import MEMBER, Floats, Halves, Ints

CEILING = 1e6
"""Largest variance of a coefficient: forgetting without new information stops there."""
MEMORY = 400.0
"""Observations over which a smoothing's squared error is remembered."""


@kernel
def least_learn(a: Halves, o: int, n: int, x: Halves, y: float, keep: float) -> float:
    """One step of recursive least squares with forgetting `keep`; returns the error of its forecast of `y`.

    `a[o:]` is coefficients, variances and the unit upper triangle of P = U D Uᵀ, column by column (Bierman 1977):
    P stays positive definite whatever is fed. x, f32[3, n]: the terms, and room for two vectors.
    """
    c, d, u = a[o : o + n], a[o + n : o + 2 * n], a[o + 2 * n :]
    terms, products, gains = x[0], x[1], x[2]
    e = y
    for j in range(n):
        e -= c[j] * terms[j]
    q = 0
    for j in range(n):
        f, g, i = terms[j], np.float32(0.0), 0
        while i + 1 < j:
            f += u[q + i] * terms[i]
            g += u[q + i + 1] * terms[i + 1]
            i += 2
        products[j] = f + g + (u[q + i] * terms[i] if i < j else np.float32(0.0))
        q += j
    total = keep
    q = 0
    for j in range(n):
        f = products[j]
        v = d[j] * f
        before = total
        total += v * f
        d[j] = min(d[j] * before / (total * keep), CEILING)
        ratio = np.float32(-f / before)
        column = u[q : q + j]
        for i in range(j):
            old = column[i]
            column[i] = old + gains[i] * ratio
            gains[i] += old * v
        gains[j] = v
        q += j
    gain = np.float32(e / total)
    for j in range(n):
        c[j] += gains[j] * gain
    return float(e)


@kernel
def least_zero(a: Halves, o: int, n: int, variance: float) -> None:
    """Coefficients 0, uncorrelated, each of `variance`."""
    for j in range(2 * n + n * (n - 1) // 2):
        a[o + j] = variance if n <= j < 2 * n else 0.0


@kernel
def least_ahead(a: Halves, o: int, lags: Ints, path: Floats, past: int, h: int, low: float, high: float) -> None:
    """Write `h` steps to path[past:], each from the steps before it and held between low and high; lags ascend."""
    n = len(lags)
    ahead = path[past : past + h]
    for q in range(h):
        ahead[q] = a[o]
    for j in range(n):
        b, known = a[o + 1 + j], min(lags[j], h)
        before = path[past - lags[j] : past - lags[j] + known]
        for q in range(known):
            ahead[q] += b * before[q]
    for q in range(h):
        ahead[q] = min(max(ahead[q], low), high)
        j = 0
        while j < n and lags[j] < h - q:
            ahead[q + lags[j]] += a[o + 1 + j] * ahead[q]
            j += 1


@kernel
def smooth_learn(f: Halves, o: int, m: Halves, s: tuple[int, int], t: int, z: float, y: float, none: Halves) -> None:
    """Learn cell `t`, of value `z` to the first half of the members and `y` to the second; none: f32[members], zero.

    m, f32[7, members]: level, trend, damping, first and second season, autocorrelation of errors, whether seasonal.
    Damped trend with additive seasons (Gardner & McKenzie 1985), two of them and errors of order one after Taylor
    (2003). Where `z` is NaN, the value is missing, and each member runs on its own forecast.
    """
    n = m.shape[1]
    level, trend, error, square = f[o : o + n], f[o + n : o + 2 * n], f[o + 2 * n : o + 3 * n], f[o + 3 * n : o + 4 * n]
    if z != z:
        for k in range(n):
            trend[k] *= m[2, k]
            level[k] += trend[k]
            error[k] *= m[5, k]
        return
    one, two, at = none[:n], none[:n], o + n * MEMBER
    if s[0] > 0:
        i = at + n * (t % s[0])
        one = f[i : i + n]
    if s[1] > 0:
        i = at + n * (s[0] + t % s[1])
        two = f[i : i + n]
    first, second = np.float32(1.0 if s[0] > 0 else 0.0), np.float32(1.0 if s[1] > 0 else 0.0)
    x, other, half, part = np.float32(z), np.float32(y), n // 2, np.float32(1.0 - 1.0 / MEMORY)
    for k in range(n):
        drift = m[2, k] * trend[k]
        off = (x if k < half else other) - (level[k] + drift + one[k] + two[k])
        e = off - m[5, k] * error[k]
        error[k] = off
        square[k] = square[k] * part + e * e
        level[k] += drift + m[0, k] * e
        trend[k] = drift + m[0, k] * m[1, k] * e
        one[k] += first * m[3, k] * e
        two[k] += second * m[4, k] * e
    if s[1] == 0:
        for k in range(n):  # 0 times an infinite error is not 0, and the next series would read it
            none[k] = 0.0


@kernel
def smooth_ahead(
    f: Halves, o: int, m: Halves, s: tuple[int, int], t: int, picks: Ints, weights: Floats, out: Floats
) -> None:
    """Write the forecast of cells t … t + len(out) - 1 by the members `picks`, weighed; all damp by one factor."""
    n, h = m.shape[1], len(out)
    level, straight, bent, error, damping = 0.0, 0.0, 0.0, 0.0, 1.0
    for j in range(len(picks)):
        k, share = picks[j], weights[j]
        level += share * f[o + k]
        error += share * f[o + 2 * n + k]
        if m[1, k] > 0.0 and m[2, k] < 1.0:
            bent += share * f[o + n + k]
            damping = m[2, k]
        elif m[1, k] > 0.0:
            straight += share * f[o + n + k]
    damped, forget = 1.0, m[5, picks[0]]
    for q in range(h):
        damped *= damping
        level += straight + damped * bent
        error *= forget
        out[q] = level + error
    at = o + n * MEMBER
    for season in s:
        i = t % season if season > 0 else 0
        for q in range(min(h, season)):
            x = 0.0
            for j in range(len(picks)):
                x += weights[j] * f[at + n * i + picks[j]]
            for later in range(q, h, season):
                out[later] += x
            i = i + 1 if i + 1 < season else 0
        at += n * season


@kernel
def smooth_weights(f: Halves, o: int, m: Halves, log: int, season: int, seen: float, picks: Ints, out: Floats) -> int:
    """Posterior of a half of the members by one-step errors, as information criteria weigh models.

    Those of a hundredth of the best and more are written to `picks` and, with sum 1, to `out`; how many.
    """
    n, past = m.shape[1], max(min(seen, MEMORY), 1.0)
    half = n // 2
    begin = half * log
    if half == 1:
        picks[0], out[0] = begin, 1.0
        return 1
    trended, seasonal = math.exp(1.0 / past), math.exp(season / past)
    best = np.inf
    for k in range(half):
        x = max(float(f[o + 3 * n + begin + k]), 1e-12)
        x *= trended if m[1, begin + k] > 0.0 else 1.0
        out[k] = x * (seasonal if m[6, begin + k] > 0.0 else 1.0)
        best = min(best, out[k])
    least, total, count = math.exp(-2.0 * math.log(100.0) / past), 0.0, 0
    for k in range(half):
        ratio = best / out[k]
        if ratio >= least:
            picks[count], out[count] = begin + k, math.exp(0.5 * past * math.log(ratio))
            total += out[count]
            count += 1
    if count == 0:  # errors that are no numbers: no member is better than another
        picks[0], out[0] = begin, 1.0
        return 1
    for j in range(count):
        out[j] /= total
    return count


@kernel
def phases(z: Floats, n: int, season: int, out: Floats, base: int) -> None:
    """Mean of z[:n] at each phase of `season` into `out`, and away from z; z[0] is cell `base`."""
    for j in range(season):
        total, count = 0.0, 0
        for i in range((j - base) % season, n, season):
            total += z[i]
            count += 1
        out[j] = total / count if count else 0.0
    for i in range(n):
        z[i] -= out[(base + i) % season]


@kernel
def line(z: Floats, n: int) -> None:
    """Take the least-squares line away from z[:n]."""
    mean = 0.0
    for t in range(n):
        mean += z[t] / n
    middle = 0.5 * (n - 1)
    slope = 0.0
    for t in range(n):
        slope += (t - middle) * (z[t] - mean)
    slope /= max(n * (n * n - 1.0) / 12.0, 1.0)
    for t in range(n):
        z[t] -= mean + slope * (t - middle)


@kernel
def tame(z: Floats, n: int) -> float:
    """Take a line away from z[:n] that few outliers do not bend, and hold them to four mean distances from it.

    Returns the root mean square of z[:n], which has its least-squares line taken away, beside that mean distance.
    """
    square, usual = 0.0, 0.0
    for t in range(n):
        square += z[t] * z[t] / n
    for _ in range(8):
        usual = 0.0
        for t in range(n):
            usual += abs(z[t]) / n
        for t in range(n):
            z[t] = min(max(z[t], -4.0 * usual), 4.0 * usual)
        line(z, n)
    return math.sqrt(square) / usual if usual > 0.0 else 0.0


@kernel
def correlation(z: Floats, n: int, lag: int) -> float:
    """Autocorrelation of z[:n], which has mean zero, at `lag`."""
    total, product = 0.0, 0.0
    for t in range(n):
        total += z[t] * z[t]
        if t >= lag:
            product += z[t] * z[t - lag]
    return product / total * n / (n - lag) if total > 0.0 and lag < n else 0.0
