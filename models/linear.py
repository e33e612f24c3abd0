"""Models written rather than trained: a logistic one from weights by hand, and trees at random.

The first lets a workload start before it has a label; the second is the reference load of the benches.
"""

from collections.abc import Mapping

import numpy as np

from models.artifact import GOLDEN, Artifact, pack
from schemas.errors import DefinitionError


def linear(
    name: str, weights: Mapping[str, float], bias: float = 0.0, baseline: Mapping[str, float] | None = None
) -> Artifact:
    """score = 1 / (1 + exp(-(bias + Σ weight · feature))), features in the order of `weights`.

    `baseline` is what a feature's value usually is (0 where not given); reason codes compare with it.
    """
    from models import graph  # brings onnx, which commands that only read a workload can do without

    if not weights or not np.isfinite([*weights.values(), bias, *(baseline or {}).values()]).all():
        found = f"found {dict(weights)}, bias={bias}, baseline={baseline}"
        raise DefinitionError(f'linear({name!r}, …): {found}, expected finite numbers, as {{"amount": 0.04}}')
    w = np.array(list(weights.values()), np.float64)
    usual = np.array([(baseline or {}).get(f, 0.0) for f in weights], np.float64)
    scale = 1 / np.maximum(np.abs(w) * np.sqrt(max(len(w), 1)), 1e-3)  # golden rows over the sigmoid's whole range
    rows = (usual + 4 * scale * np.random.default_rng(0).normal(size=(GOLDEN, len(w)))).astype(np.float32)
    w32, b32 = w.astype(np.float32).astype(np.float64), float(np.float32(bias))
    raw = rows.astype(np.float64) @ w32 + b32
    scores = np.exp(-np.logaddexp(0.0, -raw))
    recipe = {"how": "models.linear.linear", "weights": dict(weights), "bias": bias}
    made = pack(name, graph.logistic(w, bias), tuple(weights), rows, scores, recipe=recipe)
    return Artifact(name, made.onnx, made.features, tuple(usual.tolist()), made.golden, made.expected, recipe)


def trees(n: int = 100, depth: int = 5, n_features: int = 27, seed: int = 0, name: str = "trees") -> Artifact:
    """A boosted ensemble of `n` full random trees over features f0, f1, … that are about N(0, 1).

    It costs what a trained one of that size costs and means nothing. The same arguments give the same bytes.
    """
    from models import graph

    rng = np.random.default_rng(seed)
    inner, size = 2**depth - 1, 2 ** (depth + 1) - 1
    feature = rng.integers(0, n_features, (n, inner))
    threshold = rng.normal(size=(n, inner)).astype(np.float32)
    value = (rng.normal(size=(n, size)) / np.sqrt(n)).astype(np.float32)
    forest = [
        [
            graph.Node(int(feature[t, i]), float(threshold[t, i]), 2 * i + 1, 2 * i + 2)
            if i < inner
            else graph.Node(-1, value=float(value[t, i]))
            for i in range(size)
        ]
        for t in range(n)
    ]
    rows = rng.normal(size=(GOLDEN, n_features)).astype(np.float32)
    at = np.zeros((GOLDEN, n), np.int64)  # the node that each row is at, in each tree
    for _ in range(depth):
        tree = np.arange(n)
        right = np.take_along_axis(rows, feature[tree, at], axis=1) > threshold[tree, at]
        at = 2 * at + 1 + right
    raw = value[np.arange(n), at].astype(np.float64).sum(axis=1)
    scores = 1 / (1 + np.exp(-raw))
    recipe = {"how": "models.linear.trees", "n": n, "depth": depth, "n_features": n_features, "seed": seed}
    names = tuple(f"f{i}" for i in range(n_features))
    return pack(name, graph.boosted([forest], n_features), names, rows, scores, recipe=recipe)
