"""Compiled learners: calibration inside the graph, thresholds between float32 numbers, and models that are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.calibration import Platt
from models.compile import Calibration, Trees, checked, forest, linear
from models.learners import AdaptiveForest, HalfSpaceTrees, Logistic
from models.learning import Learning
from models.onnx import Session
from schemas.errors import ModelRejected

ROWS = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
Y = (ROWS[:, 0] > 0.5).astype(np.float64)
FEATURES = ("a", "b", "c")


def taught(learner: Logistic | AdaptiveForest | HalfSpaceTrees) -> Learning:
    """One that has learned all rows."""
    made = learner.start(FEATURES)
    made.learn([f"e{i}" for i in range(len(Y))], ROWS, Y, np.ones(len(Y)))
    return made


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 3), st.floats(-8, 8))
def test_calibration_is_platts(slope: float, intercept: float) -> None:
    """What online Platt scaling learned is not what the compiled model serves."""
    p = np.array([0.0, 1e-9, 1e-6, 0.01, 0.5, 0.99, 1.0])
    platt = Platt()
    platt._s.fit[:2] = slope, intercept
    np.testing.assert_allclose(Calibration(slope, intercept)(p), platt(p), atol=1e-12)


@pytest.mark.parametrize("learner", [Logistic(rate=1.0), AdaptiveForest(negatives=0.03), HalfSpaceTrees(window=1000)])
@pytest.mark.parametrize("calibration", [(1.0, 0.0), (0.3, -1.0), (1.7, 4.0)])
def test_confident_scores_survive_float32(
    learner: Logistic | AdaptiveForest | HalfSpaceTrees, calibration: tuple[float, float]
) -> None:
    """Scores near 0 and 1 lose their log-odds on the way to ONNX."""
    made = taught(learner)
    scores = Session(made.compile("m", ROWS, *calibration)).score(ROWS)
    np.testing.assert_allclose(scores, Calibration(*calibration)(made.predict(ROWS)), atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e6, 1e6), st.integers(-2, 2))
def test_thresholds_part_float32_rows_exactly(threshold: float, ulps: int) -> None:
    """A row that is almost at a threshold falls on the other side of it in ONNX."""
    x = np.float32(threshold)
    for _ in range(abs(ulps)):
        x = np.nextafter(x, np.float32(np.inf if ulps > 0 else -np.inf))
    column = np.zeros(3, np.int64)
    tree = Trees(
        column,
        np.arange(3),
        np.array([0, -1, -1]),
        np.array([threshold, 0, 0]),
        np.array([1, 0, 0]),
        np.array([2, 0, 0]),
        np.array([[0, 0], [0.9, 0.1], [0.2, 0.8]]),
    )
    rows = np.array([[x]], np.float32)
    expected = np.array([0.1 if float(x) <= threshold else 0.8])
    checked("m", forest(tree, 1.0, 1, Calibration()), ("x",), rows, expected, {})


def test_what_scores_otherwise_is_refused() -> None:
    """A snapshot whose ONNX model disagrees with it goes live."""
    onnx = linear(np.array([1.0, 0.0, 0.0]), 0.0, Calibration())
    right = 1 / (1 + np.exp(-ROWS[:, 0].astype(np.float64)))
    checked("m", onnx, FEATURES, ROWS, right, {})
    with pytest.raises(ModelRejected, match="expected"):
        checked("m", onnx, FEATURES, ROWS, right + 1e-4 * (np.arange(len(right)) == 77), {})
    wide = Logistic().start(FEATURES)
    far = ROWS.astype(np.float64) + np.array([1e7, 0, 0])
    wide.learn(["e"] * len(Y), far, Y, np.ones(len(Y)))
    with pytest.raises(ModelRejected, match="expected"):
        wide.compile("m", far.astype(np.float32))


@pytest.mark.parametrize("learner", [Logistic(), AdaptiveForest(), HalfSpaceTrees(window=5000)])
def test_nothing_learned_is_nothing_compiled(learner: Logistic | AdaptiveForest | HalfSpaceTrees) -> None:
    """A model that knows nothing is announced."""
    with pytest.raises(ModelRejected, match="compile it later"):
        learner.start(FEATURES).compile("m", ROWS)
