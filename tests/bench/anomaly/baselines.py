"""What the anomaly detector is measured against: each gives a score for every reading, from what came before it only.

Windowed Gaussian as NAB ships it, River's half-space trees, Random Cut Forest after Guha et al., "Robust Random Cut
Forest Based Anomaly Detection on Streams" (2016), and spectral residual after Ren et al., "Time-Series Anomaly
Detection Service at Microsoft" (2019).
"""

import math
from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray
from river import anomaly, preprocessing

from tests.bench.anomaly.protocol import Series

F64 = NDArray[np.float64]

LEFT, RIGHT, PARENT, SIZE, CUT = range(5)


def windowed_gaussian(x: F64, window: int = 6400, step: int = 100) -> F64:
    """-log of the tail of a normal law fitted to the last `window` readings, every `step` of them."""
    out, mean, deviation = np.zeros(len(x)), 0.0, 1.0
    for i in range(len(x)):
        if i > 0 and (i % step == 0 or i < window):
            seen = x[max(0, i - window) : i]
            mean, deviation = float(seen.mean()), max(float(seen.std()), 1e-6)
        out[i] = -math.log(max(0.5 * math.erfc(abs(x[i] - mean) / deviation / math.sqrt(2)), 1e-300))
    return out


def half_space_trees(x: F64, shingle: int = 5) -> F64:
    """River's HalfSpaceTrees behind its MinMaxScaler, on the last `shingle` readings."""
    rows = np.lib.stride_tricks.sliding_window_view(x, shingle)
    return np.concatenate([np.zeros(shingle - 1), _half_spaces(rows)])


def _half_spaces(rows: F64) -> F64:
    scaler, model = preprocessing.MinMaxScaler(), anomaly.HalfSpaceTrees(seed=42)
    out = np.zeros(len(rows))
    for i, values in enumerate(rows.tolist()):
        row = dict(enumerate(values))
        scaler.learn_one(row)
        row = scaler.transform_one(row)
        out[i] = model.score_one(row)
        model.learn_one(row)
    return out


def spectral_residual(x: F64, window: int = 256, average: int = 3, local: int = 21, ahead: int = 5) -> F64:
    """Saliency of the last reading of each window, relative to the mean saliency of those before it."""
    n = len(x)
    if n <= window:
        return np.zeros(n)
    rows = np.lib.stride_tricks.sliding_window_view(x, window)
    out = np.zeros(n)
    for begin in range(0, len(rows), 4096):
        part = rows[begin : begin + 4096]
        slope = (part[:, -1:] - part[:, -ahead - 1 : -1]) / np.arange(ahead, 0, -1)
        guess = part[:, -ahead : -ahead + 1] + slope.mean(axis=1, keepdims=True) * ahead
        spectrum = np.fft.fft(np.concatenate([part, np.repeat(guess, ahead, axis=1)], axis=1), axis=1)
        log = np.log(np.maximum(np.abs(spectrum), 1e-8))
        smooth = np.cumsum(np.pad(log, ((0, 0), (average, 0)), mode="edge"), axis=1)
        smooth = (smooth[:, average:] - smooth[:, :-average]) / average
        saliency = np.abs(np.fft.ifft(np.exp(log - smooth + 1j * np.angle(spectrum)), axis=1))[:, :window]
        mean = saliency[:, -local - 1 : -1].mean(axis=1)
        out[window - 1 + begin : window - 1 + begin + len(part)] = (saliency[:, -1] - mean) / np.maximum(mean, 1e-8)
    return np.maximum(out, 0.0)


def random_cut_forest(x: F64, shingle: int = 4, trees: int = 40, capacity: int = 256) -> F64:
    """Mean collusive displacement of the last `shingle` readings over `trees` trees of the last `capacity` shingles."""
    if len(x) < shingle:
        return np.zeros(len(x))
    points = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(x, shingle))
    return np.concatenate([np.zeros(shingle - 1), _forest(points, trees, capacity, 42)])


@njit(cache=True)
def _forest(points: F64, trees: int, capacity: int, seed: int) -> F64:
    np.random.seed(seed)
    total = np.zeros(len(points))
    for _ in range(trees):
        _tree(points, capacity, total)
    return total / trees


