"""Hoeffding trees and adaptive forests at work: thinning of negatives, states as bytes, and compilation.

Negatives are thinned by a hash of the event id, so that every run thins the same ones, and the trees learn what is
left as it is: each counts once in a leaf's bound, whereas weights of 1 / share would claim evidence that nobody saw.
The score's odds are multiplied by the share instead, which undoes the shift of the prior exactly.
"""

import random
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from models.kernels import adwin
from models.kernels import forest as kernels
from models.kernels.adwin import ROWS, SIZES, Windows, windows
from models.kernels.forest import Forest
from models.learning import F32, F64, Arrays, Learning, Settings, same

if TYPE_CHECKING:
    from models.compile import Calibration

_INNER, _LEAF = ("threshold", "left"), ("depth", "tried", "stats", "seen", "picks")  # kept of what kind of node
_WATCHING = ("moments", "range")


class ForestLearning(Learning):
    """`trees` trees of at most `nodes` nodes, leaves that watch `features` features; bagging `rate` 0: a plain tree."""

    def __init__(self, name: str, settings: Settings, inputs: tuple[str, ...], features: int, rate: float):
        super().__init__(name, settings, inputs)
        s = {k: float(v) for k, v in settings.items() if isinstance(v, int | float)}
        self._share, self._seed, trees = s["negatives"], int(s.get("seed", 0)), int(s.get("trees", 1))
        self._forest = _new(trees, int(s["nodes"]), features, self._seed, rate)
        self._forest.settings[:4] = s["grace"], s["delta"], s["tau"], s["depth"]
        self._warn, self._drift = windows(trees, s.get("warning", 1.0)), windows(trees, s.get("drift", 1.0))

    @property
    def drifts(self) -> int:
        """Trees that were replaced because their errors had changed."""
        return int(self._forest.tally[:, 3].sum())

    def _scores(self, rows: F32) -> F64:
        zero, one = kernels.shares(self._forest, rows).T
        with np.errstate(invalid="ignore"):
            p = self._share * one / (self._share * one + zero)
        return np.where(zero + one > 0, p, 0.5)

    def _learn(self, ids: Sequence[str], rows: F32, y: F64, weight: F64) -> None:
        if self._share < 1:
            keep = np.minimum(self._share * weight, 1.0)
            drawn = np.array([zlib.crc32(i.encode(), self._seed) for i in ids], np.float64) / 2**32
            chosen = np.flatnonzero((y > 0) | (drawn < keep))
            weight = np.where(y > 0, weight, np.maximum(self._share * weight, 1.0))[chosen]
            rows, y = rows[chosen], y[chosen]
        kernels.learn(self._forest, rows, y, weight, self._warn, self._drift)

    def _arrays(self) -> Arrays:
        f = self._forest
        masks = _masks(f)
        kept: Arrays = {n: getattr(f, n) for n in ("rng", "place", "nodes", "tally")}
        kept |= {n: getattr(f, n)[mask] for n, mask in masks.items()}
        for name, w in (("warn", self._warn), ("drift", self._drift)):
            sizes = int(w.moments[:, ROWS].max())
            kept[f"{name}.moments"] = w.moments
            kept |= {f"{name}.{n}": getattr(w, n)[:, :sizes] for n in ("used", "totals", "variances")}
        return kept

    def _take(self, arrays: Arrays) -> None:
        old = self._forest
        trees, (slots, capacity, m) = len(old.tally), old.picks.shape
        f = _new(trees, capacity, m, 0, old.settings[4])
        f.settings[:] = old.settings
        for n in ("rng", "place", "nodes", "tally"):
            getattr(f, n)[:] = same({n: arrays[n]}, {n: getattr(f, n)})[n]
        _expect(int(f.rng[-1]) <= 624 and sorted(f.place) == list(range(slots)), "a state of the random numbers, slots")
        _expect(f.nodes.min() >= -1 and f.nodes.max() <= capacity and f.nodes[f.place[:trees]].min() >= 0, "counts")
        masks = _masks(f)
        f.feature[masks["feature"]] = same({"": arrays["feature"]}, {"": f.feature[masks["feature"]]})[""]
        f.range[_masks(f)["depth"]] = np.array([np.inf, -np.inf], np.float32)
        for n in (*_INNER, *_LEAF, *_WATCHING):
            mask = _masks(f)[n]
            getattr(f, n)[mask] = same({n: arrays[n]}, {n: getattr(f, n)[mask]})[n]
        self._check(f)
        pairs = [_windows(arrays, name, w) for name, w in (("warn", self._warn), ("drift", self._drift))]
        self._forest, (self._warn, self._drift) = f, pairs

    def _check(self, f: Forest) -> None:
        """Refuse node numbers that would lead a kernel out of its arrays, or round in circles."""
        d = len(self.inputs)
        slot, node = np.nonzero(_masks(f)["left"])
        left = f.left[slot, node]
        _expect(bool((f.feature < d).all()), f"features below {d}")
        _expect(bool(((left > node) & (left + 1 < f.nodes[slot])).all()), "children behind their parents")
        picks = f.picks[_masks(f)["picks"]]
        _expect(bool(((picks >= 0) & (picks < d) | (picks[:, :1] == -1)).all()), f"watched features below {d}")

    def _onnx(self, calibration: "Calibration") -> bytes:
        from models import compile as compiler

        f, weights = self._forest, kernels.tree_weights(self._forest)
        if not weights.sum() > 0:
            raise self._nothing()
        used = np.zeros_like(f.feature, np.bool_)
        scale = np.zeros(len(f.place))
        for t in np.flatnonzero(weights):
            slot = f.place[t]
            used[slot, : f.nodes[slot]] = True
            scale[slot] = weights[t] / weights.sum()
        tree, node = np.nonzero(used)
        left = f.left[used].astype(np.int64)
        leaf = f.feature[used] < 0
        stats = np.where(leaf[:, None], f.stats[used], 1.0)
        value = scale[tree][:, None] * stats / stats.sum(axis=1, keepdims=True)
        left[leaf] = -1
        threshold = np.where(leaf, 0.0, f.threshold[used])  # where a leaf has an earlier tree's, snapshots have none
        trees = compiler.Trees(
            tree, node, f.feature[used].astype(np.int64), threshold, np.maximum(left, 0), left + 1, value
        )
        return compiler.forest(trees, self._share, len(self.inputs), calibration)


