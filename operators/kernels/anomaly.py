"""What the anomaly kernels share: a sensor's clock, its records, its conformal score, its alarm.

A sensor's state is one row of float64 words: this header, then the words of its detectors (`anomaly_one`,
`anomaly_many`). Rolling extremes are kept as block maxima: for up to 24 sketches the maxima of the last 32 blocks, of
8 readings at first and, merged in pairs while the sensor is young, of 128 or more in the end, so that the window is
4,096 readings and no less than 8 days: what comes every week must be usual of a sensor that reads every second. What
belongs to the block of the present does not count yet: a slow anomaly does not become its own norm. A reading's excess
over a sketch is in units of the mean excess of the largest maxima (Pickands' and Hill's idea of a tail), so that
detectors of any unit can be added.
"""

import math

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from operators.kernels import part
from operators.kernels.tables import Floats

Singles = NDArray[np.float32]
Given = tuple[Floats, Floats, Floats, Floats, Floats, Floats]
"""What every reading is given: a fresh state, the rules (see `judge`), room for raw numbers, x, y, sums."""

SKETCHES, BLOCKS, FIRST, LONGEST, KTH, BINS = 24, 32, 8, 128, 5, 32

(
    READINGS, AT, CADENCE, JITTER, BEGAN, FILLED, PLACE, LENGTH, INSIDE, DAMPED, THETA, KIND, RECORD, COUNTED,
    TOUCHED, SILENT, TOLD_OF, SINCE, LATES, LATEST,
) = range(20)  # fmt: skip
KEPT = (AT, CADENCE, JITTER, DAMPED, THETA, KIND, TOUCHED, SILENT, TOLD_OF, SINCE, LATES, LATEST)
NOW, BOUND, TAIL, BODY = (20 + SKETCHES * k for k in range(4))
RINGS = BODY + BINS // 2
SCORE = 0
"""Sketch of the combined scores; after it come those of the detectors, of which a sensor has as many as it uses."""

TOLD, MEMBERS = 5, 11
"""A row tells score, alarm, state, flags and threshold, then what each of eleven detectors found, then values."""
LEVEL, FORECAST, SEASONAL, DRIFT, SPREAD, HALF_SPACE, SHAPE, UNCHANGED, DISTANCE, SHIFT, JUMP = range(5, 16)

GAP, DUPLICATE, LATE, STUCK, SCALE, MISSING, REPEAT, RENAMED, IGNORED = (1 << bit for bit in range(9))
OK, WARMING, CANNOT = range(3)

SPAN = 8.0 * 86_400_000.0
"""Milliseconds that a grown sensor's blocks cover at least, and four times of which they do not exceed."""
PATIENCE = 16.0
"""Late readings in a row after which the clock is taken for wrong, not they."""
RECENT = 24.0
"""Readings over which `local` learns what is usual of late."""
FLOOR = 0.1
"""Part of a bound that is added to its mean excess: what a tail of nothing but noise may have."""
HEAVY = 3.0
"""Beyond its records a score's tail is taken to fall as a power of 3 (generalised Pareto, shape 1/3)."""
MOST = 34.0
"""-log of the least p-value: about what float64 can tell from 1 - p."""
GAIN = 0.5
"""How far one alarm, or a verdict, moves a sensor's threshold (in -log p)."""
DAMPED_TO, ORDINARY, MASK = 0.3, 3.0, 6.0
"""After a surprise fit for an alarm a lesser one counts this much; what is ORDINARY is never damped.

A surprise beyond MASK damps no more than one of MASK: a second change is not swallowed by a greater one before it.
"""
CLEARLY = 3.0
"""A surprise that exceeds the one last told of by this much (in -log p: a twentieth of its chance) is another."""


@part
def excess(s: Floats, b: int, k: int, v: float) -> float:
    """How far `v` is beyond sketch `k`'s bound, in mean excesses; below it, from -1 to 0; NaN: not known yet."""
    bound = s[b + BOUND + k]
    if not bound > 0.0:
        return math.nan
    return float((v - bound) / (s[b + TAIL + k] + FLOOR * bound if v > bound else bound))


@part
def excess_log(s: Floats, b: int, k: int, v: float) -> float:
    """The same for a sketch of logarithms, whose unit is 1."""
    x = v - s[b + BOUND + k]
    return float(x / (s[b + TAIL + k] + FLOOR) if x > 0.0 else (-1.0 if x < -1.0 else x))


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
def shrink(s: Floats, o: int, n: int, y: Floats, norm: float, keep: float) -> None:
    """P = (P - y y' / norm) / keep (Sherman and Morrison)."""
    for i in range(n):
        for j in range(i + 1):
            p = o + (i * (i + 1)) // 2 + j
            s[p] = (s[p] - y[i] * y[j] / norm) / keep


