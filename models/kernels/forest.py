"""Hoeffding trees and adaptive random forests of them, with River 0.23's arithmetic, draw for draw.

Two classes, numeric features, leaves that predict their class shares. A forest is a tuple of arrays that the kernels
change in place; `models.forest` makes, keeps and restores them. Trees: Domingos and Hulten, KDD 2000; forest: Gomes et
al., Machine Learning 2017; both as in `river.tree.HoeffdingTreeClassifier` and `river.forest.ARFClassifier`, but
for the limit of memory: here a tree that is full splits no more. River learns about 1,000 examples a second and holds
the interpreter lock meanwhile; this is why it is not River's own code that runs.

Axes: s slots (a tree and its background tree each), c nodes a slot, m features watched by a leaf, 2 classes.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from models.kernels.adwin import Windows, reset, update
from models.kernels.random import below, poisson

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U32 = NDArray[np.uint32]

N_SPLITS = 10  # thresholds that a leaf tries for each feature
MIN_BRANCH = 0.01  # share of a leaf's weight that each side of a split must have
MAX_SHARE = 0.99  # a leaf with a larger share of one class starts watching anew instead of splitting


class Forest(NamedTuple):
    """`place[t]` is the slot of tree t, `place[trees + t]` of its background tree; -1 nodes: no tree, 0: a new one."""

    settings: F64  # [5] grace, delta, tau, depth, bagging rate (0: one tree, no bagging, no detectors)
    rng: U32  # [625]
    place: I64  # [s]
    nodes: I64  # [s] in use
    tally: F64  # [trees, 4] right predictions, predictions, warnings, drifts
    feature: I32  # [s, c], -1: a leaf
    threshold: F64  # [s, c], left where x <= it
    left: I32  # [s, c]; the right child is the next one
    depth: I32  # [s, c]
    tried: F64  # [s, c] weight at the last attempt to split
    stats: F64  # [s, c, 2] weight of each class
    seen: F64  # [s, c, 2] the same since the leaf began to watch
    picks: I32  # [s, c, m] watched features, -1: not yet drawn
    moments: F64  # [s, c, m, 2, 2] mean and squared deviations of their values
    range: F32  # [s, c, m, 2, 2] lowest and highest


@kernel
def leaf_of(f: Forest, s: int, x: F32) -> int:
    """The leaf of slot `s` that a row falls into."""
    node = 0
    while f.feature[s, node] >= 0:
        node = f.left[s, node] + (0 if x[f.feature[s, node]] <= f.threshold[s, node] else 1)
    return node


@kernel
def _votes_true(f: Forest, s: int, x: F32) -> int:
    """1 or 0, what the tree predicts; -1 from one that has learned nothing."""
    if f.nodes[s] == 0:
        return -1
    leaf = leaf_of(f, s, x)
    a, b = f.stats[s, leaf, 0], f.stats[s, leaf, 1]
    scale = 1 / (a + b) if a + b != 0 else 1.0
    return 1 if b * scale > a * scale else 0


@kernel
def tree_weights(f: Forest) -> F64:
    """f64[trees], each tree's accuracy so far; 1 where it has none; 0 for a tree that has learned nothing."""
    trees = len(f.tally)
    out = np.empty(trees)
    for t in range(trees):
        out[t] = f.tally[t, 0] / f.tally[t, 1] if f.tally[t, 0] > 0 else 1.0
        if f.nodes[f.place[t]] <= 0:
            out[t] = 0.0
    return out


@kernel
def shares(f: Forest, X: F32) -> F64:
    """f64[k, 2], the weighted mean of the trees' class shares for each row of X f32[k, d]; zeros before any example."""
    weights = tree_weights(f)
    total = weights.sum()
    out = np.zeros((len(X), 2))
    for t in range(len(weights)):
        if weights[t] > 0:
            s = f.place[t]
            for i in range(len(X)):
                leaf = leaf_of(f, s, X[i])
                a, b = f.stats[s, leaf, 0], f.stats[s, leaf, 1]
                out[i, 0] += weights[t] / total * (a / (a + b))
                out[i, 1] += weights[t] / total * (b / (a + b))
    return out


