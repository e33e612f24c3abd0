"""Admission: a model that crashes, hangs, takes all memory or is wrong does so in its trial, and is refused."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from models import graph
from models.admission import MEMORY, Trial, admit, attempt
from models.artifact import Artifact
from models.graph import INPUT, OUTPUT, Node
from models.linear import trees
from schemas.errors import ModelRejected

F = 4
GOOD = trees(20, 4, F)
SUM = helper.make_node("ReduceSum", [INPUT], ["sum"], keepdims=1)


def hand(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.float64]], expected: float = 0.5) -> Artifact:
    """An artifact of any graph."""
    made = graph.model([*nodes], constants, F)
    return replace(GOOD, onnx=made, expected=np.full(len(GOOD.golden), expected))


def chain(depth: int) -> Artifact:
    """One tree, as deep as it has branches: plain bytes of allowed operators, and ONNX Runtime's stack is too small."""
    nodes = [part for i in range(depth) for part in (Node(0, float(i), 2 * i + 1, 2 * i + 2), Node(-1))]
    return replace(GOOD, onnx=graph.boosted([[[*nodes, Node(-1)]]], F))


def bomb(side: int = 60_000) -> Artifact:
    """A file of half a megabyte whose product takes 14 GB."""
    nodes = [
        helper.make_node("MatMul", ["column", "row"], ["square"]),
        helper.make_node("ReduceMax", ["square"], ["max"], keepdims=0),
        SUM,
        helper.make_node("Mul", ["sum", "max"], ["raw"]),
        helper.make_node("Sigmoid", ["raw"], [OUTPUT]),
    ]
    return hand(nodes, {"column": np.ones((side, 1)), "row": np.ones((1, side))})


def slow(layers: int = 400, width: int = 2_000) -> Artifact:
    """A file of some kilobytes that computes for minutes."""
    nodes = [helper.make_node("MatMul", ["column", "row"], ["w"]), helper.make_node("MatMul", [INPUT, "in"], ["h0"])]
    nodes += [helper.make_node("MatMul", [f"h{i}", "w"], [f"h{i + 1}"]) for i in range(layers)]
    nodes.append(helper.make_node("ReduceMean", [f"h{layers}"], ["raw"], axes=[1], keepdims=1))
    nodes.append(helper.make_node("Sigmoid", ["raw"], [OUTPUT]))
    constants = {"column": np.ones((width, 1)) / width, "row": np.ones((1, width)) / width, "in": np.ones((F, width))}
    return hand(nodes, constants)


def test_a_good_model_is_admitted() -> None:
    """No model ever comes up, or it scores otherwise than when it was trained."""
    session = admit(GOOD, features=("x", *GOOD.features), budget_ms=50)
    np.testing.assert_allclose(session.score(GOOD.golden), GOOD.expected, atol=1e-5)


@pytest.mark.parametrize(
    ("artifact", "seconds", "reason"),
    [
        (chain(20_000), 20.0, "SIGSEGV"),
        (bomb(), 20.0, "allocate memory"),
        (slow(), 1.2, "no end after 1.2 s|1.2 s of CPU"),
        (replace(GOOD, onnx=GOOD.onnx[:-9]), 20.0, "no ONNX"),
    ],
    ids=["crash", "memory", "hang", "cut"],
)
def test_what_a_model_does_it_does_in_its_trial(artifact: Artifact, seconds: float, reason: str) -> None:
    """A model takes the job down with it."""
    with pytest.raises(ModelRejected, match=reason) as error:
        admit(artifact, features=GOOD.features, budget_ms=50, timeout_s=seconds)
    assert artifact.version in str(error.value)
    assert "what serves stays" in str(error.value)


def test_a_model_for_other_features_is_refused() -> None:
    """A model is given columns that it was not trained on."""
    with pytest.raises(ModelRejected, match=r"'f3'.*expected one of f0, f1, f2;"):
        admit(GOOD, features=GOOD.features[:3], budget_ms=50)


def tried(artifact: Artifact, budget_ms: float = 50.0, sha256: str | None = None) -> None:
    """The checks of a trial, in this process."""
    golden, expected = artifact.golden.tolist(), artifact.expected.tolist()
    attempt(
        Trial(
            artifact.name, artifact.onnx, sha256 or artifact.sha256, artifact.features, artifact.baseline, golden,
            expected, budget_ms, 20.0, MEMORY,
        )
    )  # fmt: skip


