"""Readings and verdicts of many sensors, in order: the one call for a micro-batch of `operators.anomaly`."""

import math

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from operators.kernels import anomaly as A
from operators.kernels import anomaly_many as many
from operators.kernels import anomaly_one as one
from operators.kernels import borrowed, part, prefetch
from operators.kernels.tables import Floats

Rows = tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64], Floats, NDArray[np.bool_]]


@part
def level(s: Floats, b: int, v: float) -> float:
    """How far `v` is beyond the rolling extremes, in mean excesses of its side; below 0 between them."""
    high, low = s[b + A.BOUND + one.HIGH], s[b + A.BOUND + one.LOW]
    if high != high or low != low:
        return math.nan
    middle, half = (high - low) / 2.0, (high + low) / 2.0
    half = max(half, 1e-9 * (abs(middle) + abs(s[b + one.ORIGIN])) + 1e-300)
    x: float = (abs(v - middle) - half) / half
    if x > 0.0:
        x = (abs(v - middle) - half) / (s[b + A.TAIL + (one.HIGH if v > middle else one.LOW)] + A.FLOOR * half)
    return x


@kernel
def observe(s: Floats, g: A.Singles, m: one.Bytes, b: int, told: tuple[float, float], given: A.Given) -> None:
    """Raw numbers of a reading (time, value) that came in order, in raw[1:]; the detectors learn from it."""
    _, _, raw, x, y, _ = given
    at, v = told
    expected, day, week = one.season(s, g, b, at)
    deviation = math.sqrt(s[b + one.VARIANCE])
    known = s[b + one.LAGS_KNOWN] >= one.ORDER
    if known and deviation > 0.0:
        error = one.forecast(s, b, v, expected, x, y)
        raw[one.FORECAST] = abs(error)
        usual = min(max(error / s[b + one.ERROR], -6.0), 6.0) if s[b + one.ERROR] > 0.0 else 0.0
        s[b + one.DRIFTED] += (usual - s[b + one.DRIFTED]) / one.SWING
        s[b + one.SPREAD] += (abs(usual) - s[b + one.SPREAD]) / one.SWING
        raw[one.DRIFT], raw[one.LOUD] = abs(s[b + one.DRIFTED]), s[b + one.SPREAD]
        raw[one.CALM] = -math.log(s[b + one.SPREAD] + 0.02)
    if s[b + one.MODE] > 0.0 and at - s[b + A.BEGAN] > 192.0 * one.HOUR:
        raw[one.SEASON] = abs(v - expected)
    low, high = -s[b + A.BOUND + one.LOW], s[b + A.BOUND + one.HIGH]
    if known and high > low:
        for i in range(one.SHINGLE):
            place = ((v if i == 0 else s[b + one.LAGS + i - 1]) - low) / (high - low)
            x[i] = min(max(0.15 + 0.7 * place, 0.0), 1.0)
        raw[one.TREES] = one.half_spaces(s, m, b, x) / 3.0
    raw[one.FINE], raw[one.COARSE] = one.shape(s, g, b, 0, v, x), one.shape(s, g, b, 1, v, x)
    s[b + one.RUN] = s[b + one.RUN] + 1.0 if v == s[b + one.LAST] and s[b + one.SEEN] > 0.0 else 0.0
    raw[one.RUNS] = math.log1p(s[b + one.RUN])
    raw[one.SHIFT], raw[one.JUMP] = A.local(s, b + one.LOCAL, s[b + one.SEEN], v, s[b + one.LAST])
    one.learn_season(s, g, b, at, v, day, week)
    one.learn_value(s, b, v)


@kernel
def reading(
    s: Floats, g: A.Singles, m: one.Bytes, b: int, told: tuple[float, float], given: A.Given, row: Floats
) -> None:
    """Score one reading (time, value) of a sensor with one value, and learn from it."""
    zero, rules, raw, _, _, room = given
    at, value = told
    step, flags = A.clock(s, b, at)
    if value != value or flags & A.GAP:
        one.interrupt(s, b)
    if value != value:
        A.absent(s, b, (step, flags), rules, row)
        return
    if s[b + one.SEEN] == 0.0:
        s[b + one.ORIGIN] = value
    v = min(max(value - s[b + one.ORIGIN], -1e30), 1e30)
    raw[:], room[0], room[1] = math.nan, -math.inf, 0.0
    A.add(level(s, b, v), 1.0, A.LEVEL, row, room)
    learning = flags & (A.DUPLICATE | A.LATE) == 0
    if learning:
        raw[one.HIGH], raw[one.LOW] = v, -v
        observe(s, g, m, b, (at, v), given)
        for k, of in one.BEYOND:
            A.add(A.excess(s, b, k, raw[k]), 1.0, of, row, room)
        A.add(A.excess_log(s, b, one.CALM, raw[one.CALM]), 1.0, A.SPREAD, row, room)
        A.add(A.excess_log(s, b, one.TREES, raw[one.TREES]), 0.25, A.HALF_SPACE, row, room)
        A.add(A.excess_log(s, b, one.RUNS, raw[one.RUNS] - 0.7), 1.0, A.UNCHANGED, row, room)
        flags |= A.STUCK if row[A.UNCHANGED] > 0.0 else 0
        flags |= A.SCALE if one.rescaled(s, b) else 0
        if s[b + one.VARIANCE] == 0.0:
            room[0] = -math.inf  # it never changed yet: nothing about it is unusual
    total = A.finish(s, g, b, (step, flags), rules, room, row)
    if learning:
        A.keep(s, g, b, total, raw, room, one.SKETCHES)
    if flags & A.SCALE:
        A.restart(s, b, zero[0])
        s[b + one.RESCALED] = at


@kernel
def step(states: Floats, width: int, rows: Rows, columns: Floats, zero: Floats, rules: Floats, out: Floats) -> None:
    """Score rows in order into out[k, f], and learn from them; states are u rows of `width` words, end to end.

    rows: slot i32[k], port u8[k] (0 a reading, 1 a verdict about one), at i64[k], label f64[k], fresh bool[k].
    rules: alarms a millisecond, readings of warming, readings of damping.
    """
    s = borrowed(states)
    g, m = s.view(np.float32), s.view(np.uint8)
    slot, port, at, label, fresh = rows
    room = out.shape[1] - A.TOLD - A.MEMBERS
    places = np.arange(1.0, room + 1.0)
    given = (zero, rules, np.empty(A.SKETCHES), np.empty(64), np.empty(64), np.empty(8))
    for i in range(slot.shape[0]):
        b = int(slot[i]) * width
        # of 10,000 sensors the next one's state is in no cache: waiting for it took two thirds of the time
        if i + 1 < slot.shape[0] and slot[i + 1] != slot[i]:
            for word in range(0, width, 8):
                prefetch(s, int(slot[i + 1]) * width + word)
        out[i, :] = 0.0
        if not fresh[i]:
            continue
        if port[i] == 1:
            s[b + A.THETA] += A.GAIN if label[i] == 0.0 else -A.GAIN
            continue
        total = int(columns[i, room + 1]) if room > 0 else 0
        n = min(total, room)
        if n > 0:
            names = columns[i, room + 2 : room + 2 + n] if columns.shape[1] > room + 2 else places[:n]
            many.named(s, g, b, float(at[i]), (total, columns[i, 1 : 1 + n], names), given, out[i])
            continue
        if s[b + A.KIND] != 1.0:
            A.restart(s, b, zero[0])
            s[b + A.KIND] = 1.0
        reading(s, g, m, b, (float(at[i]), columns[i, 0]), given, out[i])
