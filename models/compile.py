"""What a learner has learned as an ONNX artifact that the hot path can score with.

Between the resident learner and the registry. A linear model folds scaler and weights into one product; trees become
one TreeEnsembleRegressor that sums, for both classes, what the leaves serve: two small sums keep their ratio precise
in float32 where a difference from 1 would not. A canary batch must score as the learner did, or nothing comes out.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from models import graph
from models.artifact import Artifact, pack
from models.onnx import TOLERANCE, Session
from schemas.errors import ModelRejected

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]

CLIP = 1e-6  # scores nearer to 0 and 1 are calibrated as if they were this near
LOGIT = math.log((1 - CLIP) / CLIP)


class Calibration(NamedTuple):
    """sigmoid(slope · logit(p) + intercept) in place of p: Platt scaling of a compiled score."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, p: F64) -> F64:
        """Calibrated p f64[k]."""
        if self == Calibration():
            return p
        q = np.clip(p, CLIP, 1 - CLIP)
        return np.asarray(1 / (1 + np.exp(-(self.slope * np.log(q / (1 - q)) + self.intercept))))

    def nodes(self, raw: str) -> tuple[list[NodeProto], dict[str, F64]]:
        """From log-odds `raw` to the output, and the constants for it."""
        constants = {k: np.array(v) for k, v in (("low", -LOGIT), ("high", LOGIT))}
        constants |= {k: np.array([v]) for k, v in self._asdict().items()}
        return [
            helper.make_node("Clip", [raw, "low", "high"], ["clipped"]),
            helper.make_node("Mul", ["clipped", "slope"], ["sloped"]),
            helper.make_node("Add", ["sloped", "intercept"], ["calibrated"]),
            helper.make_node("Sigmoid", ["calibrated"], [graph.OUTPUT]),
        ], constants


class Trees(NamedTuple):
    """Nodes of several trees, one row each, the first of a tree its root; `value` are the two classes' shares."""

    tree: NDArray[np.int64]
    node: NDArray[np.int64]  # number within its tree, from 0
    feature: NDArray[np.int64]  # -1: a leaf
    threshold: F64  # to `left` where x <= threshold
    left: NDArray[np.int64]  # numbers within the tree
    right: NDArray[np.int64]
    value: F64  # [n, 2], read where a leaf


def linear(weights: F64, bias: float, calibration: Calibration) -> bytes:
    """sigmoid(x · weights + bias), calibrated; weights f64[d]."""
    if calibration == Calibration():
        return graph.logistic(weights, bias)
    nodes, constants = calibration.nodes("raw")
    dot = helper.make_node("MatMul", [graph.INPUT, "weights"], ["dot"])
    add = helper.make_node("Add", ["dot", "bias"], ["raw"])
    constants |= {"weights": weights.reshape(-1, 1), "bias": np.array([bias])}
    return graph.model([dot, add, *nodes], constants, len(weights))


def _ensemble(trees: Trees) -> NodeProto:
    leaves = np.flatnonzero(trees.feature < 0).repeat(2)
    return helper.make_node(
        "TreeEnsembleRegressor",
        [graph.INPUT],
        ["shares"],
        domain="ai.onnx.ml",
        n_targets=2,
        nodes_treeids=trees.tree.tolist(),
        nodes_nodeids=trees.node.tolist(),
        nodes_featureids=np.maximum(trees.feature, 0).tolist(),
        nodes_values=[graph.below(t) for t in trees.threshold.tolist()],
        nodes_modes=["LEAF" if leaf else "BRANCH_LEQ" for leaf in (trees.feature < 0).tolist()],
        nodes_truenodeids=trees.left.tolist(),
        nodes_falsenodeids=trees.right.tolist(),
        target_treeids=trees.tree[leaves].tolist(),
        target_nodeids=trees.node[leaves].tolist(),
        target_ids=np.tile([0, 1], len(leaves) // 2).tolist(),
        target_weights=trees.value.astype(np.float32)[trees.feature < 0].ravel().tolist(),
    )


def forest(trees: Trees, odds: float, n_features: int, calibration: Calibration) -> bytes:
    """odds · p₁ / (odds · p₁ + p₀) of the summed shares p₀, p₁ of the leaves, calibrated.

    `odds` undoes a thinning of class 0 to that share.
    """
    nodes = [
        _ensemble(trees),
        helper.make_node("Split", ["shares"], ["zero", "one"], axis=1),
        helper.make_node("Mul", ["one", "odds"], ["thinned"]),
    ]
    constants = {"odds": np.array([odds])}
    if calibration == Calibration():
        nodes.append(helper.make_node("Add", ["thinned", "zero"], ["whole"]))
        nodes.append(helper.make_node("Div", ["thinned", "whole"], [graph.OUTPUT]))
        return graph.model(nodes, constants, n_features)
    least = "least"  # shares of leaves without the other class: the logarithm must stay finite
    for name in ("thinned", "zero"):
        nodes.append(helper.make_node("Max", [name, least], [f"{name}_some"]))
        nodes.append(helper.make_node("Log", [f"{name}_some"], [f"{name}_log"]))
    nodes.append(helper.make_node("Sub", ["thinned_log", "zero_log"], ["raw"]))
    more, others = calibration.nodes("raw")
    return graph.model(nodes + more, constants | others | {least: np.array([1e-30])}, n_features)


def checked(
    name: str, onnx: bytes, inputs: tuple[str, ...], rows: F32, scores: F64, recipe: dict[str, object]
) -> Artifact:
    """An artifact of `onnx` whose scores of the canary `rows` f32[n, d] are the learner's `scores` f64[n], to 1e-5.

    Golden rows and baseline come from the same rows. Raises ModelRejected where the scores differ.
    """
    artifact = pack(name, onnx, inputs, rows, scores, recipe=recipe)
    off = np.abs(Session(artifact).score(rows) - scores)
    worst = int(np.argmax(off))
    if not off[worst] <= TOLERANCE:
        found = f"an ONNX score {off[worst]:.3g} off the learner's {scores[worst]!r}"
        raise ModelRejected(
            f"model {name!r}, canary row {worst}: found {found}, expected at most {TOLERANCE}; "
            "float32 cannot hold what was learned: scale the features"
        )
    return artifact