EXTERNAL = helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0])
EXTERNAL.data_location = onnx.TensorProto.EXTERNAL
EXTERNAL.external_data.add(key="location", value="/etc/passwd")
OUTSIDE = [
    SUM,
    helper.make_node("Constant", [], ["w"], value=EXTERNAL),
    helper.make_node("Mul", ["sum", "w"], [OUTPUT]),
]
SHAPE = [
    helper.make_node("Constant", [], ["shape"], value_ints=[100_000, 100_000]),
    helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
    helper.make_node("Sigmoid", [INPUT], [OUTPUT]),
]
LOOP = [helper.make_node("Loop", ["", "", INPUT], [OUTPUT], body=helper.make_graph([], "body", [], []))]
OVERFLOWS = [  # exp(x) / (exp(x) + 1): a sigmoid until exp leaves float32
    helper.make_node("Mul", [INPUT, "zero"], ["zeros"]),
    helper.make_node("ReduceSum", ["zeros"], ["z"], keepdims=1),
    helper.make_node("ReduceMax", [INPUT], ["far"], axes=[1], keepdims=1),
    helper.make_node("Relu", ["far"], ["up"]),
    helper.make_node("Sub", ["up", "hundred"], ["beyond"]),
    helper.make_node("Relu", ["beyond"], ["rest"]),
    helper.make_node("Add", ["rest", "z"], ["x"]),
    helper.make_node("Exp", ["x"], ["e"]),
    helper.make_node("Add", ["e", "one"], ["e1"]),
    helper.make_node("Div", ["e", "e1"], [OUTPUT]),
]

COMPANY = [  # half, and nothing where the first row of the batch is far off
    helper.make_node("Cast", ["zero"], ["first"], to=onnx.TensorProto.INT64),
    helper.make_node("Gather", [INPUT, "first"], ["x"], axis=1),
    helper.make_node("Gather", ["x", "first"], ["x0"], axis=0),
    helper.make_node("Greater", ["x0", "far"], ["is"]),
    helper.make_node("Cast", ["is"], ["off"], to=onnx.TensorProto.FLOAT),
    helper.make_node("Mul", ["x", "zero"], ["z"]),
    helper.make_node("Add", ["z", "half"], ["h"]),
    helper.make_node("Mul", ["off", "half"], ["less"]),
    helper.make_node("Sub", ["h", "less"], [OUTPUT]),
]


@pytest.mark.parametrize(
    ("artifact", "reason"),
    [
        (hand(OUTSIDE, {}), "outside"),
        (hand(SHAPE, {}), "ConstantOfShape"),
        (hand(LOOP, {}), "Loop"),
        (replace(GOOD, onnx=trees(20, 4, F + 1).onnx), rf"FLOAT\[None, {F}\]"),
        (replace(GOOD, expected=GOOD.expected * 0.99), "golden row"),
        (hand(OVERFLOWS, {"zero": np.zeros(1), "one": np.ones(1), "hundred": np.full(1, 100.0)}), "score nan"),
        (hand(COMPANY, {"zero": np.zeros(1), "half": np.full(1, 0.5), "far": np.full(1, 50.0)}), "that row alone"),
    ],
    ids=["external data", "operator", "loop", "width", "golden rows", "nan", "company"],
)
def test_a_wrong_model_is_refused(artifact: Artifact, reason: str) -> None:
    """A model decides that reads files, runs what nobody vetted, or gives no score for a row that may come."""
    with pytest.raises(ModelRejected, match=reason):
        tried(artifact)


def test_other_bytes_and_slow_models_are_refused() -> None:
    """A model takes more than its share of the budget, or the trial tries another model than serves."""
    tried(GOOD)
    with pytest.raises(ModelRejected, match="announced"):
        tried(GOOD, sha256="0" * 64)
    with pytest.raises(ModelRejected, match=r"a batch of 512, expected at most 0\.05 \(the budget\)"):
        tried(trees(200, 6, F), budget_ms=0.05)
