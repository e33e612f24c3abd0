"""Half-space trees, with the arithmetic of River 0.23's `MinMaxScaler | HalfSpaceTrees`.

Trees are complete and in heap order: the children of node i are 2 i + 1 and 2 i + 2. Tan, Ting and Liu, IJCAI 2011.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

SPARSE = 0.1  # share of a window below which a node's mass is no reason to look deeper


class HalfSpaces(NamedTuple):
    """`t` trees of `n` nodes, of which the first n // 2 branch."""

    range: F64  # [2, d] lowest and highest value of each feature so far
    feature: I64  # [t, n // 2]
    at: F64  # [t, n // 2] where a node splits its feature's range, 0 to 1
    mass: F64  # [2, t, n] examples of this window and of the window before
    clock: I64  # [2] examples in this window; whole windows


@kernel
def threshold(h: HalfSpaces, t: int, node: int) -> float:
    """Left where x is below it; inf where the feature has not yet had two values."""
    j = h.feature[t, node]
    low, high = h.range[0, j], h.range[1, j]
    return low + h.at[t, node] * (high - low) if high > low else np.inf


@kernel
def scores(h: HalfSpaces, X: F32, window: int, out: F64) -> None:
    """1 less the share of the largest possible mass on the paths of each row of X f32[k, d]; 0 in the first window."""
    trees, nodes = h.mass.shape[1:]
    for i in range(len(X)):
        total = 0.0
        for t in range(trees):
            node, size = 0, 1.0
            while True:
                total += h.mass[1, t, node] * size
                if h.mass[1, t, node] < SPARSE * window or node >= nodes // 2:
                    break
                node = 2 * node + (1 if X[i, h.feature[t, node]] < threshold(h, t, node) else 2)
                size *= 2
        out[i] = 1 - total / (trees * window * nodes) if h.clock[1] > 0 else 0.0


@kernel
def learn(h: HalfSpaces, X: F32, window: int) -> None:
    """Rows X f32[k, d] in order."""
    trees, nodes = h.mass.shape[1:]
    for i in range(len(X)):
        for j in range(X.shape[1]):
            h.range[0, j] = min(h.range[0, j], X[i, j])
            h.range[1, j] = max(h.range[1, j], X[i, j])
        for t in range(trees):
            node = 0
            h.mass[0, t, 0] += 1
            while node < nodes // 2:
                node = 2 * node + (1 if X[i, h.feature[t, node]] < threshold(h, t, node) else 2)
                h.mass[0, t, node] += 1
        h.clock[0] += 1
        if h.clock[0] == window:
            h.mass[1] = h.mass[0]
            h.mass[0] = 0.0
            h.clock[0] = 0
            h.clock[1] += 1
