"""Learners compute what River computes, thin their negatives fairly, and refuse settings that make no sense."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from river import anomaly, drift, forest, linear_model, optim, preprocessing, tree

from models.kernels import adwin
from models.kernels.random import below, poisson, uniform
from models.learners import AdaptiveForest, HalfSpaceTrees, HoeffdingTree, Logistic
from schemas.errors import DefinitionError

F64 = NDArray[np.float64]
NAMES = tuple(f"f{i:02d}" for i in range(12))


def drifting(n: int, seed: int = 0) -> tuple[list[str], F64, F64]:
    """`n` examples of float32 features, some of whole numbers; what makes a positive changes half-way."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, len(NAMES)))
    X[:, 3] = np.round(2 * X[:, 3])
    old = np.arange(n) < n // 2
    raw = np.where(old, 2 * X[:, 0] + X[:, 1] * X[:, 3], 3 * X[:, 5] - 2 * X[:, 0]) - 1
    y = (rng.random(n) < 1 / (1 + np.exp(-raw))).astype(np.float64)
    return [f"e{seed}-{i}" for i in range(n)], X.astype(np.float32).astype(np.float64), y


def river_rows(X: F64) -> list[dict[str, float]]:
    """As River takes them."""
    return [dict(zip(NAMES, row, strict=True)) for row in X.tolist()]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 30), st.integers(1, 1000))
def test_random_numbers_are_pythons(seed: int, rate: float, n: int) -> None:
    """A forest draws other features and weights than River's with the same seed."""
    state, theirs = np.array(random.Random(seed).getstate()[1], np.uint32), random.Random(seed)
    assert [uniform(state) for _ in range(700)] == [theirs.random() for _ in range(700)]
    assert [below(state, n) for _ in range(50)] == [theirs.randrange(n) for _ in range(50)]
    assert np.mean([poisson(state, rate) for _ in range(400)]) == pytest.approx(rate, abs=6 * (rate / 400) ** 0.5)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.integers(0, 99), st.sampled_from([0.002, 0.1]))
def test_adwin_is_rivers(levels: list[float], seed: int, delta: float) -> None:
    """Drift is seen at another example than River sees it, or its window forgets another part."""
    values = (np.random.default_rng(seed).random(400 * len(levels)) < np.repeat(levels, 400)).astype(float)
    ours, theirs = adwin.windows(1, delta), drift.ADWIN(delta)
    for value in values.tolist():
        theirs.update(value)
        assert adwin.update(ours, 0, value) == theirs.drift_detected
        assert ours.moments[0, adwin.WIDTH] == theirs.width
        if theirs.drift_detected:
            adwin.reset(ours, 0)


@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_logistic_is_rivers(l2: float) -> None:
    """The kernel learns something else than StandardScaler | LogisticRegression."""
    ids, X, y = drifting(2000)
    X[:, 7] = 3.0  # without variance
    weight = np.random.default_rng(1).uniform(0.1, 40, len(y))
    ours = Logistic(rate=0.03, l2=l2).start(NAMES)
    scaler = preprocessing.StandardScaler()
    theirs = linear_model.LogisticRegression(optim.SGD(0.03), l2=l2, intercept_lr=0.03)
    for i, row in enumerate(river_rows(X)):
        expected = theirs.predict_proba_one(scaler.transform_one(row))[True]
        assert ours.predict(X[i : i + 1])[0] == pytest.approx(expected, abs=1e-12)
        scaler.learn_one(row)
        theirs.learn_one(scaler.transform_one(row), bool(y[i]), w=weight[i])
        ours.learn(ids[i : i + 1], X[i : i + 1], y[i : i + 1], weight[i : i + 1])


@pytest.mark.parametrize("features", [3, 12])
def test_forest_is_rivers(features: int) -> None:
    """Trees split, drift or weigh their votes otherwise than River's adaptive random forest."""
    ids, X, y = drifting(3000, features)
    ours = AdaptiveForest(trees=3, negatives=1.0, features=features, seed=5).start(NAMES)
    theirs = forest.ARFClassifier(3, max_features=features, seed=5, leaf_prediction="mc")
    for i, row in enumerate(river_rows(X)):
        expected = theirs.predict_proba_one(row).get(True, 0.0) if i else 0.5
        assert ours.predict(X[i : i + 1])[0] == pytest.approx(expected, abs=1e-12)
        theirs.learn_one(row, bool(y[i]))
        ours.learn(ids[i : i + 1], X[i : i + 1], y[i : i + 1], np.ones(1))
    assert theirs.n_drifts_detected() > 0


