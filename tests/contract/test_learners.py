"""What every learner must keep to: one suite, run on each that discovery finds."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from models.learners import AdaptiveForest, HalfSpaceTrees, HoeffdingTree, Learner, declarations
from models.learning import Learning
from models.onnx import Session
from schemas.errors import DefinitionError, ModelRejected

F64 = NDArray[np.float64]
Examples = tuple[list[str], F64, F64, F64]
INPUTS = ("amount", "count", "rate", "age", "flag")
N = 6000


def quick(kind: Callable[..., Learner]) -> Learner:
    """One that does all it can within `N` examples."""
    lively: dict[object, dict[str, float]] = {
        AdaptiveForest: {"negatives": 0.5, "trees": 5, "features": 3},
        HoeffdingTree: {"negatives": 0.5, "grace": 20, "delta": 0.1},
        HalfSpaceTrees: {"window": 500},
    }
    return kind(**lively.get(kind, {}))


@pytest.fixture(params=list(declarations()), ids=lambda kind: kind.__name__)
def learner(request: pytest.FixtureRequest) -> Learner:
    """Each in turn."""
    return quick(request.param)


@pytest.fixture(scope="module")
def examples() -> Examples:
    """Ids, rows, labels, weights; what makes a positive changes twice."""
    rng = np.random.default_rng(4)
    X = rng.lognormal(size=(N, len(INPUTS)))
    X[:, 1], X[:, 4] = np.round(5 * X[:, 1]), X[:, 4] > 1
    column = np.array([0, 2, 3])[np.arange(N) * 3 // N]
    y = (X[np.arange(N), column] * (1 + X[:, 4]) > rng.lognormal(0.8, 0.3, N)).astype(np.float64)
    return [f"id{i}" for i in range(N)], X, y, rng.choice([1.0, 1.0, 5.0], N)


def teach(learning: Learning, examples: Examples, lo: int, hi: int, step: int) -> F64:
    """Predict, then learn, `step` at a time; all predictions."""
    ids, X, y, w = examples
    found = []
    for i in range(lo, hi, step):
        part = slice(i, min(i + step, hi))
        found.append(learning.predict(X[part]))
        learning.learn(ids[part], X[part], y[part], w[part])
    return np.concatenate(found)


def test_is_a_value(learner: Learner) -> None:
    """Two equal declarations differ, or one can be changed after it was checked."""
    assert learner == type(learner)(**learner.settings)  # type: ignore[attr-defined]
    assert isinstance(hash(learner), int)
    with pytest.raises(AttributeError):
        learner.name = "other"  # type: ignore[misc]


def test_predicts_probabilities_from_the_first_row(learner: Learner, examples: Examples) -> None:
    """A score is no probability, or a new learner fails before its first example."""
    made = learner.start(INPUTS)
    scores = teach(made, examples, 0, N, 100)
    assert scores.shape == (N,)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert np.isfinite(made.predict(np.full((1, len(INPUTS)), 1e30))).all()
    assert made.predict(np.zeros((0, len(INPUTS)))).shape == (0,)
    assert made.learned == N


def test_batches_do_not_matter(learner: Learner, examples: Examples) -> None:
    """What is learned depends on how Kafka or a replay cut the stream."""
    one, many = learner.start(INPUTS), learner.start(INPUTS)
    teach(one, examples, 0, N, N)
    teach(many, examples, 0, N, 77)
    assert one.snapshot() == many.snapshot()


@pytest.mark.parametrize("cut", [0, 1, 1500, 3777])
def test_goes_on_from_a_snapshot(learner: Learner, examples: Examples, cut: int) -> None:
    """After kill -9 a learner is another than without it."""
    whole, first, second = (learner.start(INPUTS) for _ in range(3))
    expected = teach(whole, examples, 0, cut, 50) if cut else np.zeros(0)
    expected = np.concatenate([expected, teach(whole, examples, cut, N, 50)])
    found = teach(first, examples, 0, cut, 50) if cut else np.zeros(0)
    teach(second, examples, 0, 100, 50)  # what it was before is forgotten
    second.restore(first.snapshot())
    assert second.snapshot() == first.snapshot()
    found = np.concatenate([found, teach(second, examples, cut, N, 50)])
    np.testing.assert_array_equal(found, expected)
    assert second.snapshot() == whole.snapshot()
    assert len(whole.snapshot()) < 1_000_000


def test_refuses_other_snapshots(learner: Learner, examples: Examples) -> None:
    """Bytes of another learner, layout or writer become weights, or break the process."""
    made = learner.start(INPUTS)
    teach(made, examples, 0, 1000, 500)
    data = made.snapshot()
    others = [kind for kind in declarations() if kind is not type(learner)]
    wrong = [b"", b"\x80\x04K\x01.", data[:-9], data + b"x"]
    wrong += [quick(kind).start(INPUTS).snapshot() for kind in others]
    wrong += [learner.start(tuple("abcdef")).snapshot(), learner.start((*INPUTS[:-1], "other")).snapshot()]
    for bad in wrong:
        with pytest.raises(ModelRejected, match="expected"):
            made.restore(bad)
    assert made.snapshot() == data


def test_spoilt_states_are_refused_or_harmless(learner: Learner, examples: Examples) -> None:
    """Wrong node numbers lead a kernel out of its arrays: the process dies, and its checkpoint kills the next."""
    made, rng = learner.start(INPUTS), np.random.default_rng(0)
    teach(made, examples, 0, 2000, 500)
    data, kept = made.snapshot(), made._arrays()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 4
    with pytest.raises(ModelRejected, match="expected"):
        made.restore(bytes(flipped))
    for _ in range(100):
        spoilt = {name: array.copy() for name, array in kept.items()}
        array = spoilt[rng.choice(sorted(spoilt))]
        raw = array.view(np.uint8).reshape(-1)
        raw[rng.integers(0, len(raw), 3)] ^= rng.integers(1, 256, 3, dtype=np.uint8)
        other = learner.start(INPUTS)
        before = other.snapshot()
        try:
            other._take(spoilt)
        except (ValueError, IndexError):
            assert other.snapshot() == before
        else:
            teach(other, examples, 2000, 2300, 100)


def test_compiles_to_what_it_predicts(learner: Learner, examples: Examples) -> None:
    """What goes live is not what was learned."""
    made = learner.start(INPUTS)
    teach(made, examples, 0, N, 500)
    rows = examples[1].astype(np.float32)
    artifact = made.compile("fraud", rows[:3000])
    assert artifact.features == INPUTS
    assert artifact.recipe["learned"] == N
    np.testing.assert_allclose(Session(artifact).score(rows), made.predict(rows), atol=1e-5)
    assert made.compile("fraud", rows[:3000]).version == artifact.version
    calibrated = made.compile("fraud", rows[:3000], 0.7, -0.5)
    p = np.clip(made.predict(rows), 1e-6, 1 - 1e-6)
    expected = 1 / (1 + np.exp(-(0.7 * np.log(p / (1 - p)) - 0.5)))
    np.testing.assert_allclose(Session(calibrated).score(rows), expected, atol=1e-5)


def test_learns_nothing_from_nonsense(learner: Learner, examples: Examples) -> None:
    """One NaN in an example is a NaN in every score from then on."""
    ids, X, y, w = examples[0][:500], *(part[:500] for part in examples[1:])
    clean, soiled = learner.start(INPUTS), learner.start(INPUTS)
    clean.learn(ids, X, y, w)
    bad = np.full((5, len(INPUTS)), 1.0)
    bad[0, 2], bad[1, 0] = np.nan, np.inf
    labels = np.array([1.0, 0.0, 0.5, 1.0, 0.0])
    soiled.learn(
        [*ids, *"vwxyz"], np.vstack([X, bad]), np.append(y, labels), np.append(w, [1.0, 1.0, 1.0, np.inf, 0.0])
    )
    assert (soiled.learned, soiled.refused) == (505, 5)
    np.testing.assert_array_equal(soiled.predict(X), clean.predict(X))
    for i, x, label in ((ids[:-1], X, y), (ids, X[:, :2], y), (ids, X, y[:-1])):
        with pytest.raises(DefinitionError, match="expected"):
            clean.learn(i, x, label, w)