@kernel
def _watch_anew(f: Forest, s: int, node: int) -> None:
    f.seen[s, node] = 0.0
    f.moments[s, node] = 0.0
    f.range[s, node, :, :, 0] = np.inf
    f.range[s, node, :, :, 1] = -np.inf


@kernel
def _new_leaf(f: Forest, s: int, depth: int, a: float, b: float) -> None:
    node = f.nodes[s]
    f.nodes[s] += 1
    f.feature[s, node] = -1
    f.depth[s, node] = depth
    f.tried[s, node] = a + b
    f.stats[s, node, 0] = a
    f.stats[s, node, 1] = b
    f.picks[s, node] = -1
    _watch_anew(f, s, node)


@kernel
def _draw_features(picks: I32, d: int, rng: U32) -> None:
    """Different features of `d`, as Python's random.sample draws them; all, in order, where as many are watched."""
    m = len(picks)
    few = 21.0
    if m > 5:
        few += 4.0 ** math.ceil(math.log(m * 3) / math.log(4.0))
    pool = np.arange(d)
    for i in range(m):
        if d <= few:
            j = below(rng, d - i)
            picks[i] = pool[j]
            pool[j] = pool[d - i - 1]
        else:
            j = below(rng, d)
            while pool[j] < 0:
                j = below(rng, d)
            picks[i], pool[j] = j, -1


@kernel
def _observe(f: Forest, s: int, node: int, x: F32, y: int, w: float) -> None:
    """The watched values of one example: weighted means and squared deviations, lowest and highest."""
    f.seen[s, node, y] += w
    part = w / f.seen[s, node, y]
    for j in range(f.picks.shape[2]):
        value = x[f.picks[s, node, j]]
        old = f.moments[s, node, j, y, 0]
        new = old + part * (value - old)
        f.moments[s, node, j, y, 0] = new
        f.moments[s, node, j, y, 1] += w * (value - old) * (value - new)
        f.range[s, node, j, y, 0] = min(f.range[s, node, j, y, 0], value)
        f.range[s, node, j, y, 1] = max(f.range[s, node, j, y, 1], value)


@kernel
def _entropy(a: float, b: float) -> float:
    total = entropy = 0.0
    if a > 0:
        entropy -= a * math.log2(a)
        total += a
    if b > 0:
        entropy -= b * math.log2(b)
        total += b
    return (entropy + total * math.log2(total)) / total if total > 0 else 0.0


@kernel
def _left_weight(n: float, moments: F64, low: float, high: float, at: float) -> float:
    """How much of a class's weight n is at or below `at`, its values taken as normally distributed."""
    if n == 0 or at < low:
        return 0.0
    if at >= high:
        return n
    variance = moments[1] / (n - 1) if n > 1 else 0.0
    if variance <= 0:
        return 0.0
    return 0.5 * (1.0 + math.erf((at - moments[0]) / (math.sqrt(variance) * math.sqrt(2.0)))) * n


@kernel
def _best_threshold(f: Forest, s: int, node: int, j: int) -> tuple[float, float, float, float]:
    """Information gain of the best threshold of a feature, the threshold, and the weights of the classes left of it."""
    best = (-np.inf, 0.0, 0.0, 0.0)
    na, nb = f.seen[s, node, 0], f.seen[s, node, 1]
    moments, spread = f.moments[s, node, j], f.range[s, node, j].astype(np.float64)
    low, high = spread[:, 0].min(), spread[:, 1].max()
    before = _entropy(f.stats[s, node, 0], f.stats[s, node, 1])
    step = (high - low) / (N_SPLITS + 1.0)
    for i in range(N_SPLITS):
        at = low + step * (i + 1)
        if not low < at < high:
            continue
        la = _left_weight(na, moments[0], spread[0, 0], spread[0, 1], at)
        lb = _left_weight(nb, moments[1], spread[1, 0], spread[1, 1], at)
        left, right = la + lb, (na - la) + (nb - lb)
        total = left + right
        if left / total > MIN_BRANCH and right / total > MIN_BRANCH:
            merit = before - (left * _entropy(la, lb) + right * _entropy(na - la, nb - lb)) / total
            if merit > best[0]:
                best = (merit, at, la, lb)
    return best


