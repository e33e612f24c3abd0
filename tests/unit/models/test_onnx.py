"""Scoring: what is refused, and that a row's score is its own whatever batch it comes in."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models import graph
from models.artifact import Artifact
from models.linear import linear, trees
from models.onnx import LIMIT, Session, check
from schemas.errors import ModelRejected

F = 13
ROWS = (3 * np.random.default_rng(5).normal(size=(300, F))).astype(np.float32)


def hand(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.float64]]) -> Artifact:
    """An artifact of any graph; its expected scores are its own."""
    base = trees(2, 2, F)
    made = replace(base, onnx=graph.model(nodes, constants, F), expected=np.full(len(base.golden), 0.5))
    import onnxruntime

    session = onnxruntime.InferenceSession(made.onnx, providers=["CPUExecutionProvider"])
    return replace(made, expected=session.run(None, {graph.INPUT: made.golden})[0][:, 0].astype(np.float64))


@cache
def session(kind: str) -> Session:
    """One session a kind of graph."""
    weights = np.linspace(-1, 1, F)
    if kind == "trees":
        return Session(trees(100, 5, F))
    if kind == "one tree":
        return Session(trees(1, 3, F))
    if kind == "matmul":
        return Session(linear("lin", {f"f{i}": float(w) for i, w in enumerate(weights)}, 0.1))
    if kind == "reduce":
        nodes = [
            helper.make_node("Mul", [graph.INPUT, "w"], ["m"]),
            helper.make_node("ReduceMean", ["m"], ["r"], axes=[1], keepdims=1),
            helper.make_node("Sigmoid", ["r"], [graph.OUTPUT]),
        ]
        return Session(hand(nodes, {"w": weights.reshape(1, F)}))
    nodes = [
        helper.make_node("MatMul", [graph.INPUT, "a"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Gemm", ["t", "b"], ["r"]),
        helper.make_node("Sigmoid", ["r"], [graph.OUTPUT]),
    ]
    rng = np.random.default_rng(3)
    return Session(hand(nodes, {"a": rng.normal(size=(F, 32)), "b": rng.normal(size=(32, 1))}))


@pytest.mark.parametrize("kind", ["trees", "one tree", "matmul", "reduce", "network"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_split_does_not_change_bits(kind: str, data: st.DataObject) -> None:
    """Replay and Flink, which batch differently, write different decisions."""
    s = session(kind)
    order = data.draw(st.permutations(range(len(ROWS)))) if data.draw(st.booleans()) else range(len(ROWS))
    rows = ROWS[list(order)]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(ROWS)), max_size=12)) | {0, 1, len(ROWS)})
    parts = np.concatenate([s.score(rows[a:b]) for a, b in pairwise(cuts)])
    np.testing.assert_array_equal(parts, s.score(ROWS)[list(order)])


@pytest.mark.parametrize("kind", ["trees", "matmul", "reduce", "network"])
def test_one_by_one(kind: str) -> None:
    """A row that comes alone is decided otherwise than in company."""
    s = session(kind)
    np.testing.assert_array_equal([s.score(r[None])[0] for r in ROWS], s.score(ROWS))
    assert s.score(ROWS[:0]).shape == (0,)


LOOKED_UP = [  # a table by the number in the first column
    helper.make_node("Slice", [graph.INPUT, "zero", "one", "one"], ["x"]),
    helper.make_node("Cast", ["x"], ["i"], to=onnx.TensorProto.INT64),
    helper.make_node("Squeeze", ["i", "one"], ["at"]),
    helper.make_node("Gather", ["table", "at"], [graph.OUTPUT], axis=0),
]


def looked_up(padded: bool) -> Artifact:
    """A model that raises for a number that its table does not have; in calls of one size, if `padded`."""
    nodes = LOOKED_UP[:]
    if padded:
        nodes[-1] = helper.make_node("Gather", ["table", "at"], ["y"], axis=0)
        nodes += [helper.make_node("Tanh", ["y"], ["t"]), helper.make_node("Abs", ["t"], [graph.OUTPUT])]
    base = trees(2, 2, F)
    base = replace(base, golden=np.abs(base.golden) % 2)
    made = graph.model(nodes, {"table": np.array([[0.1], [0.2]])}, F)
    proto = onnx.ModelProto.FromString(made)
    for name, value in (("zero", 0), ("one", 1)):
        proto.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    said = np.array([0.1, 0.2])[base.golden[:, 0].astype(int)]
    return replace(base, onnx=proto.SerializeToString(), expected=np.tanh(said) if padded else said)


@pytest.mark.parametrize("padded", [False, True])
def test_what_a_model_cannot_compute_is_no_answer_to_that_row_alone(padded: bool) -> None:
    """If this fails, a missing value that a model looks up ends the job, in a loop, or takes others' scores with it."""
    s = Session(looked_up(padded))
    rows = np.zeros((300, F), np.float32)
    rows[::2, 0], rows[[7, 290], 0] = 1, np.nan
    expected = np.where(rows[:, 0] == 1, 0.2, np.where(np.isnan(rows[:, 0]), np.nan, 0.1))
    for _ in range(2):
        np.testing.assert_allclose(s.score(rows), np.tanh(expected) if padded else expected, rtol=1e-6)
        assert np.isnan(s.score(rows[7:8])).all()
        assert np.isfinite(s.score(rows[:3])).all()


