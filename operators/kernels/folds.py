"""Folds: zero, add, merge, value, over slices `a[o:]` of one float64 array (a key's row, or the scratch).

The zero of every fold is a run of zeros, and its first word is the number of values folded. Windows, panes
and labels are made of these.

- moments: n, sum, minimum, maximum and, where the spread is asked for, the sum of squared deviations
  (Chan, Golub & LeVeque 1983 for the merge);
- registers: HyperLogLog (Flajolet et al. 2007) with 128 registers of 6 bits, 8 in a word, standard error 9 %;
- digest: 15 weighted centroids; the two lightest neighbours are joined when a 16th comes;
- decay: n, value at a reference time, the reference time.
"""

import math

import numpy as np

from operators.kernels import part
from operators.kernels.tables import (
    COUNT,
    DISTINCT,
    MAXIMUM,
    MEAN,
    MINIMUM,
    MOMENTS,
    STD,
    SUM,
    Floats,
)

EXTENT_WORDS = 4  # moments without their spread
MOMENT_WORDS = 5
REGISTERS = 128
REGISTER_WORDS = 1 + REGISTERS // 8
CENTROIDS = 15
DIGEST_WORDS = 1 + 2 * (CENTROIDS + 1)


@part
def fold_zero(a: Floats, o: int, words: int) -> None:
    """Make `a[o:o + words]` the zero of any fold."""
    for j in range(np.uint64(o), np.uint64(o + words)):
        a[j] = 0.0


@part
def moments_add(a: Floats, o: int, x: float, words: int) -> None:
    """Fold one value in."""
    n = a[o]
    if n == 0.0:
        a[o + 2], a[o + 3] = x, x
    else:
        if words == MOMENT_WORDS:
            d = x - a[o + 1] / n
            a[o + 4] += d * d * n / (n + 1.0)
        a[o + 2] = min(a[o + 2], x)
        a[o + 3] = max(a[o + 3], x)
    a[o] = n + 1.0
    a[o + 1] += x


@part
def moments_merge(a: Floats, o: int, b: Floats, p: int, words: int) -> None:
    """Fold the moments `b[p:]` into `a[o:]`."""
    n, m = a[o], b[p]
    if m == 0.0:
        return
    if n == 0.0:
        for j in range(words):
            a[o + j] = b[p + j]
        return
    if words == MOMENT_WORDS:
        d = b[p + 1] / m - a[o + 1] / n
        a[o + 4] += b[p + 4] + d * d * n * m / (n + m)
    a[o] = n + m
    a[o + 1] += b[p + 1]
    a[o + 2] = min(a[o + 2], b[p + 2])
    a[o + 3] = max(a[o + 3], b[p + 3])


@part
def moments_range(a: Floats, o: int, s: Floats, lo: int, hi: int, spread: int) -> None:
    """Fold `s[lo:hi]` into `a[o:]`, missing values left out; deviations only when `spread`, in two passes."""
    n = 0
    total = 0.0
    low = np.inf
    high = -np.inf
    for k in range(np.uint64(lo), np.uint64(hi)):
        x = s[k]
        if x == x:
            n += 1
            total += x
            if x < low:
                low = x
            if x > high:
                high = x
    if n == 0:
        return
    square = 0.0
    if spread and n > 1:
        mean = total / n
        for k in range(np.uint64(lo), np.uint64(hi)):
            x = s[k]
            if x == x:
                square += (x - mean) * (x - mean)
    m = a[o]
    if m == 0.0:
        a[o], a[o + 1], a[o + 2], a[o + 3] = n, total, low, high
        if spread:
            a[o + 4] = square
        return
    if spread:
        d = total / n - a[o + 1] / m
        a[o + 4] += square + d * d * n * m / (n + m)
    a[o] = m + n
    a[o + 1] += total
    a[o + 2] = min(a[o + 2], low)
    a[o + 3] = max(a[o + 3], high)


@part
def moments_value(a: Floats, o: int, op: int) -> float:
    """Read `op`; of nothing, every value is 0; variance is that of a sample (n - 1)."""
    n = a[o]
    if n == 0.0:
        return 0.0
    if op == SUM:
        return float(a[o + 1])
    if op == MEAN:
        return float(a[o + 1] / n)
    if op == MINIMUM:
        return float(a[o + 2])
    if op == MAXIMUM:
        return float(a[o + 3])
    if n == 1.0:
        return 0.0
    variance = a[o + 4] / (n - 1.0)
    return math.sqrt(variance) if op == STD else variance


@part
def mixed(x: float) -> np.uint64:
    """64 well-mixed bits of a float's (splitmix64; Steele, Lea & Flood 2014); -0 is 0."""
    z = np.float64(x + 0.0).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.uint64(z ^ (z >> np.uint64(31)))