@kernel
def _attempt_split(f: Forest, s: int, node: int) -> None:
    """Split a leaf where one feature's best threshold is better than the next feature's, or both are as good."""
    a, b = f.stats[s, node, 0], f.stats[s, node, 1]
    if a == 0 or b == 0:
        return
    if max(a, b) / (a + b) > MAX_SHARE:
        _watch_anew(f, s, node)
        return
    best, second, chosen = (-np.inf, 0.0, 0.0, 0.0), -np.inf, -1
    for j in range(f.picks.shape[2]):
        found = _best_threshold(f, s, node, j)
        if found[0] >= best[0]:  # of equal ones the last, as River's stable sort leaves them
            second, best, chosen = best[0], found, j
        else:
            second = max(second, found[0])
    bound = math.sqrt(math.log(1.0 / f.settings[1]) / (2.0 * (a + b)))
    if not (best[0] - second > bound or bound < f.settings[2]):
        return
    if best[0] == -np.inf:
        _watch_anew(f, s, node)
    else:
        f.feature[s, node] = f.picks[s, node, chosen]
        f.threshold[s, node] = best[1]
        f.left[s, node] = f.nodes[s]
        below = f.depth[s, node] + 1
        _new_leaf(f, s, below, best[2], best[3])
        _new_leaf(f, s, below, f.seen[s, node, 0] - best[2], f.seen[s, node, 1] - best[3])


@kernel
def _learn_tree(f: Forest, s: int, x: F32, y: int, w: float) -> None:
    """One example, of weight w, into the tree of a slot."""
    if f.nodes[s] == 0:
        _new_leaf(f, s, 0, 0.0, 0.0)
    node = leaf_of(f, s, x)
    f.stats[s, node, y] += w
    if f.depth[s, node] >= f.settings[3] or f.nodes[s] + 2 > f.feature.shape[1]:
        return  # it can't split any more
    picks = f.picks[s, node]
    if picks[0] < 0:
        if f.settings[4] > 0:
            _draw_features(picks, len(x), f.rng)
        else:
            for j in range(len(picks)):
                picks[j] = j
    _observe(f, s, node, x, y, w)
    seen = f.stats[s, node, 0] + f.stats[s, node, 1]
    if seen - f.tried[s, node] >= f.settings[0]:
        _attempt_split(f, s, node)
        f.tried[s, node] = seen


@kernel
def _detect(f: Forest, t: int, wrong: float, warn: Windows, drift: Windows) -> None:
    """Feed a tree's error to its detectors: a warning starts a background tree, a drift puts it in the tree's place."""
    trees = len(f.tally)
    behind = f.place[trees + t]
    if update(warn, t, wrong):
        f.nodes[behind] = 0
        reset(warn, t)
        f.tally[t, 2] += 1
    if update(drift, t, wrong):
        if f.nodes[behind] >= 0:
            f.place[trees + t], f.place[t] = f.place[t], behind
            f.nodes[f.place[trees + t]] = -1
            reset(warn, t)
        else:
            f.nodes[f.place[t]] = 0
        reset(drift, t)
        f.tally[t, :2] = 0.0
        f.tally[t, 3] += 1


@kernel
def learn(f: Forest, X: F32, y: F64, weight: F64, warn: Windows, drift: Windows) -> None:
    """Examples in order: X f32[k, d], y f64[k] 0 or 1, weight f64[k]."""
    rate, trees = f.settings[4], len(f.tally)
    for i in range(len(X)):
        x, label = X[i], int(y[i])
        if rate <= 0:
            _learn_tree(f, f.place[0], x, label, weight[i])
            continue
        for t in range(trees):
            wrong = 0.0 if _votes_true(f, f.place[t], x) == label else 1.0
            f.tally[t, 0] += 1 - wrong
            f.tally[t, 1] += 1
            k = poisson(f.rng, rate * weight[i])
            if k > 0:
                if f.nodes[f.place[trees + t]] >= 0:
                    _learn_tree(f, f.place[trees + t], x, label, float(k))
                _learn_tree(f, f.place[t], x, label, float(k))
                _detect(f, t, wrong, warn, drift)
