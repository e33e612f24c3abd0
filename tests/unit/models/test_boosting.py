"""Training: the ONNX model is LightGBM's, and the same data give the same bytes."""

from dataclasses import replace

import lightgbm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import boosting, graph
from models.artifact import pack
from models.boosting import DAY, Boosting
from models.linear import linear
from models.onnx import Session
from schemas.errors import DefinitionError, ModelRejected

RNG = np.random.default_rng(2)
X = RNG.normal(size=(3000, 6))
X[:, 2] = np.round(X[:, 2])  # counts: values that lie on thresholds' neighbours
Y = X[:, 0] * X[:, 1] + X[:, 2] + RNG.normal(size=3000) > 2
FEATURES = tuple("abcdef")
SMALL = Boosting(trees=30, leaf_rows=10)


def test_converted_trees_are_lightgbms() -> None:
    """The served model is not the trained one."""
    rows = X.astype(np.float32)
    booster = boosting._train(rows, Y.astype(float), np.ones(len(Y)), SMALL, 30)
    a = boosting.fit(X, Y, FEATURES, "fraud", params=SMALL)
    np.testing.assert_allclose(Session(a).score(rows), booster.predict(rows), atol=1e-6, rtol=0)
    wild = np.vstack([rows[:50], np.full((1, 6), np.nan), np.full((1, 6), 0), np.full((1, 6), 1e30)])
    wild[:50, 0] = np.nan
    score = Session(a).score(wild.astype(np.float32))
    np.testing.assert_allclose(score, booster.predict(wild.astype(np.float32)), atol=1e-6, rtol=0)


def test_same_data_same_bytes() -> None:
    """A model can't be rebuilt from its recipe: its version depends on threads or on the run."""
    one = boosting.fit(X, Y, FEATURES, "fraud", params=SMALL)
    two = boosting.fit(X, Y, FEATURES, "fraud", params=replace(SMALL, threads=2))
    other = boosting.fit(X, Y, FEATURES, "fraud", params=replace(SMALL, seed=1))
    assert one.version == two.version != other.version
    assert one.recipe["rows"] == 3000