@njit(cache=True)
def _tree(points: F64, capacity: int, total: F64) -> None:
    """One tree over all points. Leaves are nodes 0 to capacity, branches the others; -1 is no node."""
    d = points.shape[1]
    leaves = capacity + 1
    link = np.full((2 * leaves, 5), -1, np.int32)
    box = np.zeros((2 * leaves, 2, d))
    value = np.zeros(2 * leaves)
    free = np.arange(leaves, 2 * leaves).astype(np.int32)
    spare, root = leaves, -1
    for i in range(len(points)):
        leaf = i % leaves
        if i >= leaves:
            root, released = _remove(link, box, leaf, root)
            if released >= 0:
                free[spare] = released
                spare += 1
        link[leaf, :] = -1
        link[leaf, SIZE] = 1
        box[leaf, 0] = points[i]
        box[leaf, 1] = points[i]
        if root < 0:
            root = leaf
            continue
        spare -= 1
        root = _insert(link, box, value, root, np.array([leaf, free[spare]]))
        total[i] += _displacement(link, leaf)


@njit(cache=True)
def _insert(link: NDArray[np.int32], box: F64, value: F64, root: int, new: NDArray[np.int64]) -> int:
    leaf, branch = new[0], new[1]
    point = box[leaf, 0]
    node = root
    while True:
        low, high = np.minimum(box[node, 0], point), np.maximum(box[node, 1], point)
        place = np.random.random() * (high - low).sum()
        dim = 0
        while dim < len(point) - 1 and place > high[dim] - low[dim]:
            place -= high[dim] - low[dim]
            dim += 1
        cut = low[dim] + place
        outside = node < len(value) // 2 or cut < box[node, 0, dim] or cut >= box[node, 1, dim]
        if outside:
            break
        node = link[node, LEFT] if point[link[node, CUT]] <= value[node] else link[node, RIGHT]
    parent = link[node, PARENT]
    before = point[dim] <= cut and not (box[node, 0, dim] <= cut and box[node, 1, dim] <= cut)
    link[branch, LEFT], link[branch, RIGHT] = (leaf, node) if before else (node, leaf)
    link[branch, PARENT], link[branch, CUT], link[branch, SIZE] = parent, dim, link[node, SIZE]
    value[branch] = cut
    box[branch] = box[node]
    if parent >= 0:
        link[parent, LEFT if link[parent, LEFT] == node else RIGHT] = branch
    else:
        root = branch
    link[node, PARENT] = branch
    link[leaf, PARENT] = branch
    while branch >= 0:
        link[branch, SIZE] += 1
        box[branch, 0] = np.minimum(box[branch, 0], point)
        box[branch, 1] = np.maximum(box[branch, 1], point)
        branch = link[branch, PARENT]
    return root


@njit(cache=True)
def _remove(link: NDArray[np.int32], box: F64, leaf: int, root: int) -> tuple[int, int]:
    parent = link[leaf, PARENT]
    if parent < 0:
        return -1, -1
    sibling = link[parent, RIGHT] if link[parent, LEFT] == leaf else link[parent, LEFT]
    above = link[parent, PARENT]
    link[sibling, PARENT] = above
    if above < 0:
        return sibling, parent
    link[above, LEFT if link[above, LEFT] == parent else RIGHT] = sibling
    while above >= 0:
        left, right = link[above, LEFT], link[above, RIGHT]
        link[above, SIZE] -= 1
        box[above, 0] = np.minimum(box[left, 0], box[right, 0])
        box[above, 1] = np.maximum(box[left, 1], box[right, 1])
        above = link[above, PARENT]
    return root, parent


@njit(cache=True)
def _displacement(link: NDArray[np.int32], leaf: int) -> float:
    most, node = 0.0, leaf
    while link[node, PARENT] >= 0:
        parent = link[node, PARENT]
        sibling = link[parent, RIGHT] if link[parent, LEFT] == node else link[parent, LEFT]
        most = max(most, link[sibling, SIZE] / link[node, SIZE])
        node = parent
    return most


BASELINES: dict[str, Callable[[F64], F64]] = {
    "windowed Gaussian": windowed_gaussian,
    "River HalfSpaceTrees": half_space_trees,
    "Random Cut Forest": random_cut_forest,
    "spectral residual": spectral_residual,
}


def _worst(score: Callable[[F64], F64]) -> Callable[[Series], F64]:
    """The greatest score of the values, each taken by itself."""
    return lambda one: np.max([score(np.ascontiguousarray(column)) for column in one.values.T], axis=0)


def _rows(one: Series) -> F64:
    """Values in deviations of the probation, so that a forest's boxes have no units."""
    first = one.values[: max(one.probation, 2)]
    return np.ascontiguousarray((one.values - first.mean(axis=0)) / np.maximum(first.std(axis=0), 1e-9))


SEVERAL: dict[str, Callable[[Series], F64]] = {
    "windowed Gaussian": _worst(windowed_gaussian),
    "River HalfSpaceTrees": lambda one: _half_spaces(_rows(one)),
    "Random Cut Forest": lambda one: _forest(_rows(one), 40, 256, 42),
    "spectral residual": _worst(spectral_residual),
}
"""The same, for several values: forests on rows, the others on each value."""