def test_restored_forests_make_the_same_bytes() -> None:
    """If this fails, a restart makes another version of what a forest knows, where a tree has taken another's place."""
    ids, X, y = drifting(3000)
    ours = AdaptiveForest(trees=3, negatives=1.0, features=3, seed=5)
    one = ours.start(NAMES)
    for begin in range(0, 3000, 100):
        part = slice(begin, begin + 100)
        one.learn(ids[part], X[part], y[part], np.ones(100))
        other = ours.start(NAMES)
        other.restore(one.snapshot())
        assert other.compile("forest", X[:5]).onnx == one.compile("forest", X[:5]).onnx


def test_tree_is_rivers() -> None:
    """One tree splits otherwise than River's, with weights."""
    ids, X, y = drifting(4000)
    weight = np.random.default_rng(1).uniform(0.1, 3, len(y))
    ours = HoeffdingTree(grace=50, delta=0.01).start(NAMES)
    theirs = tree.HoeffdingTreeClassifier(50, delta=0.01, leaf_prediction="mc")
    for i, row in enumerate(river_rows(X)):
        expected = theirs.predict_proba_one(row).get(True, 0.0) if i else 0.5
        assert ours.predict(X[i : i + 1])[0] == pytest.approx(expected, abs=1e-12)
        theirs.learn_one(row, bool(y[i]), w=weight[i])
        ours.learn(ids[i : i + 1], X[i : i + 1], y[i : i + 1], weight[i : i + 1])
    assert theirs.n_leaves > 10


def test_half_spaces_are_rivers() -> None:
    """Rows are anomalous otherwise than for MinMaxScaler | HalfSpaceTrees."""
    ids, X, y = drifting(1200)
    X[:, 7] = 3.0
    ours = HalfSpaceTrees(trees=4, height=5, window=100, seed=3).start(NAMES)
    theirs = preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(4, 5, 100, seed=3)
    for i, row in enumerate(river_rows(X)):
        if i:
            assert ours.predict(X[i : i + 1])[0] == pytest.approx(theirs.score_one(row), abs=1e-12)
        theirs.learn_one(row)
        ours.learn(ids[i : i + 1], X[i : i + 1], y[i : i + 1], np.ones(1))


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_thinned_negatives_leave_probabilities_as_they_are(weight: float) -> None:
    """A learner that skips most negatives cries wolf, or a re-run skips others."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30_000, len(NAMES)))
    y = (rng.random(30_000) < np.where(X[:, 0] > 0, 0.05, 0.01)).astype(float)
    kept = np.flatnonzero((y > 0) | (rng.random(30_000) < 1 / weight))  # as the join thins unalerted events
    ids, Z, w = [f"e{i}" for i in kept], X[kept], np.where(y > 0, 1.0, weight)[kept]
    for kind in (HoeffdingTree, AdaptiveForest):
        one, two = kind(negatives=0.1).start(NAMES), kind(negatives=0.1).start(NAMES)
        one.learn(ids, Z, y[kept], w)
        two.learn(ids, Z, y[kept], w)
        assert one.snapshot() == two.snapshot()
        assert one.predict(X).mean() == pytest.approx(y.mean(), rel=0.12)


def test_full_trees_stop_growing() -> None:
    """State grows for ever, or a kernel writes behind its arrays."""
    ids, X, y = drifting(3000)
    full = AdaptiveForest(negatives=1.0, nodes=8, trees=2).start(NAMES)
    for _ in range(3):
        full.learn(ids, X, y, np.ones(3000))
        assert len(full.snapshot()) < 20_000


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Logistic(rate=-1),
        lambda: Logistic(rate=float("nan")),
        lambda: Logistic(name="No Name"),
        lambda: AdaptiveForest(negatives=0.0),
        lambda: AdaptiveForest(trees=2.5),  # type: ignore[arg-type]
        lambda: AdaptiveForest(trees=True),
        lambda: HoeffdingTree(delta=2.0),
        lambda: HalfSpaceTrees(height=99),
        lambda: AdaptiveForest(features=20).start(NAMES),
        lambda: Logistic().start(()),
        lambda: Logistic().start(("a", "a")),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: object) -> None:
    """A typo in a workload is found weeks later, in what was not learned."""
    with pytest.raises(DefinitionError, match="expected"):
        wrong()  # type: ignore[operator]
