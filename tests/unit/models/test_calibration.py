"""Platt scaling online: probabilities from scores of models that were trained on another mixture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from models.calibration import Platt
from models.kernels.evaluation import platt
from schemas.errors import DefinitionError, ModelRejected

F64 = NDArray[np.float64]


def shifted(n: int, seed: int, kept: float = 0.03, slope: float = 0.8) -> tuple[F64, NDArray[np.bool_]]:
    """Scores as of a model that saw one negative in 1 / `kept`, and labels of which one in 70 is positive."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-5.5, 1.6, n)
    labels = rng.random(n) < 1 / (1 + np.exp(-z))
    return 1 / (1 + np.exp(-(z - np.log(kept)) / slope)), labels


def error(scores: F64, labels: NDArray[np.bool_], bins: int = 20) -> float:
    """Calibration error over equal-width bins."""
    of = np.minimum((scores * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(of, labels - scores, bins)).sum() / len(labels))


def test_prior_shift_is_undone() -> None:
    """A forest trained on thinned negatives loses every duel, because its probabilities are far too high."""
    scores, labels = shifted(60_000, 0)
    model = Platt()
    found = model.learn(scores, labels)
    assert error(scores[20_000:], labels[20_000:]) > 0.08
    assert error(found[20_000:], labels[20_000:]) < 0.005
    assert error(found, labels) < 0.005  # from the first example on
    z = np.log(scores / (1 - scores))[:, None]
    batch = LogisticRegression(C=1e6).fit(z, labels)
    assert model.slope == pytest.approx(batch.coef_[0, 0], abs=0.06)
    assert model.intercept == pytest.approx(batch.intercept_[0], abs=0.15)
    assert np.argsort(model(scores)).tolist() == np.argsort(scores).tolist()


def test_weights_stand_for_examples() -> None:
    """Thinned negatives bias the calibration although their weights are known."""
    scores, labels = shifted(200_000, 1)
    kept = labels | (np.random.default_rng(2).random(len(labels)) < 0.2)
    model = Platt()
    model.learn(scores[kept], labels[kept], np.where(labels, 1.0, 5.0)[kept])
    assert error(model(scores), labels) < 0.005


def test_memory_follows_a_change() -> None:
    """After the mixture has changed the calibration stays that of the past for good."""
    old, new = shifted(60_000, 3), shifted(60_000, 4, kept=0.5)
    forgetful, firm = Platt(memory=10_000), Platt()
    for model in (forgetful, firm):
        model.learn(*old)
        model.learn(*new)
    assert error(forgetful(new[0]), new[1]) < 0.005
    assert error(firm(new[0]), new[1]) > error(forgetful(new[0]), new[1])


rows = st.lists(st.tuples(st.floats(-14, 14), st.booleans(), st.floats(0.1, 30)), min_size=1, max_size=30)


@given(rows, st.floats(0.9, 1))
def test_kernel_is_online_newton(examples: list[tuple[float, bool, float]], keep: float) -> None:
    """The kernel's 2 × 2 algebra is not that of the matrices."""
    theta, H = np.array([1.0, 0.0]), np.eye(2)
    state, out = np.array([1.0, 0.0, 1.0, 0.0, 1.0]), []
    for z, y, w in examples:
        x = np.array([z, 1.0])
        p = 1 / (1 + np.exp(np.minimum(-theta @ x, 700)))
        H = np.eye(2) + (H - np.eye(2)) * keep + w * p * (1 - p) * np.outer(x, x)
        move = np.linalg.solve(H, w * (p - y) * x)
        theta = theta - move / max(abs(move @ x), 1.0)
        theta[0] = max(theta[0], 1e-3)
        out.append(p)
    z, y, w = (np.array(column, np.float64) for column in zip(*examples, strict=True))
    np.testing.assert_allclose(platt(state, z, y, w, keep), out, rtol=1e-6, atol=1e-9)
    assert np.isfinite(state).all()


def test_a_heavy_surprise_does_not_throw_it_off() -> None:
    """One positive that nobody expected, and that weighs much, spoils the probabilities of all that follow."""
    draw = np.random.default_rng(1)
    scores = 1 / (1 + np.exp(6.5 - 1.6 * draw.standard_normal(20_000)))
    labels = draw.random(20_000) < scores
    scores[0], labels[0] = 1e-4, True
    model = Platt()
    model.learn(scores, labels, np.full(20_000, 50.0))
    assert abs(model.intercept) < 1.0
    assert 0.7 < model.slope < 1.4


@given(st.lists(st.integers(0, 500), max_size=4))
def test_splits_and_snapshots_change_nothing(cuts: list[int]) -> None:
    """Another batch size or a restart gives other probabilities."""
    scores, labels = shifted(500, 5)
    scores[::9] = np.nan
    whole = Platt(memory=300)
    expected = whole.learn(scores, labels)
    model, start, found = Platt(memory=300), 0, []
    for end in [*sorted(cuts), 500]:
        found.append(model.learn(scores[start:end], labels[start:end]))
        model, start = Platt.restore(model.snapshot()), end
    assert np.array_equal(np.concatenate(found), expected, equal_nan=True)
    assert model.snapshot() == whole.snapshot()


def test_refusals() -> None:
    """A memory that means nothing, or foreign bytes, are taken."""
    with pytest.raises(DefinitionError, match="memory"):
        Platt(memory=0)
    with pytest.raises(ModelRejected, match="platt/1"):
        Platt.restore(b"\x80")
