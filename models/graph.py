"""ONNX graphs written by hand: the few shapes that a trained model takes here.

Between training (`boosting`, `linear`, the learners' compiler) and `artifact`. Written directly because it is
exact (a threshold keeps its meaning on float32 input) and gives one float output, no labels and no ZipMap.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

INPUT, OUTPUT = "features", "score"  # float32[n, f] and float32[n, 1]
_OPSETS = (("", 17), ("ai.onnx.ml", 3))


class Node(NamedTuple):
    """One node of a binary tree kept as a list, root first; a leaf where feature < 0."""

    feature: int
    threshold: float = 0.0  # to `left` where x <= threshold
    left: int = 0
    right: int = 0
    missing_left: bool = False  # where NaN goes
    value: float = 0.0  # of a leaf


def below(threshold: float) -> float:
    """The largest float32 that is <= `threshold`: for float32 x, x <= that exactly where x <= threshold."""
    limit = float(np.finfo(np.float32).max)
    t = np.float32(min(max(threshold, -limit), limit))
    return float(t if float(t) <= threshold else np.nextafter(t, np.float32(-np.inf)))


def tree_node(trees: Sequence[Sequence[Node]], output: str, aggregate: str = "SUM") -> onnx.NodeProto:
    """The sum (or AVERAGE, MIN, MAX) of `trees` over INPUT as one operator: `output` float32[n, 1]."""
    rows = [(t, i, node) for t, tree in enumerate(trees) for i, node in enumerate(tree)]
    leaves = [(t, i, node.value) for t, i, node in rows if node.feature < 0]
    return helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT],
        [output],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function=aggregate,
        nodes_treeids=[t for t, _, _ in rows],
        nodes_nodeids=[i for _, i, _ in rows],
        nodes_featureids=[max(node.feature, 0) for _, _, node in rows],
        nodes_values=[below(node.threshold) for _, _, node in rows],
        nodes_modes=["LEAF" if node.feature < 0 else "BRANCH_LEQ" for _, _, node in rows],
        nodes_truenodeids=[node.left for _, _, node in rows],
        nodes_falsenodeids=[node.right for _, _, node in rows],
        nodes_missing_value_tracks_true=[int(node.missing_left) for _, _, node in rows],
        target_treeids=[t for t, _, _ in leaves],
        target_nodeids=[i for _, i, _ in leaves],
        target_ids=[0] * len(leaves),
        target_weights=[float(np.float32(v)) for _, _, v in leaves],
    )


def boosted(members: Sequence[Sequence[Sequence[Node]]], n_features: int) -> bytes:
    """The mean over `members` of sigmoid(sum of the member's trees), trees in log-odds."""
    nodes = []
    for i, trees in enumerate(members):
        nodes.append(tree_node(trees, f"raw{i}"))
        nodes.append(helper.make_node("Sigmoid", [f"raw{i}"], [f"score{i}"]))
    nodes.append(helper.make_node("Mean", [f"score{i}" for i in range(len(members))], [OUTPUT]))
    return model(nodes, {}, n_features)


def logistic(weights: NDArray[np.float64], bias: float) -> bytes:
    """sigmoid(x · weights + bias), weights float64[f]."""
    nodes = [
        helper.make_node("MatMul", [INPUT, "weights"], ["dot"]),
        helper.make_node("Add", ["dot", "bias"], ["raw"]),
        helper.make_node("Sigmoid", ["raw"], [OUTPUT]),
    ]
    return model(nodes, {"weights": weights.reshape(-1, 1), "bias": np.array([bias])}, len(weights))


def named(data: bytes, features: Sequence[str]) -> bytes:
    """The same model with the names of its columns in it."""
    proto = onnx.load_from_string(data)
    helper.set_model_props(proto, {"features": "\n".join(features)})
    return bytes(proto.SerializeToString(deterministic=True))


def model(nodes: Sequence[onnx.NodeProto], constants: dict[str, NDArray[np.float64]], n_features: int) -> bytes:
    """A model of `nodes` from INPUT to OUTPUT, `constants` as float32; same arguments, same bytes."""
    graph = helper.make_graph(
        list(nodes),
        "millrace",
        [helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, [None, n_features])],
        [helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(c.astype(np.float32), name) for name, c in constants.items()],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="millrace")
    return bytes(proto.SerializeToString(deterministic=True))