@part
def register_raise(a: Floats, o: int, r: int | np.int64, rank: int | np.int64) -> None:
    """Raise register `r` to `rank`."""
    word = np.int64(a[o + 1 + r // 8])
    shift = 6 * (r % 8)
    old = (word >> shift) & 63
    if rank > old:
        a[o + 1 + r // 8] = np.float64(word + ((rank - old) << shift))


@part
def registers_add(a: Floats, o: int, x: float) -> None:
    """Fold one value in."""
    z = mixed(x)
    r = np.int64(z & np.uint64(REGISTERS - 1))
    rest = z >> np.uint64(7)
    rank = 1
    while rank < 58 and (rest & np.uint64(1)) == np.uint64(0):
        rest >>= np.uint64(1)
        rank += 1
    register_raise(a, o, r, rank)
    a[o] += 1.0


@part
def registers_merge(a: Floats, o: int, b: Floats, p: int) -> None:
    """Fold the registers `b[p:]` into `a[o:]`."""
    for r in range(REGISTERS):
        register_raise(a, o, r, (np.int64(b[p + 1 + r // 8]) >> (6 * (r % 8))) & 63)
    a[o] += b[p]


@part
def registers_value(a: Floats, o: int) -> float:
    """Estimate how many distinct values were folded; linear counting while few."""
    total = 0.0
    empty = 0
    for r in range(REGISTERS):
        rank = (np.int64(a[o + 1 + r // 8]) >> (6 * (r % 8))) & 63
        total += 2.0 ** -float(rank)
        if rank == 0:
            empty += 1
    estimate = 0.7213 / (1.0 + 1.079 / REGISTERS) * REGISTERS * REGISTERS / total
    if estimate <= 2.5 * REGISTERS and empty > 0:
        return REGISTERS * math.log(REGISTERS / empty)
    return estimate


@part
def digest_add(a: Floats, o: int, x: float) -> None:
    """Fold one value in."""
    used = int(min(a[o], float(CENTROIDS)))
    mean, weight = o + 1, o + 2 + CENTROIDS
    k = used
    while k > 0 and a[mean + k - 1] > x:
        a[mean + k] = a[mean + k - 1]
        a[weight + k] = a[weight + k - 1]
        k -= 1
    a[mean + k] = x
    a[weight + k] = 1.0
    a[o] += 1.0
    if used < CENTROIDS:
        return
    best = 0
    for k in range(1, CENTROIDS):
        if a[weight + k] + a[weight + k + 1] < a[weight + best] + a[weight + best + 1]:
            best = k
    w = a[weight + best] + a[weight + best + 1]
    a[mean + best] += (a[mean + best + 1] - a[mean + best]) * a[weight + best + 1] / w
    a[weight + best] = w
    for k in range(best + 1, CENTROIDS):
        a[mean + k] = a[mean + k + 1]
        a[weight + k] = a[weight + k + 1]
    a[mean + CENTROIDS] = a[weight + CENTROIDS] = 0.0


@part
def digest_merge(a: Floats, o: int, n: int, cap: int, p: int, b: Floats) -> int:
    """Append the centroids of `b[p:]` to n values `a[o:]` and their weights `a[o + cap:]`; the new n."""
    for k in range(int(min(b[p], float(CENTROIDS)))):
        a[o + n] = b[p + 1 + k]
        a[o + cap + n] = b[p + 2 + CENTROIDS + k]
        n += 1
    return n


@part
def digest_value(a: Floats, o: int, n: int, cap: int, q: float) -> float:
    """Quantile `q` of n sorted values `a[o:]` with weights `a[o + cap:]`, linear between their middle ranks."""
    if n == 0:
        return 0.0
    total = 0.0
    for k in range(n):
        total += a[o + cap + k]
    target = q * (total - 1.0)
    rank = below = 0.0
    for k in range(n):
        middle = below + (a[o + cap + k] - 1.0) / 2.0
        if middle >= target:
            if k == 0:
                return float(a[o])
            return float(a[o + k - 1] + (a[o + k] - a[o + k - 1]) * (target - rank) / (middle - rank))
        rank = middle
        below += a[o + cap + k]
    return float(a[o + n - 1])


@part
def sort_weighted(a: Floats, o: int, n: int, cap: int) -> None:
    """Sort n values `a[o:]` in place, carrying their weights `a[o + cap:]` (Shell 1959, Ciura's gaps)."""
    for gap in (701, 301, 132, 57, 23, 10, 4, 1):
        for k in range(gap, n):
            x, w = a[o + k], a[o + cap + k]
            j = k
            while j >= gap and a[o + j - gap] > x:
                a[o + j] = a[o + j - gap]
                a[o + cap + j] = a[o + cap + j - gap]
                j -= gap
            a[o + j] = x
            a[o + cap + j] = w


@part
def decayed(value: float, elapsed: float, half: float) -> float:
    """What is left of `value` after `elapsed`, with half-life `half`; of nothing (NaN) nothing."""
    return value * np.exp2(-elapsed / half) if value == value and value != 0.0 else 0.0


@part
def decay_add(a: Floats, o: int, at: float, half: float) -> None:
    """Fold in one unit at time `at`, which may be before the reference time."""
    if a[o] == 0.0:
        a[o + 1], a[o + 2] = 1.0, at
    elif at >= a[o + 2]:
        a[o + 1] = decayed(a[o + 1], at - a[o + 2], half) + 1.0
        a[o + 2] = at
    else:
        a[o + 1] += decayed(1.0, a[o + 2] - at, half)
    a[o] += 1.0


@part
def fold_add(kind: int, a: Floats, o: int, x: float, words: int) -> None:
    """Fold `x` into the pane accumulator `a[o:]` of an aggregate's kind; a missing value only counts as an event."""
    if kind == COUNT:
        a[o] += 1.0
    elif x != x:
        return
    elif kind == MOMENTS:
        moments_add(a, o, x, words)
    elif kind == DISTINCT:
        registers_add(a, o, x)
    else:
        digest_add(a, o, x)
