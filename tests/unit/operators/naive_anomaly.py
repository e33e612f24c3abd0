"""Naive twins of the anomaly kernels: the same definitions over everything that was seen, in plain Python."""

import math

import numpy as np
from numpy.typing import NDArray

from operators.kernels import anomaly as A
from operators.kernels import anomaly_many as many
from operators.kernels import anomaly_one as one

Floats = NDArray[np.float64]


def blocks(values: list[float], cadence: float) -> tuple[list[float], int]:
    """Maxima of the full blocks that are kept of `values`, and their length; -inf: a block without a value."""
    kept: list[float] = []
    length, inside = A.FIRST, []
    for value in values:
        inside.append(value)
        if len(inside) == length:
            kept = [*kept, max((float(np.float32(v)) for v in inside if v == v), default=-math.inf)][-A.BLOCKS :]
            inside = []
            if len(kept) == A.BLOCKS and (length < A.LONGEST or length * A.BLOCKS * cadence < A.SPAN):
                kept = [max(kept[2 * i], kept[2 * i + 1]) for i in range(A.BLOCKS // 2)]
                length *= 2
    return kept, length


def bound(kept: list[float], length: int) -> tuple[float, float]:
    """Fifth largest maximum and the mean excess of the four above, NaN where there are none.

    The bound is moved out along an exponential tail from what was seen to the whole window.
    """
    top = sorted((v for v in kept if v > -math.inf), reverse=True)[: A.KTH]
    if len(top) < A.KTH:
        return math.nan, math.nan
    tail = sum(top) / 4 - 1.25 * top[-1]
    return top[-1] + tail * max(math.log(A.BLOCKS * A.LONGEST / (length * len(kept))), 0.0), tail


def p_value(kept: list[float], length: int, x: float) -> float:
    """Chance of a quiet reading as far out as `x`, by the rank of `x` among block maxima; 1: it is none of the tail."""
    share = (1 + sum(v >= x for v in kept)) / (len(kept) + 1)
    return -math.log(1 - share) / length if share < 0.5 else 1.0


def regression(inputs: Floats, targets: Floats) -> Floats:
    """Weights that minimise the squares, forgotten by .999 a step, with the prior of the kernel (1 / 100)."""
    n, k = inputs.shape
    weight = 0.999 ** np.arange(n - 1, -1, -1.0)
    normal = (inputs * weight[:, None]).T @ inputs + 0.999**n / 100.0 * np.eye(k)
    return np.asarray(np.linalg.solve(normal, (inputs * weight[:, None]).T @ targets))


def emptiness(points: Floats) -> list[float]:
    """Score of each point by the masses of the generation before its own; NaN in the first."""
    found, before = [], None
    for first in range(0, len(points), one.GENERATION):
        now = np.zeros((one.FOREST, one.NODES))
        for point in points[first : first + one.GENERATION]:
            total = 0.0
            for tree in range(one.FOREST):
                path = [1]
                while len(path) <= one.DEPTH:
                    node = path[-1]
                    path.append(2 * node + int(point[one.DIMENSION[tree, node]] > one.CUT[tree, node]))
                now[tree, path] += 1
                if before is not None:
                    mass = before[tree, path]
                    stop = next((d for d in range(one.DEPTH) if mass[d] <= one.GENERATION // 10), one.DEPTH)
                    total += mass[stop] * 2.0**stop
            found.append(math.nan if before is None else -math.log((total / one.FOREST + 1) / one.GENERATION))
        before = now
    return found


def shapes(values: Floats, every: int, deviation: float) -> list[float]:
    """Distance of each window of means of `every` values from six components learned so far; NaN: none yet."""
    points = values[: len(values) // every * every].reshape(-1, every).mean(axis=1)
    basis = np.zeros((one.PARTS, one.POINTS))
    found = [math.nan] * len(values)
    for n, last in enumerate(range(one.POINTS, len(points) + 1), 1):
        x = points[last - one.POINTS : last]
        x = np.clip((x - x.mean()) / deviation, -8, 8)
        rate = max(1 / n, 0.002)
        for c in range(one.PARTS):
            if not basis[c].any():
                basis[c], x = x, np.zeros_like(x)
                break
            unit = basis[c] / np.linalg.norm(basis[c])
            basis[c] = (1 - rate) * basis[c] + rate * x * (x @ unit)
            x = x - (x @ unit) * unit
        found[last * every - 1] = float(np.sqrt(np.mean(x**2))) if n > 50 else math.nan
    return found


def profile(at: list[int], values: list[float], width: float, bins: int, rate: float) -> dict[int, float]:
    """Exponential mean, over visits of each bin of the clock that ended, of the mean of a visit."""
    visits: list[tuple[int, list[float]]] = []
    for t, value in zip(at, values, strict=True):
        place = int(t / width % bins)
        if not visits or visits[-1][0] != place:
            visits.append((place, []))
        visits[-1][1].append(value)
    found: dict[int, float] = {}
    for place, seen in visits[:-1]:
        mean = sum(seen) / len(seen)
        found[place] = found[place] + rate * (mean - found[place]) if place in found else mean
    return found


def recent(values: list[float]) -> list[tuple[float, float]]:
    """Mean of the last few, and the last step, in deviations and mean steps of the last 24, clipped; NaN: not yet."""
    found = [(math.nan, math.nan)]
    fast = slow = values[0]
    variance = usual = 0.0
    for i in range(1, len(values)):
        rate, deviation, move = max(1 / (i + 1), 1 / 24), math.sqrt(variance), values[i] - slow
        fast = values[i] if i <= 10 else 0.6 * fast + 0.4 * values[i]
        known = i > 10 and deviation > 0
        shift = abs(fast - slow) / deviation if known else math.nan
        move = float(np.clip(move, -6 * deviation, 6 * deviation)) if known else move
        slow, variance = slow + rate * move, (1 - rate) * (variance + rate * move**2)
        step, rate = abs(values[i] - values[i - 1]), max(1 / i, 1 / 24)
        known = i > 10 and usual > 0
        found.append((shift, step / usual if known else math.nan))
        usual += rate * ((min(step, 3 * usual) if known else step) - usual)
    return found


def distances(rows: Floats) -> list[float]:
    """Root mean square of each row in units of the weighted second moments of the clipped rows before it."""
    n = rows.shape[1]
    moments, weight, found = np.eye(n), 1.0, []
    for i, row in enumerate(rows):
        found.append(math.sqrt(row @ np.linalg.inv(moments) @ row * weight / n))
        clipped = np.clip(row, -4, 4)
        axis = np.zeros(n)
        axis[i % n] = math.sqrt(many.RIDGE * n)
        moments = many.KEEP * moments + np.outer(clipped, clipped) + np.outer(axis, axis)
        weight = many.KEEP * weight + 1.0
    return found