def test_bytes_of_two_formats_are_read_as_the_one_that_was_checked() -> None:
    """If this fails, a file that looks like ONNX Runtime's own format brings operators that nobody vetted."""
    good = trees(20, 4, F)
    both = replace(good, onnx=b"\x68\x00\x62\x03ORTM\0\0\0\0" + good.onnx)  # fields that no model has, then one
    np.testing.assert_allclose(Session(both).score(good.golden), good.expected, atol=1e-5)


def test_only_what_needs_it_is_padded() -> None:
    """A single event scored by trees costs as much as 64."""
    sizes = [None if (b := session(k)._buffer) is None else len(b) for k in ("trees", "matmul", "reduce")]
    assert sizes == [None, 64, 1]


def test_contributions_are_ablation() -> None:
    """Reason codes name a feature that did not raise the score."""
    s, base = session("matmul"), np.zeros(F, np.float32)
    found = s.contributions(ROWS[:9], base)
    naive = np.empty((9, F))
    for i in range(9):
        for j in range(F):
            row = ROWS[i].copy()
            row[j] = 0
            naive[i, j] = s.score(ROWS[i : i + 1])[0] - s.score(row[None])[0]
    np.testing.assert_array_equal(found, naive)
    assert s.contributions(ROWS[:0]).shape == (0, F)


def test_golden_rows_and_sha_are_compared() -> None:
    """A model that is not the one announced, or scores otherwise than when it was trained, serves."""
    a = trees(4, 2, F)
    with pytest.raises(ModelRejected, match="golden row"):
        Session(replace(a, expected=a.expected + 1e-4))
    with pytest.raises(ModelRejected, match="announced"):
        Session(a, sha256="0" * 64)
    Session(a, sha256=a.sha256)


def proto() -> onnx.ModelProto:
    """A good model to damage."""
    made: onnx.ModelProto = onnx.ModelProto.FromString(graph.logistic(np.ones(3), 0.0))
    return made


def external(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """The tensor, its data said to be in a file."""
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


FLOAT = onnx.TensorProto.FLOAT
INDEX = numpy_helper.from_array(np.zeros(1, np.int64), "i")
OUTSIDE = external(numpy_helper.from_array(np.ones(1, np.float32), "c"))
INNER = helper.make_graph([], "inner", [], [], [OUTSIDE])
IN_SUBGRAPH = helper.make_node("Identity", ["dot"], ["e"], body=INNER)
IN_ATTRIBUTE = helper.make_node("Constant", [], ["c"], value=OUTSIDE)
SPARSE = helper.make_sparse_tensor(OUTSIDE, INDEX, [3])
ZIPMAP = helper.make_node("ZipMap", ["dot"], ["z"], domain="ai.onnx.ml")
MORE = helper.make_tensor_value_info("more", FLOAT, [None, 1])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda m: external(m.graph.initializer[0]), "outside"),
        (lambda m: m.graph.sparse_initializer.append(SPARSE), "outside"),
        (lambda m: m.graph.node.append(IN_ATTRIBUTE), "outside"),
        (lambda m: m.graph.node.append(IN_SUBGRAPH), "outside"),
        (lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)), "com.microsoft"),
        (lambda m: setattr(m.graph.node[0], "domain", "evil"), "evil.MatMul"),
        (lambda m: setattr(m.graph.node[0], "op_type", "Loop"), "Loop"),
        (lambda m: m.graph.node.append(ZIPMAP), "zipmap=False"),
        (lambda m: m.functions.add(name="Add"), "FunctionProto"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1), r"\[1, 3\]"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 11), "DOUBLE"),
        (lambda m: m.graph.input.append(MORE), "inputs"),
        (lambda m: m.graph.output.append(MORE), "outputs"),
    ],
)
def test_dangerous_models_are_refused(damage: Callable[[onnx.ModelProto], object], reason: str) -> None:
    """A model reads files outside of it, runs what nobody vetted, or has other ports than the features."""
    m = proto()
    check(m.SerializeToString(), 3)
    damage(m)
    with pytest.raises(ModelRejected, match=reason):
        check(m.SerializeToString(), 3)


def test_wrong_bytes_are_refused() -> None:
    """Garbage, an oversized model or another number of features ends in a traceback or is loaded."""
    for model, n in ((b"garbage", 3), (b"\0" * (LIMIT + 1), 3), (graph.logistic(np.ones(3), 0.0), 4)):
        with pytest.raises(ModelRejected):
            check(model, n)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([helper.make_node("Log", ["neg"], [graph.OUTPUT])], "from 0 to 1"),
        ([helper.make_node("Mul", ["neg", "neg"], [graph.OUTPUT])], "from 0 to 1"),
        ([helper.make_node("Softmax", ["neg"], [graph.OUTPUT], axis=0)], "golden row"),
        ([helper.make_node("MatMul", ["neg", "w"], [graph.OUTPUT])], "ONNX Runtime refused"),
    ],
)
def test_bad_outputs_are_refused(nodes: list[onnx.NodeProto], reason: str) -> None:
    """A model that gives NaN, no probability, or mixes rows decides events."""
    first = [
        helper.make_node("ReduceSumSquare", [graph.INPUT], ["sq"], axes=[1], keepdims=1),
        helper.make_node("Neg", ["sq"], ["neg"]),
    ]
    bad = graph.model([*first, *nodes], {"w": np.ones((5, 1))}, F)
    with pytest.raises(ModelRejected, match=reason):
        Session(replace(trees(4, 2, F), onnx=bad))
