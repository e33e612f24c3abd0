"""The detectors of a sensor with one value: level, forecast, season, trees, shapes.

Each gives a raw number a reading that is large when something is wrong; `operators.kernels.anomaly` keeps its records
and says how far beyond them a reading is.
"""

import math

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from operators.kernels import anomaly as A
from operators.kernels import part
from operators.kernels.tables import Floats

Bytes = NDArray[np.uint8]

(HIGH, LOW, FORECAST, SEASON, DRIFT, LOUD, CALM, TREES, FINE, COARSE, RUNS, SHIFT, JUMP) = range(1, 14)
SKETCHES = JUMP + 1
BEYOND = ((FORECAST, A.FORECAST), (SEASON, A.SEASONAL), (DRIFT, A.DRIFT), (LOUD, A.SPREAD),
          (FINE, A.SHAPE), (COARSE, A.SHAPE), (SHIFT, A.SHIFT), (JUMP, A.JUMP))  # fmt: skip
"""Sketches whose excesses count as they are, and the detector that each is told as."""

OWN = A.RINGS + SKETCHES * A.BLOCKS // 2
(
    ORIGIN, MEAN, VARIANCE, SEEN, LAST, RUN, ERROR, FLAT_LOSS, DAY_LOSS, WEEK_LOSS, DRIFTED, SPREAD, LAGS_KNOWN,
    MODE, DAY_BIN, DAY_SUM, DAY_COUNT, WEEK_BIN, WEEK_SUM, WEEK_COUNT, TREE_COUNT, TREES_KNOWN, STEPS,
    RESCALED,
) = range(OWN, OWN + 24)  # fmt: skip
GATHERED = OWN + 24
"""Of each of two scales: sum, readings in it, points of the shape, points learned from."""
LOCAL, LAGS = GATHERED + 8, GATHERED + 12
ORDER, INPUTS = 5, 7
WEIGHTS = LAGS + ORDER
INVERSE = WEIGHTS + INPUTS
DAYS, WEEKS = 48, 84
DAY = INVERSE + INPUTS * (INPUTS + 1) // 2
WEEK = DAY + DAYS // 2
POINTS, PARTS, SCALES = 16, 4, (1, 4)
BASIS = WEEK + WEEKS // 2
SHAPE = BASIS + 2 * PARTS * POINTS // 2
FOREST, DEPTH, SHINGLE, GENERATION = 4, 5, 4, 250
LEAVES = 1 << DEPTH
NODES = 2 * LEAVES
MASS = SHAPE + 2 * POINTS // 2
WORDS = MASS + 3 * FOREST * LEAVES // 8

MINUTE, HOUR = 60_000, 3_600_000
SWING = 16.0
"""Readings over which forecast errors are averaged, to see drift and spread."""


