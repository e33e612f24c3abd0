"""Drift: what moved is named, what only varies is not, and ADWIN is River's."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from river.drift import ADWIN

from models.drift import Adwin, Reference, Watch, loss, psi
from models.kernels.evaluation import count
from models.rules import drift
from schemas.errors import DefinitionError, ModelRejected
from schemas.time import MILLISECONDS

F64 = NDArray[np.float64]
DAY = MILLISECONDS["d"]
NAMES = ("amount", "weekend", "seen", "score")


def days(first: int, last: int, scale: float = 1.0, a_day: int = 2000) -> tuple[F64, NDArray[np.int64]]:
    """Rows of a skewed column, one that follows the weekday, one that is mostly missing and a score; their times."""
    rng = np.random.default_rng(first)
    n = (last - first) * a_day
    at = first * DAY + np.sort(rng.integers(0, (last - first) * DAY, n))
    columns = rng.lognormal(3, 1, n) * scale, at // DAY % 7 >= 5, np.where(rng.random(n) < 0.9, np.nan, 1.0)
    return np.column_stack((*columns, np.round(rng.beta(1, 30, n), 6))), at


REFERENCE = Reference.of(days(0, 28)[0], NAMES, days(0, 28)[1])


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(-5, 5) | st.just(np.nan), min_size=2, max_size=2), min_size=1, max_size=40),
    st.lists(st.floats(-5, 5), min_size=1, max_size=5, unique=True).map(sorted),
)
def test_bins(rows: list[list[float]], edges: list[float]) -> None:
    """A value is counted in another bin than the one that holds it."""
    table = np.full((2, len(edges)), np.inf)
    table[0] = edges
    table[1, 0] = edges[0]
    weight = np.arange(1.0, len(rows) + 1)
    found, naive = np.zeros((2, len(edges) + 2)), np.zeros((2, len(edges) + 2))
    count(found, table, np.array(rows), weight)
    for w, row in zip(weight, rows, strict=True):
        for c, x in enumerate(row):
            naive[c, len(edges) + 1 if np.isnan(x) else sum(x > e for e in table[c])] += w
    assert (found == naive).all()


def test_psi_is_its_definition() -> None:
    """The index is not Σ (p - q) log(p / q), or an empty bin makes it infinite."""
    p, q = np.array([[30.0, 50.0, 20.0]]), np.array([[600.0, 300.0, 100.0]])
    terms = [(a - b) * np.log(a / b) for a, b in ((0.3, 0.6), (0.5, 0.3), (0.2, 0.1))]
    assert psi(p, q)[0] == pytest.approx(sum(terms))
    assert psi(q, q)[0] == 0
    assert 0.2 < psi(np.array([[0.0, 100.0]]), np.array([[50.0, 50.0]]))[0] < 10


def test_no_false_alarms() -> None:
    """Weekends, missing values or chance raise an alarm: nobody reads the next one."""
    rows, at = days(28, 128)
    watch = Watch(drift(), REFERENCE)
    assert watch.add(rows, at) == []
    assert max(watch.report()[name]["psi"] for name in ("amount", "seen", "score")) < 0.05
    bare = Reference.of(days(0, 28)[0], NAMES)
    assert [s.name for s in Watch(drift(), bare).add(rows[:30_000], at[:30_000])] == ["weekend"]


def test_what_moved_is_named() -> None:
    """A signal does not come, names another column, or does not say since when."""
    before, after = days(28, 40), days(40, 50, scale=3.0)
    watch = Watch(drift(), REFERENCE)
    assert watch.add(*before) == []
    rows, at = after
    rows[at >= 43 * DAY, 2] = np.nan
    signals = watch.add(rows, at)
    assert [(s.kind, s.name, s.since) for s in signals] == [("psi", "amount", 40 * DAY), ("psi", "seen", 43 * DAY)]
    assert signals[0].found > 0.2 > signals[0].expected
    assert 41 * DAY <= signals[0].at < 41 * DAY + MILLISECONDS["h"]
    assert watch.report()["amount"]["since"] == 40 * DAY
    watch.add(*days(50, 53))
    assert watch.report()["amount"]["since"] == -1


def test_late_labels_say_since_when() -> None:
    """Where most labels are presumed after a month, a change is said to be a month younger than it is."""
    (old, before), (new, after) = days(28, 60), days(60, 110, scale=3.0)
    rows, at = np.concatenate((old, new)), np.concatenate((before, after))
    late = np.random.default_rng(1).random(len(at)) < 0.95
    order = np.argsort(np.where(late, at + 30 * DAY, at), kind="stable")
    signals = Watch(drift(), REFERENCE).add(rows[order], at[order])
    assert signals[0].name == "amount"
    assert 57 * DAY <= signals[0].since <= 63 * DAY


def test_outside_of_the_training_range() -> None:
    """A column that was constant, or a value never seen in training, can change without a signal."""
    rows = np.column_stack((np.full(3000, 7.0), np.random.default_rng(0).random(3000)))
    rule, reference = drift(psi=0.1, rows=100), Reference.of(rows, ("constant", "share"))
    moved = rows[:1000] - np.array([1.0, 0.0])
    moved[:100, 1] = -3.0
    signals = Watch(rule, reference).add(np.vstack((moved, moved)), np.repeat([0, DAY], 1000))
    assert [s.name for s in signals] == ["constant", "share"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 6000), max_size=5))
def test_splits_and_snapshots_change_nothing(cuts: list[int]) -> None:
    """Another batch size, late rows or a restart move or lose a signal."""
    rule, (rows, at) = drift(rows=700), days(30, 42, scale=2.0, a_day=500)
    at[::50] -= 2 * DAY
    whole, x = Watch(rule, REFERENCE), np.clip(rows[:, 3] * 3, 0, 1)
    x[3000:] *= 2
    one = Adwin("m")
    expected = [*whole.add(rows, at), *one.add(x, at)]
    assert len(expected) >= 2
    watch, adwin, start, psis, losses = Watch(rule, REFERENCE), Adwin("m"), 0, [], []
    for end in [*sorted(cuts), len(rows)]:
        psis += watch.add(rows[start:end], at[start:end])
        losses += adwin.add(x[start:end], at[start:end])
        watch, adwin = Watch(rule, REFERENCE, watch.snapshot()), Adwin("m", state=adwin.snapshot())
        start = end
    assert psis + losses == expected
    assert (watch.snapshot(), adwin.snapshot()) == (whole.snapshot(), one.snapshot())


@pytest.mark.parametrize(("before", "after"), [("1h", "2d"), ("2d", "1h")])
def test_another_window_or_delta_goes_on(before: str, after: str) -> None:
    """After a deploy with a longer window no window ever ends, or a shorter one ends wrongly; an old delta counts."""
    rows, at = days(0, 6, a_day=500)
    moved, later = days(6, 12, scale=3.0, a_day=500)
    old = Watch(drift(window=before, rows=10, psi=5.0), REFERENCE)
    old.add(rows, at)
    watch = Watch(drift(window=after, rows=10, psi=0.3), REFERENCE, old.snapshot())
    found = watch.add(moved, later)
    assert found
    assert all(at[-1] - 2 * DAY <= signal.since <= signal.at <= later[-1] for signal in found)
    x = np.random.default_rng(0).beta(1, 5, 3000) * np.where(np.arange(3000) < 1000, 1.0, 1.2)
    strict = Adwin("m", 1e-9)
    assert not strict.add(x[:1200], np.arange(1200))
    assert Adwin("m", 0.9, strict.snapshot()).add(x[1200:], np.arange(1200, 3000))
    assert not Adwin("m", 1e-9, strict.snapshot()).add(x[1200:], np.arange(1200, 3000))


def test_adwin_is_rivers() -> None:
    """Detections are not those that the literature and River's users know."""
    total = 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        p = np.where(np.arange(6000) < 3000, 0.05 * (1 + seed % 5), 0.1 + 0.1 * (seed % 4))
        x = np.where(rng.random(6000) < p, 1.0, 0.0) if seed % 2 else rng.beta(1, 5, 6000) * (0.5 + p)
        theirs, expected = ADWIN(), []
        for i, value in enumerate(x):
            theirs.update(value)
            if theirs.drift_detected:
                expected.append(i)
        signals = Adwin("m").add(x, np.arange(6000) * 10)
        assert [s.at // 10 for s in signals] == expected
        total += len(signals)
    assert total > 10


def test_loss_drift_says_since_when() -> None:
    """The loss doubles and nobody hears of it, or hears a wrong time; or a steady loss raises an alarm."""
    rng = np.random.default_rng(0)
    scores = rng.beta(1, 20, 60_000)
    labels = rng.random(60_000) < np.where(np.arange(60_000) < 40_000, 1.0, 3.0) * scores  # three times as often
    signals = Adwin("m").add(loss(scores, labels), np.arange(60_000))
    assert len(signals) == 1
    assert signals[0].found > 1.5 * signals[0].expected
    assert 39_000 < signals[0].since < 41_000 < signals[0].at + 1_000 < 43_000
    assert loss(np.array([0.0, 1.0]), np.array([True, True])).tolist() == pytest.approx([1, 0], abs=1e-4)


def test_reference_is_json() -> None:
    """A reference cannot be kept beside its model."""
    data = msgspec.json.encode(REFERENCE)
    assert msgspec.json.decode(data, type=Reference) == REFERENCE
    assert len(data) < 2000


def test_refusals() -> None:
    """Declarations and states that mean nothing are found out in production."""
    for wrong in ({"psi": 0}, {"rows": 0}, {"delta": 1.0}, {"then": "panic"}, {"window": "2 days"}):
        with pytest.raises(DefinitionError, match=next(iter(wrong))):
            drift(**wrong)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="columns"):
        Reference.of(np.zeros((3, 2)), ("a",))
    other = Reference.of(days(0, 2)[0][:, :2], NAMES[:2])
    with pytest.raises(ModelRejected, match="start a new one"):
        Watch(drift(), REFERENCE, Watch(drift(), other).snapshot())
    with pytest.raises(ModelRejected, match="adwin/1"):
        Adwin("m", state=Watch(drift(), other).snapshot())
