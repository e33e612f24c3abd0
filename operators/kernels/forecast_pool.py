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
def least_learn(a: Floats, o: int, n: int, x: Floats, y: float, keep: float) -> float:
    """One step of recursive least squares with forgetting `keep`; returns the error of its forecast of `y`.

    `a[o:]` is coefficients, variances and the unit upper triangle of P = U D Uᵀ, column by column (Bierman 1977):
    P stays positive definite whatever is fed. x, f64[3, n]: the terms, and room for two vectors.
    """
    d, u = o + n, o + 2 * n
    e = y
    for j in range(n):
        e -= a[o + j] * x[0, j]
    q = u
    for j in range(n):
        f = x[0, j]
        for i in range(j):
            f += a[q + i] * x[0, i]
        x[1, j] = f
        q += j
    total = keep
    q = u
    for j in range(n):
        f = x[1, j]
        v = a[d + j] * f
        before = total
        total += v * f
        a[d + j] = min(a[d + j] * before / (total * keep), CEILING)
        ratio = -f / before
        for i in range(j):
            t = a[q + i]
            a[q + i] = t + x[2, i] * ratio
            x[2, i] += t * v
        x[2, j] = v
        q += j
    gain = e / total
    for j in range(n):
        a[o + j] += x[2, j] * gain
    return e


@kernel
def least_zero(a: Floats, o: int, n: int, variance: float) -> None:
    """Coefficients 0, uncorrelated, each of `variance`."""
    for j in range(2 * n + n * (n - 1) // 2):
        a[o + j] = variance if n <= j < 2 * n else 0.0


@kernel
def least_ahead(a: Floats, o: int, lags: Ints, path: Floats, past: int, h: int, low: float, high: float) -> None:
    """Write `h` steps to path[past:], each from the steps before it and held between low and high."""
    n = len(lags)
    for t in range(past, past + h):
        path[t] = a[o]
    for j in range(n):
        lag, b = lags[j], a[o + 1 + j]
        for t in range(past, past + min(lag, h)):
            path[t] += b * path[t - lag]
    for t in range(past, past + h):
        x = path[t]
        for j in range(n):
            if t - lags[j] >= past:
                x += a[o + 1 + j] * path[t - lags[j]]
        path[t] = min(max(x, low), high)


@kernel
def smooth_learn(f: Halves, o: int, m: Floats, s1: int, s2: int, t: int, z: float) -> float:
    """Learn cell `t` of value `z` (NaN: missing, so that the member runs on its own forecast); its forecast.

    m: level, trend, damping, first and second season, autocorrelation of errors. Damped trend with additive seasons
    (Gardner & McKenzie 1985), two of them and errors of order one after Taylor (2003).
    """
    base = f[o] + m[2] * f[o + 1]
    i1 = o + MEMBER + (t % s1 if s1 > 0 else 0)
    i2 = o + MEMBER + s1 + (t % s2 if s2 > 0 else 0)
    flat = m[3] < 0.0
    if s1 > 0 and not flat:
        base += f[i1]
    if s2 > 0 and not flat:
        base += f[i2]
    expected = base + m[5] * f[o + 2]
    e = z - expected
    if e != e:
        e = 0.0
        f[o + 2] *= m[5]
    else:
        f[o + 2] = z - base
        f[o + 3] = f[o + 3] * (1.0 - 1.0 / MEMORY) + e * e
    trend = m[2] * f[o + 1]
    f[o] = f[o] + trend + m[0] * e
    f[o + 1] = trend + m[0] * m[1] * e
    if s1 > 0 and not flat:
        f[i1] += m[3] * e
    if s2 > 0 and not flat:
        f[i2] += m[4] * e
    return float(expected)


@kernel
def smooth_ahead(f: Halves, o: int, m: Floats, s: tuple[int, int], t: int, weight: float, out: Floats) -> None:
    """Add `weight` times the member's forecast of cells t … t + len(out) - 1 to `out`."""
    s1, s2 = s
    trend, damped, error = 0.0, 1.0, 1.0
    i1 = t % s1 if s1 > 0 else 0
    i2 = t % s2 if s2 > 0 else 0
    flat = m[3] < 0.0
    for k in range(len(out)):
        damped *= m[2]
        trend += damped
        error *= m[5]
        x = f[o] + trend * f[o + 1] + error * f[o + 2]
        if s1 > 0 and not flat:
            x += f[o + MEMBER + i1]
            i1 = i1 + 1 if i1 + 1 < s1 else 0
        if s2 > 0 and not flat:
            x += f[o + MEMBER + s1 + i2]
            i2 = i2 + 1 if i2 + 1 < s2 else 0
        out[k] += weight * x


@kernel
def smooth_weights(f: Halves, o: int, grid: Floats, s: tuple[int, int], seen: float, out: Floats) -> None:
    """Each member's posterior by its one-step errors, as information criteria weigh models: out f64[members]."""
    n = min(seen, MEMORY)
    size = MEMBER + s[0] + s[1]
    best = -np.inf
    for k in range(len(grid)):
        terms = 1.0 + (1.0 if grid[k, 1] > 0.0 else 0.0) + (s[0] if grid[k, 3] >= 0.0 else 0.0)
        out[k] = -0.5 * (n * math.log(max(f[o + k * size + 3], 1e-12)) + terms)
        best = max(best, out[k])
    total = 0.0
    for k in range(len(grid)):
        out[k] = math.exp(out[k] - best)
        total += out[k]
    for k in range(len(grid)):
        out[k] /= total


@kernel
def phases(z: Floats, n: int, season: int, out: Halves, o: int, base: int) -> None:
    """Mean of z[:n] at each phase of `season` into out[o:], and away from z; z[0] is cell `base`."""
    for j in range(season):
        total, count = 0.0, 0
        for i in range((j - base) % season, n, season):
            total += z[i]
            count += 1
        out[o + j] = total / count if count else 0.0
    for i in range(n):
        z[i] -= out[o + (base + i) % season]


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
def correlation(z: Floats, n: int, lag: int) -> float:
    """Autocorrelation of z[:n], which has mean zero, at `lag`."""
    total, product = 0.0, 0.0
    for t in range(n):
        total += z[t] * z[t]
        if t >= lag:
            product += z[t] * z[t - lag]
    return product / total * n / (n - lag) if total > 0.0 and lag < n else 0.0