@kernel
def local(s: Floats, o: int, seen: float, v: float, last: float) -> tuple[float, float]:
    """How far a few readings' mean has come from that of the last 24, and `v` from the one before; NaN: not known yet.

    In what was usual of late: the deviation, and the mean step, of the last 24, learned clipped. s[o:o + 4] are slow
    and fast mean, variance, mean step; seen: readings before.
    """
    shift = jump = math.nan
    move, deviation = v - s[o], math.sqrt(s[o + 2])
    s[o + 1] = v if seen <= 10.0 else s[o + 1] + 0.4 * (v - s[o + 1])
    if seen > 10.0 and deviation > 0.0:
        shift = min(abs(s[o + 1] - s[o]) / deviation, 1e9)
        move = min(max(move, -6.0 * deviation), 6.0 * deviation)
    rate = max(1.0 / (seen + 1.0), 1.0 / RECENT)
    s[o] += rate * move
    s[o + 2] = (1.0 - rate) * (s[o + 2] + rate * move * move)
    if last == last and seen > 0.0:
        step = abs(v - last)
        if seen > 10.0 and s[o + 3] > 0.0:
            jump = min(step / s[o + 3], 1e9)
            step = min(step, 3.0 * s[o + 3])
        s[o + 3] += max(1.0 / seen, 1.0 / RECENT) * (step - s[o + 3])
    return shift, jump


@part
def record(s: Floats, b: int, k: int, v: float) -> None:
    """Keep `v` as its block's maximum in sketch `k` if it is one; NaN is none."""
    if v > s[b + NOW + k]:
        s[b + NOW + k] = v


@kernel
def forget(s: Floats, g: Singles, b: int, k: int) -> None:
    """Empty sketch `k`."""
    s[b + NOW + k] = -math.inf
    s[b + BOUND + k] = math.nan
    g[2 * (b + RINGS) + k * BLOCKS : 2 * (b + RINGS) + (k + 1) * BLOCKS] = -math.inf


@kernel
def bounds(s: Floats, g: Singles, b: int, k: int, best: Floats) -> None:
    """Sketch `k`'s bound and mean excess: its 5th largest maximum (NaN with fewer) and what is above it.

    The bound of a sensor that has seen less than a window of 4,096 readings is moved out along an exponential tail to
    where it would be then, so that excesses mean the same from the beginning.
    """
    o = 2 * (b + RINGS) + k * BLOCKS
    best[:] = -math.inf
    for i in range(int(s[b + FILLED])):
        v = g[o + i]
        if v > best[KTH - 1]:
            j = KTH - 1
            while j > 0 and best[j - 1] < v:
                best[j] = best[j - 1]
                j -= 1
            best[j] = v
    bound, tail = best[KTH - 1], 0.0
    for i in range(KTH - 1):
        tail += (best[i] - bound) / (KTH - 1)
    s[b + TAIL + k] = tail
    if k == SCORE:
        s[b + RECORD] = best[0]
    else:
        bound += tail * max(math.log(BLOCKS * LONGEST / max(s[b + FILLED] * s[b + LENGTH], 1.0)), 0.0)
    s[b + BOUND + k] = bound if bound > -math.inf else math.nan


@kernel
def close(s: Floats, g: Singles, b: int, sketches: int, best: Floats) -> None:
    """Count a reading into the present block; a full block enters the first `sketches`."""
    s[b + INSIDE] += 1.0
    if s[b + LENGTH] > LONGEST and s[b + LENGTH] * BLOCKS * s[b + CADENCE] > 4.0 * SPAN:
        s[b + LENGTH] /= 2.0  # it reads less often than it did
    if s[b + INSIDE] >= s[b + LENGTH]:
        s[b + INSIDE] = 0.0
        place = int(s[b + PLACE])
        for k in range(sketches):
            g[2 * (b + RINGS) + k * BLOCKS + place] = s[b + NOW + k]
            s[b + NOW + k] = -math.inf
        place += 1
        s[b + FILLED] = max(s[b + FILLED], place)
        if place == BLOCKS:
            place = 0
            if s[b + LENGTH] < LONGEST or s[b + LENGTH] * BLOCKS * s[b + CADENCE] < SPAN:
                place = BLOCKS // 2
                for k in range(sketches):
                    o = 2 * (b + RINGS) + k * BLOCKS
                    for i in range(place):
                        g[o + i] = max(g[o + 2 * i], g[o + 2 * i + 1])
                s[b + FILLED] = place
                s[b + LENGTH] *= 2.0
        s[b + PLACE] = place
        for k in range(sketches):
            bounds(s, g, b, k, best)