def _new(trees: int, nodes: int, features: int, seed: int, rate: float) -> Forest:
    """A forest of trees that have learned nothing; memory is taken as nodes come into use."""
    slots = 2 * trees
    count = np.repeat(np.array([0, -1]), trees)
    state = np.array(random.Random(seed).getstate()[1], np.uint32)
    each = (slots, nodes)
    return Forest(
        settings=np.array([0.0, 0.0, 0.0, 0.0, rate]),
        rng=state,
        place=np.arange(slots),
        nodes=count,
        tally=np.zeros((trees, 4)),
        feature=np.zeros(each, np.int32),
        threshold=np.zeros(each),
        left=np.zeros(each, np.int32),
        depth=np.zeros(each, np.int32),
        tried=np.zeros(each),
        stats=np.zeros((*each, 2)),
        seen=np.zeros((*each, 2)),
        picks=np.zeros((*each, features), np.int32),
        moments=np.zeros((*each, features, 2, 2)),
        range=np.zeros((*each, features, 2, 2), np.float32),
    )


def _masks(f: Forest) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    """Which nodes each of the arrays is kept of: bool[s, c]."""
    used = np.arange(f.feature.shape[1]) < f.nodes[:, None]
    inner, leaf = used & (f.feature >= 0), used & (f.feature < 0)
    watching = leaf & (f.seen.sum(axis=2) > 0) & (f.nodes[:, None] + 2 <= f.feature.shape[1])
    which = (("feature", used), *((n, inner) for n in _INNER), *((n, leaf) for n in _LEAF))
    return dict(which) | dict.fromkeys(_WATCHING, watching)


def _windows(arrays: Arrays, name: str, like: Windows) -> Windows:
    """Detectors out of a snapshot."""
    w = windows(len(like.moments), like.delta)
    w.moments[:] = same({"": arrays[f"{name}.moments"]}, {"": w.moments})[""]
    rows = w.moments[:, ROWS]
    _expect(bool(((rows >= 1) & (rows <= SIZES)).all()), "detectors with buckets")
    for n in ("used", "totals", "variances"):
        part = getattr(w, n)[:, : int(rows.max())]
        part[:] = same({n: arrays[f"{name}.{n}"]}, {n: part})[n]
    _expect(bool(((w.used >= 0) & (w.used <= adwin.BUCKETS)).all()), "detectors with room in their buckets")
    return w


def _expect(good: bool, what: str) -> None:
    if not good:
        raise ValueError(f"expected {what}")