def forest() -> tuple[NDArray[np.int64], Floats]:
    """Dimension and place of the cut of each inner node of each tree, the same for every sensor.

    Half-space trees (Tan, Ting and Liu, 2011): a work space around the unit cube, halved along random dimensions.
    """
    draw = np.random.RandomState(7)
    dimension, place = np.zeros((FOREST, NODES), np.int64), np.zeros((FOREST, NODES))
    for tree in range(FOREST):
        low = {1: -draw.uniform(0.0, 0.5, SHINGLE)}
        high = {1: 1.0 + draw.uniform(0.0, 0.5, SHINGLE)}
        for node in range(1, NODES // 2):
            k = int(draw.randint(SHINGLE))
            middle = (low[node][k] + high[node][k]) / 2
            dimension[tree, node], place[tree, node] = k, middle
            for child in (2 * node, 2 * node + 1):
                low[child], high[child] = low[node].copy(), high[node].copy()
            high[2 * node][k] = low[2 * node + 1][k] = middle
    return dimension, place


DIMENSION, CUT = forest()


@kernel
def forecast(s: Floats, b: int, v: float, expected: float, x: Floats, gain: Floats) -> float:
    """Error of a forecast of `v` from the last five and the season, learned by recursive least squares.

    Forgetting .999; in standard deviations of the series. An error beyond four usual ones is learned from as four.
    """
    mean, deviation = s[b + MEAN], math.sqrt(s[b + VARIANCE])
    x[0], z = 1.0, (v - mean) / deviation
    for i in range(ORDER):
        x[1 + i] = (s[b + LAGS + i] - mean) / deviation
    x[ORDER + 1] = (expected - mean) / deviation
    norm = 0.999 + A.weigh(s, b + INVERSE, INPUTS, x, gain)
    guess, trace = 0.0, 0.0
    for i in range(INPUTS):
        guess += s[b + WEIGHTS + i] * x[i]
        trace += s[b + INVERSE + A.cell(i, i)]
    error, usual = z - guess, s[b + ERROR]
    limit = 4.0 * usual / deviation if s[b + SEEN] > 100.0 and usual > 0.0 else math.inf
    clipped = min(max(error, -limit), limit)
    if usual > 0.0:
        s[b + ERROR] += (abs(clipped) * deviation - usual) * max(0.002, 1.0 / (s[b + SEEN] + 1.0))
    else:
        s[b + ERROR] = abs(error) * deviation
    for i in range(INPUTS):
        s[b + WEIGHTS + i] += gain[i] / norm * clipped
    A.shrink(s, b + INVERSE, INPUTS, gain, norm, 0.999 if trace < 1e4 else 1.0)
    return float(error * deviation)


@part
def between(g: A.Singles, o: int, bins: int, place: float) -> float:
    """A profile's value at `place` (bin k's middle is k): between its neighbours, or its bin's own; NaN: unknown."""
    left = math.floor(place)
    share = place - left
    low, high = g[o + left % bins], g[o + (left + 1) % bins]
    value = low * (1.0 - share) + high * share
    return value if value == value else float(g[o + math.floor(place + 0.5) % bins])


@kernel
def season(s: Floats, g: A.Singles, b: int, at: float) -> tuple[float, float, float]:
    """What to expect now by the better of two profiles, or the mean where none helps, and what either says."""
    day = between(g, 2 * (b + DAY), DAYS, at / (30.0 * MINUTE) % DAYS - 0.5)
    week = between(g, 2 * (b + WEEK), WEEKS, (at / (2.0 * HOUR) + 36.0) % WEEKS - 0.5)
    known = at - s[b + A.BEGAN]
    flat, daily, weekly = s[b + FLAT_LOSS], s[b + DAY_LOSS], s[b + WEEK_LOSS]
    mode = 0.0
    expected = s[b + MEAN]
    if s[b + SEEN] > 200.0 and known > 48.0 * HOUR and day == day and daily < 0.8 * flat:
        mode, expected = 1.0, day
    if known > 192.0 * HOUR and week == week and weekly < 0.9 * min(daily, flat):
        mode, expected = 2.0, week
    if mode != s[b + MODE]:
        A.forget(s, g, b, SEASON)
        s[b + MODE] = mode
    return expected, day, week


@part
def learn_profile(s: Floats, g: A.Singles, b: int, o: int, now: int, rate: float) -> None:
    """Enter the mean of a bin that was left into the profile at g[o:]; s[b] is the bin, its sum, its count."""
    before = int(s[b])
    if now != before or s[b + 2] == 0.0:
        if s[b + 2] > 0.0:
            mean = s[b + 1] / s[b + 2]
            old = g[o + before]
            g[o + before] = old + rate * (mean - old) if old == old else mean
        s[b], s[b + 1], s[b + 2] = now, 0.0, 0.0


@kernel
def learn_season(s: Floats, g: A.Singles, b: int, at: float, v: float, day: float, week: float) -> None:
    """Add a reading to both profiles, and to what each would have lost (errors clipped at five deviations)."""
    learn_profile(s, g, b + DAY_BIN, 2 * (b + DAY), int(at / (30.0 * MINUTE) % DAYS), 0.3)
    learn_profile(s, g, b + WEEK_BIN, 2 * (b + WEEK), int((at / (2.0 * HOUR) + 36.0) % WEEKS), 0.4)
    for first in (DAY_BIN, WEEK_BIN):
        s[b + first + 1] += v
        s[b + first + 2] += 1.0
    mean, most = s[b + MEAN], 5.0 * math.sqrt(s[b + VARIANCE])
    rate = max(0.002, 1.0 / (s[b + SEEN] + 1.0))
    s[b + FLAT_LOSS] += rate * (min(abs(v - mean), most) - s[b + FLAT_LOSS])
    s[b + DAY_LOSS] += rate * (min(abs(v - (day if day == day else mean)), most) - s[b + DAY_LOSS])
    s[b + WEEK_LOSS] += rate * (min(abs(v - (week if week == week else mean)), most) - s[b + WEEK_LOSS])


@kernel
def half_spaces(s: Floats, m: Bytes, b: int, x: Floats) -> float:
    """How empty the half-spaces around `x` (in the unit cube) were in the generation before; NaN in the first."""
    first = 8 * (b + MASS)
    total = 0.0
    for tree in range(FOREST):
        o = first + 3 * tree * LEAVES
        node, open_ = 1, True
        for depth in range(DEPTH + 1):
            mass = m[o + node]
            if open_ and (depth == DEPTH or mass <= GENERATION // 10):
                total += mass * float(1 << depth)
                open_ = False
            if depth < DEPTH:
                node = 2 * node + int(x[DIMENSION[tree, node]] > CUT[tree, node])
        m[o + LEAVES + node] += np.uint8(1)
    found = -math.log((total / FOREST + 1.0) / GENERATION) if s[b + TREES_KNOWN] > 0.0 else math.nan
    s[b + TREE_COUNT] += 1.0
    if s[b + TREE_COUNT] == GENERATION:
        s[b + TREE_COUNT], s[b + TREES_KNOWN] = 0.0, 1.0
        for tree in range(FOREST):
            o = first + 3 * tree * LEAVES
            for node in range(NODES - 1, 0, -1):
                if node >= LEAVES:
                    m[o + node], m[o + LEAVES + node] = m[o + LEAVES + node], np.uint8(0)
                else:
                    m[o + node] = m[o + 2 * node] + m[o + 2 * node + 1]
    return found


@kernel
def shape(s: Floats, g: A.Singles, b: int, scale: int, v: float, x: Floats) -> float:
    """Distance of the last 16 points (means of SCALES[scale] readings) from the sensor's usual shapes; NaN: no point.

    The usual shapes are the span of four principal components of earlier sub-sequences, learned by candid
    covariance-free incremental PCA (Weng, Zhang and Hwang, 2003); the distance is the root mean square of the rest.
    """
    p, o = b + GATHERED + 4 * scale, 2 * (b + SHAPE) + scale * POINTS
    s[p] += v
    s[p + 1] += 1.0
    if s[p + 1] < SCALES[scale]:
        return math.nan
    point = int(s[p + 2])
    g[o + point % POINTS] = s[p] / SCALES[scale]
    s[p], s[p + 1] = 0.0, 0.0
    s[p + 2] = point + 1 if point < 2 * POINTS - 1 else POINTS
    deviation = math.sqrt(s[b + VARIANCE])
    if point + 1 < POINTS or deviation == 0.0:
        return math.nan
    mean = 0.0
    for i in range(POINTS):
        x[i] = g[o + (point + 1 + i) % POINTS]
        mean += x[i] / POINTS
    for i in range(POINTS):
        x[i] = min(max((x[i] - mean) / deviation, -8.0), 8.0)
    s[p + 3] += 1.0
    learn_shape(g, 2 * (b + BASIS) + scale * PARTS * POINTS, max(1.0 / s[p + 3], 0.002), x)
    rest = 0.0
    for i in range(POINTS):
        rest += x[i] * x[i]
    return math.sqrt(rest / POINTS) if s[p + 3] > 50.0 else math.nan


@kernel
def learn_shape(g: A.Singles, o: int, rate: float, x: Floats) -> None:
    """Take from `x` what the components at g[o:] explain, and turn each towards what was left for it to explain."""
    for c in range(PARTS):
        norm, along = 0.0, 0.0
        for i in range(POINTS):
            v = float(g[o + c * POINTS + i])
            norm += v * v
            along += v * x[i]
        if norm == 0.0:
            for i in range(POINTS):
                g[o + c * POINTS + i] = x[i]
                x[i] = 0.0
            break
        for i in range(POINTS):
            v = float(g[o + c * POINTS + i])
            g[o + c * POINTS + i] = (1.0 - rate) * v + rate * x[i] * along / math.sqrt(norm)
            x[i] -= along / norm * v


@part
def learn_value(s: Floats, b: int, v: float) -> None:
    """Move mean and variance (over 2,000 readings at most), mean step (over 500), and the lags."""
    s[b + SEEN] += 1.0
    rate = max(1.0 / s[b + SEEN], 0.0005)
    move = v - s[b + MEAN]
    s[b + MEAN] += rate * move
    s[b + VARIANCE] = (1.0 - rate) * (s[b + VARIANCE] + rate * move * move)
    s[b + STEPS] += max(1.0 / s[b + SEEN], 0.002) * (s[b + LOCAL + 3] - s[b + STEPS])
    for i in range(ORDER - 1, 0, -1):
        s[b + LAGS + i] = s[b + LAGS + i - 1]
    s[b + LAGS] = s[b + LAST] = v
    s[b + LAGS_KNOWN] += 1.0


@kernel
def interrupt(s: Floats, b: int) -> None:
    """After a gap nothing is known of the last readings."""
    s[b + LAGS_KNOWN], s[b + RUN], s[b + LAST] = 0.0, 0.0, math.nan
    for scale in range(len(SCALES)):
        s[b + GATHERED + 4 * scale : b + GATHERED + 4 * scale + 3] = 0.0


@part
def rescaled(s: Floats, b: int) -> bool:
    """Whether forecast errors, and the steps from reading to reading, have for some time been of another size.

    Errors alone tell of another level, or of a sensor that is foreseen ever better; and what comes each day, such as
    a machine that is switched on, is no other unit each time.
    """
    if s[b + A.AT] - s[b + RESCALED] < A.SPAN:
        return False
    steps, usual = s[b + LOCAL + 3], s[b + STEPS]
    rose = s[b + SPREAD] > 5.0 and steps > 3.0 * usual
    fell = s[b + SPREAD] < 0.04 and s[b + RUN] < 8.0 and steps < 0.3 * usual
    return bool(s[b + SEEN] > 200.0 and s[b + ERROR] > 0.0 and (rose or fell))