def test_thinned_negatives_weigh_for_all() -> None:
    """Negatives that tell nothing new take the time of a refit, or thinning them makes every score too high."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(60_000, 2)).astype(np.float32)
    chance = 0.02 / (1 + np.exp(-2 * rows[:, 0]))
    label = (rng.random(len(rows)) < chance).astype(np.float64)
    few = replace(SMALL, negatives=10.0)
    data, settings = boosting._dataset(rows, label, np.ones(len(rows)), few)
    thinned = data.construct()
    assert settings["min_data_in_leaf"] == 10
    assert thinned.num_data() == pytest.approx(11 * label.sum(), rel=0.1)
    assert np.asarray(thinned.get_weight()).sum() == pytest.approx(len(rows), rel=0.03)
    scores = [Session(boosting.fit(rows, label, ("a", "b"), "m", params=p)).score(rows) for p in (SMALL, few)]
    np.testing.assert_allclose([s.mean() for s in scores], chance.mean(), rtol=0.1)
    assert np.corrcoef(scores[0], scores[1])[0, 1] > 0.9
    larger = boosting._dataset(rows, label, label, replace(few, leaf_share=0.01))[1]
    assert larger["min_data_in_leaf"] == round(thinned.num_data() / 100)


def test_memories_are_averaged() -> None:
    """The short-memory member trains on all rows, or a member is left out of the score."""
    at = np.arange(3000) * DAY // 100
    short = replace(SMALL, memory_days=(10.0,))
    both = boosting.fit(X, Y, FEATURES, "m", at=at, params=replace(SMALL, memory_days=(float("inf"), 10.0)))
    members = [boosting.fit(X, Y, FEATURES, "m", at=at, params=p) for p in (SMALL, short)]
    mean = np.mean([Session(m).score(X.astype(np.float32)) for m in members], axis=0)
    np.testing.assert_allclose(Session(both).score(X.astype(np.float32)), mean, atol=1e-6)
    recent = boosting.fit(X[-1001:], Y[-1001:], FEATURES, "m", params=SMALL)
    assert members[1].version == recent.version


def test_validation_measures_and_stops_early() -> None:
    """Metrics come from rows that were trained on, or early stopping does not stop."""
    a = boosting.fit(X, Y, FEATURES, "m", params=replace(SMALL, trees=400, validation=0.3, patience=10))
    assert a.recipe["trees"] < 400  # type: ignore[operator]
    assert a.metrics["validation_rows"] == 900
    assert 0.3 < a.metrics["validation_average_precision"] < 0.95


def test_weights_correct_thinned_negatives() -> None:
    """Scores of a model trained on thinned negatives are no probabilities."""
    keep = Y | (np.random.default_rng(0).random(len(Y)) < 0.3)
    a = boosting.fit(X[keep], Y[keep], FEATURES, "m", weight=np.where(Y[keep], 1.0, 1 / 0.3), params=SMALL)
    assert Session(a).score(X.astype(np.float32)).mean() == pytest.approx(Y.mean(), rel=0.1)


def test_wrong_arguments_are_named() -> None:
    """A mistake in training data ends in a model, or in LightGBM's own words."""
    with pytest.raises(DefinitionError, match="one column a feature"):
        boosting.fit(X, Y, FEATURES[:5], "m")
    with pytest.raises(DefinitionError, match="order of time"):
        boosting.fit(X, Y, FEATURES, "m", at=np.arange(3000)[::-1])
    with pytest.raises(DefinitionError, match="at="):
        boosting.fit(X, Y, FEATURES, "m", params=Boosting(memory_days=(60.0,)))
    with pytest.raises(ModelRejected, match="labels"):
        boosting.fit(X, np.zeros(3000), FEATURES, "m")
    bad = X.copy()
    bad[::50, 3] = np.nan
    with pytest.raises(ModelRejected, match="'d'"):
        boosting.fit(bad, Y, FEATURES, "m")


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_few_rows_that_are_not_finite_are_left_out() -> None:
    """One value that no float32 holds keeps a workload from ever being trained again."""
    odd = X.copy()
    odd[7, 3], odd[9, 0] = 1e300, np.nan
    left = boosting.fit(odd, Y, FEATURES, "m", params=SMALL)
    rest = np.delete(np.arange(len(Y)), [7, 9])
    assert left.onnx == boosting.fit(X[rest], Y[rest], FEATURES, "m", params=SMALL).onnx
    assert left.recipe["left_out"] == 2


@given(st.floats(-1e38, 1e38), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_threshold_keeps_its_meaning(threshold: float, x: float) -> None:
    """A float32 value next to a threshold takes another branch in ONNX than in LightGBM."""
    t = graph.below(threshold)
    assert float(np.float32(t)) == t
    for near in (x, float(np.float32(threshold)), float(np.nextafter(np.float32(t), np.float32(np.inf)))):
        assert (near <= t) == (near <= threshold)


def test_categorical_splits_are_refused() -> None:
    """A categorical split is converted as a numerical one and scores wrongly."""
    data = lightgbm.Dataset(np.round(X[:, 2:3]) % 4, (np.round(X[:, 2]) % 4 == 1), categorical_feature=[0])
    settings = {"verbosity": -1, "max_cat_to_onehot": 1, "cat_smooth": 1, "min_data_per_group": 1}
    booster = lightgbm.train(settings, data, 2)
    with pytest.raises(ModelRejected, match="categorical"):
        list(boosting._trees(booster))


def test_linear_is_the_logistic_function() -> None:
    """A user's hand-written weights score otherwise than 1 / (1 + exp(-x)), or in another order."""
    a = linear("first", {"amount": 0.02, "count": -1.5}, 0.3, baseline={"amount": 50.0})
    assert (a.features, a.baseline) == (("amount", "count"), (50.0, 0.0))
    rows = np.array([[100, 1], [0, 0], [1e4, 0], [-1e4, 3]], np.float32)
    raw = rows[:, 0] * 0.02 - 1.5 * rows[:, 1] + 0.3
    np.testing.assert_allclose(Session(a).score(rows), 1 / (1 + np.exp(-raw.astype(float))), atol=1e-6)
    same = [pack("x", a.onnx, names, a.golden, a.expected) for names in (("a", "b"), ("a", "c"))]
    assert same[0].version != same[1].version
    other = linear("first", {"price": 0.02, "count": -1.5}, 0.3, baseline={"price": 50.0})
    assert other.version != a.version, "the registry takes models of other columns for one"
