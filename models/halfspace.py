"""Half-space trees at work: how rare the place of a row is among the last window's, from 0 to 1; labels are not used.

Features are scaled to the range that they have had so far.
"""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from models.kernels import halfspace as kernels
from models.kernels.halfspace import SPARSE, HalfSpaces
from models.learning import F32, F64, Arrays, Learning, Settings, same

if TYPE_CHECKING:
    from models.compile import Calibration

PADDING = 0.15  # of a range, at both ends, in which it is not split


class HalfSpaceLearning(Learning):
    """Scores are 0 until a whole window has been learned. A weight counts as one example."""

    def __init__(self, name: str, settings: Settings, inputs: tuple[str, ...]):
        super().__init__(name, settings, inputs)
        trees, height, window, seed = (int(settings[k] or 0) for k in ("trees", "height", "window", "seed"))
        self._window, d, inner = window, len(inputs), 2**height - 1
        self._h = HalfSpaces(
            range=np.repeat(np.array([[np.inf], [-np.inf]]), d, axis=1),
            feature=np.zeros((trees, inner), np.int64),
            at=np.zeros((trees, inner)),
            mass=np.zeros((2, trees, 2 * inner + 1)),
            clock=np.zeros(2, np.int64),
        )
        rng = random.Random(seed)
        for t in range(trees):
            self._grow(t, 0, [(0.0, 1.0)] * d, rng)

    def _grow(self, tree: int, node: int, limits: list[tuple[float, float]], rng: random.Random) -> None:
        """Split a node at random within its limits, in River's order of draws."""
        if node >= self._h.feature.shape[1]:
            return
        (j,) = rng.choices(range(len(limits)), weights=[b - a for a, b in limits])
        a, b = limits[j]
        at = rng.uniform(a + PADDING * (b - a), b - PADDING * (b - a))
        self._h.feature[tree, node], self._h.at[tree, node] = j, at
        for child, part in ((2 * node + 1, (a, at)), (2 * node + 2, (at, b))):
            self._grow(tree, child, [*limits[:j], part, *limits[j + 1 :]], rng)

    def _scores(self, rows: F32) -> F64:
        out = np.empty(len(rows))
        kernels.scores(self._h, rows, self._window, out)
        return out

    def _learn(self, ids: Sequence[str], rows: F32, y: F64, weight: F64) -> None:
        kernels.learn(self._h, rows, self._window)

    def _arrays(self) -> Arrays:
        return {n: getattr(self._h, n) for n in ("range", "mass", "clock")}

    def _take(self, arrays: Arrays) -> None:
        taken = same(arrays, self._arrays())
        for name, array in self._arrays().items():
            array[...] = taken[name]

    def _onnx(self, calibration: "Calibration") -> bytes:
        from models import compile as compiler

        if not self._h.clock[1]:
            raise self._nothing()
        rows: list[tuple[float, ...]] = []
        for t in range(len(self._h.at)):
            self._flatten(t, rows)
        tree, node, feature, left = (np.array(column, np.int64) for column in list(zip(*rows, strict=True))[:4])
        threshold, normal = (np.array(column) for column in list(zip(*rows, strict=True))[4:])
        value = np.column_stack((normal, 1 / len(self._h.at) - normal))
        trees = compiler.Trees(tree, node, feature, np.nextafter(threshold, -np.inf), left, left + 1, value)
        return compiler.forest(trees, 1.0, len(self.inputs), calibration)

    def _flatten(self, t: int, rows: list[tuple[float, ...]]) -> None:
        """Rows of a tree: tree, node, feature, left, threshold, share of the largest mass; cut where mass is sparse."""
        mass, inner = self._h.mass[1, t], self._h.feature.shape[1]
        largest = self._h.mass[0].size * self._window
        queue, taken = [(0, 1.0, 0.0)], 1  # heap number, size, mass above
        for number, (heap, size, above) in enumerate(queue):
            total = above + mass[heap] * size
            if heap >= inner or mass[heap] < SPARSE * self._window:
                rows.append((t, number, -1, 0, 0.0, total / largest))
                continue
            rows.append((t, number, self._h.feature[t, heap], taken, kernels.threshold(self._h, t, heap), 0.0))
            queue += [(2 * heap + 1, 2 * size, total), (2 * heap + 2, 2 * size, total)]
            taken += 2