@part
def bin_of(x: float) -> int:
    """Bin of a combined score's body, which crowds just below 0: 5 bins for each factor of e."""
    return int(-5.0 * math.log(max(-x, 0.0021)) + 1e-9) if x > -1.0 else 0


@kernel
def surprise(s: Floats, g: Singles, b: int, x: float) -> float:
    """-log p of a combined score `x` among the sensor's own: p is the chance of a quiet reading with as much.

    With r of n block maxima as large, p_block = (r + 1) / (n + 1) (conformal), and p = -log(1 - p_block) / length.
    Beyond all of them the tail is extrapolated; where most blocks have more, readings are counted instead.
    """
    n, length = int(s[b + FILLED]), s[b + LENGTH]
    above = 0
    for i in range(n):
        above += int(g[2 * (b + RINGS) + SCORE * BLOCKS + i] >= x)
    found = 0.0
    if n >= KTH and above == 0 and s[b + RECORD] > -math.inf:
        tail = s[b + TAIL + SCORE] if s[b + BOUND + SCORE] > -math.inf else 0.0
        found = math.log(length * (n + 1.0)) + HEAVY * math.log1p((x - s[b + RECORD]) / (tail + 0.2) / HEAVY)
    elif n >= KTH:
        share = (above + 1.0) / (n + 1.0)
        if share < 0.5:
            found = math.log(length / -math.log1p(-share))
        else:
            more = 0.0
            for i in range(bin_of(x), BINS):
                more += g[2 * (b + BODY) + i]
            found = min(math.log((s[b + COUNTED] + 1.0) / (more + 1.0)), math.log(length / 0.69))
    return min(max(found, 0.0), MOST)


@kernel
def remember(s: Floats, g: Singles, b: int, x: float) -> None:
    """Count a combined score among the sensor's own."""
    g[2 * (b + BODY) : 2 * (b + BODY) + BINS] *= np.float32(0.9995)
    g[2 * (b + BODY) + bin_of(x)] += np.float32(1.0)
    s[b + COUNTED] = s[b + COUNTED] * 0.9995 + 1.0
    if s[b + READINGS] > FIRST * 4:
        record(s, b, SCORE, x)


@kernel
def clock(s: Floats, b: int, at: float) -> tuple[float, int]:
    """Milliseconds since the reading before, and flags; the cadence follows slowly.

    Where PATIENCE readings in a row are late, each later than the one before, it was a reading before them that was
    ahead of its time: the clock is theirs from then on, as after a gap.
    """
    flags = 0
    step = at - s[b + AT] if s[b + TOUCHED] > 0.0 else 0.0
    if s[b + TOUCHED] == 0.0:
        s[b + BEGAN] = at
    elif step == 0.0:
        flags = DUPLICATE
    elif step < 0.0:
        s[b + LATES] = s[b + LATES] + 1.0 if at > s[b + LATEST] else 1.0
        s[b + LATEST], flags = at, LATE
        if s[b + LATES] >= PATIENCE:
            s[b + BEGAN], step, flags = min(s[b + BEGAN], at), 0.0, GAP
    elif s[b + CADENCE] == 0.0:
        s[b + CADENCE] = step
    else:
        cadence = s[b + CADENCE]
        flags = GAP if step > 3.0 * cadence + 4.0 * s[b + JITTER] else 0
        move = min(max(step - cadence, -cadence), cadence)
        s[b + JITTER] += 0.05 * (abs(move) - s[b + JITTER])
        s[b + CADENCE] += 0.05 * move
    if step >= 0.0:
        s[b + AT], s[b + LATES] = at, 0.0
    s[b + TOUCHED] = 1.0
    return step, flags


@kernel
def judge(s: Floats, b: int, found: float, step: float, rules: Floats) -> tuple[float, bool, float]:
    """What is left of a surprise after damping, whether it is an alarm, and the sensor's threshold, all in -log p.

    After a surprise fit for an alarm, those that are not greater are damped, for rules[2] readings or a tenth of what
    is expected from alarm to alarm. One that is not CLEARLY greater is no alarm before a quarter of that was quiet;
    but what goes on for half of it (or RECENT readings) is waited for no longer, and is told of again where it lasts,
    as it may be something else. The threshold begins where the budget (alarms a millisecond, rules[0]) says, rises
    with every alarm and falls with time, so that in the long run alarms come as often as declared, whatever the tail
    is like.
    """
    warm = s[b + READINGS] >= rules[1]
    if warm and step > 0.0:
        s[b + THETA] -= GAIN * rules[0] * min(step, 10.0 * s[b + CADENCE])
    s[b + THETA] = min(max(s[b + THETA], -4.0), 8.0)
    rate = min(max(rules[0] * s[b + CADENCE], 1e-12), 0.05)
    threshold = max(s[b + THETA] - math.log(rate), 1.0)
    damped, lasting = s[b + DAMPED], max(min(rules[2], 0.1 / rate), 2.0)
    silent = s[b + SILENT] > 1.0 and found <= s[b + TOLD_OF] + CLEARLY
    left = found if found > damped and not silent else max(DAMPED_TO * found, min(found, ORDINARY, threshold - 1.0))
    alarm = warm and left >= threshold and not silent
    s[b + DAMPED] = damped * (1.0 - 1.0 / lasting)
    s[b + SILENT] -= 1.0
    s[b + SINCE] += 1.0
    if found >= threshold:
        s[b + DAMPED] = max(s[b + DAMPED], min(found, MASK))
        if not silent:
            s[b + TOLD_OF], s[b + SINCE] = found, 0.0
        if s[b + SINCE] <= max(lasting / 2.0, RECENT):
            s[b + SILENT] = lasting / 4.0
    if alarm:
        s[b + THETA] += GAIN
    return left, alarm, threshold


@part
def add(v: float, weight: float, k: int, parts: Floats, room: Floats) -> None:
    """Enter one detector's excess into parts[k]; room[0] is the greatest, room[1] the sum of those above bounds."""
    if v == v:
        x = v * weight if v > 0.0 else v
        room[0] = max(room[0], x)
        room[1] += max(x, 0.0)
        parts[k] = max(parts[k], x)


@kernel
def finish(s: Floats, g: Singles, b: int, told: tuple[float, int], rules: Floats, room: Floats, row: Floats) -> float:
    """Score, alarm, state, flags and threshold in row[:5], from what `add` gathered: mean of greatest and sum.

    `told` are the milliseconds since the reading before and the flags. What comes back is the combined excess to be
    remembered (NaN: none): of a surprise fit for an alarm at most a mean excess beyond the record, so that one anomaly
    is not the norm for the next.
    """
    step, flags = told
    total = 0.5 * (room[0] + room[1]) if room[0] > 0.0 else room[0]
    known = total > -math.inf
    found = surprise(s, g, b, total) if known else 0.0
    left, alarm, threshold = judge(s, b, found, step, rules)
    warming = s[b + READINGS] < rules[1]
    if found >= threshold and not alarm and not warming:
        flags |= REPEAT
    if found >= threshold and s[b + RECORD] + s[b + BOUND + SCORE] > -math.inf:
        total = min(total, s[b + RECORD] + s[b + TAIL + SCORE] + 0.2)
    row[0], row[1] = 0.0 if warming else -math.expm1(-left), 1.0 if alarm else 0.0
    row[2], row[3], row[4] = float(WARMING if warming else OK), float(flags), -math.expm1(-threshold)
    for k in range(TOLD, TOLD + MEMBERS):
        row[k] = max(row[k], 0.0)
    return total if known else math.nan


@kernel
def restart(s: Floats, b: int, zero: Floats) -> None:
    """Begin anew, as for a new unit: only clock, damping and threshold stay."""
    for i in range(zero.shape[0]):
        if i not in KEPT:
            s[b + i] = zero[i]
    s[b + BEGAN] = s[b + AT]


@kernel
def absent(s: Floats, b: int, told: tuple[float, int], rules: Floats, row: Floats) -> None:
    """A reading without any value: nothing is scored."""
    _, _, threshold = judge(s, b, 0.0, told[0], rules)
    row[2], row[3], row[4] = float(CANNOT), float(told[1] | MISSING), -math.expm1(-threshold)


@kernel
def keep(s: Floats, g: Singles, b: int, total: float, raw: Floats, room: Floats, sketches: int) -> None:
    """Enter a reading into the records of so many sketches."""
    if total == total:
        remember(s, g, b, total)
    for k in range(1, sketches):
        record(s, b, k, raw[k])
    s[b + READINGS] += 1.0
    close(s, g, b, sketches, room[2 : 2 + KTH])
