"""Promotion: never by chance, always on evidence, the same however the labels come."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.kernels.evaluation import EVERY, SPREAD, advance
from models.promotion import STAKES, Contest, Duel, difference
from models.rules import promotion
from schemas.errors import DefinitionError, ModelRejected

F64 = NDArray[np.float64]
DAY = 86_400_000
Stream = tuple[F64, F64, NDArray[np.bool_]]


def stream(seed: int, n: int = 30_000, rate: float = 0.01, noise: float = 1.0) -> Stream:
    """Scores of a model that knows the log-odds up to `noise`, of one that knows them, and labels."""
    rng = np.random.default_rng(seed)
    z = rng.normal(np.log(rate), 2.0, n)
    return sigmoid(z + noise * rng.normal(size=n)), sigmoid(z), rng.random(n) < sigmoid(z)


def sigmoid(z: F64) -> F64:
    """Probabilities as served, six digits."""
    return np.asarray(np.round(1 / (1 + np.exp(-z)), 6))


def naive(d: list[float]) -> list[float]:
    """The definition, after each example: the mean over stakes and starts of products, and what is left to start."""
    path = []
    for t in range(1, len(d) + 1):
        starts = range(0, t, EVERY)
        left = [SPREAD / (1 + np.log1p(s / 1000)) for s in starts]
        shares = [1 - SPREAD, *(a - b for a, b in pairwise(left))]
        sums = [w * np.prod(1 + s * np.array(d[b:t])) for s in STAKES for b, w in zip(starts, shares, strict=True)]
        path.append(sum(sums) / len(STAKES) + left[-1])
    return path


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 250), st.floats(0.05, 0.9), st.integers(1, 20))
def test_evidence_is_the_mean_of_the_products(seed: int, n: int, alpha: float, labels: int) -> None:
    """A verdict is not what the formula says: too early, too late, or before the least labels."""
    d = np.random.default_rng(seed).uniform(-1, 1.02, n).clip(-1, 1)
    path = np.array(naive(d.tolist()))
    duel = Duel(promotion(alpha=alpha, labels=labels))
    found = advance(duel._s.evidence, STAKES, d, np.arange(1, n + 1) >= labels, -np.log(alpha))
    end = n if found < 0 else found + 1
    assert duel.evidence == pytest.approx(np.log(path[end - 1] if end else 1.0))
    assert (path[labels - 1 : max(end - 1, 0)] < 1 / alpha * 1.000001).all()
    assert found < 0 or path[found] > 1 / alpha * 0.999999


def test_no_promotion_by_chance() -> None:
    """Of challengers that are no better more than α are promoted, because somebody looks after every label."""
    d = np.abs(difference(*stream(0, 5_000, rate=0.1), "brier"))
    rng, may = np.random.default_rng(1), np.ones(len(d), np.bool_)
    found = [
        advance(Duel(promotion())._s.evidence, STAKES, d * rng.choice((-1.0, 1.0), len(d)), may, -np.log(0.05))
        for _ in range(1000)
    ]
    assert 0 < sum(row >= 0 for row in found) <= 50


@pytest.mark.parametrize("loss", ["brier", "log"])
def test_a_better_challenger_is_promoted(loss: str) -> None:
    """A real improvement stays in the shadow, or a worse model is promoted."""
    for seed in range(5):
        old, new, labels = stream(seed)
        rule = promotion(loss=loss)  # type: ignore[arg-type]
        row = Duel(rule).add(old, new, labels)
        assert row is not None
        assert row >= 999
        assert Duel(rule).add(new, old, labels) is None


def test_weights_stand_for_what_was_not_sampled() -> None:
    """A challenger that is better on the events that are kept and worse on the rest is promoted."""
    rng = np.random.default_rng(0)
    n, share = 60_000, 0.1
    alerted = rng.random(n) < 0.1
    labels = rng.random(n) < np.where(alerted, 0.5, 0.1)
    old, new = np.where(alerted, 0.2, 0.1), np.where(alerted, 0.5, 0.25)
    kept = alerted | (rng.random(n) < share)
    weight = np.where(alerted, 1.0, 1 / share)[kept]
    pair = old[kept], new[kept], labels[kept]
    assert Duel(promotion()).add(*pair) is not None
    assert Duel(promotion(weight=10)).add(*pair, weight) is None
    assert Duel(promotion(weight=10)).add(pair[1], pair[0], pair[2], weight) is not None
    cut = Duel(promotion(weight=5, labels=1_000_000))
    cut.add(*pair, weight)
    assert cut.report()["cut"] == (weight > 5).sum()


@given(st.lists(st.integers(0, 30_000), max_size=4))
def test_splits_and_snapshots_change_nothing(cuts: list[int]) -> None:
    """A restart, or another batch size, moves a verdict: replay and cluster disagree about the champion."""
    old, new, labels = stream(3)
    new[::7] = np.nan
    rule = promotion(alerts=3.0)
    whole = Duel(rule)
    row = whole.add(old, new, labels)
    duel, start, found = Duel(rule), 0, None
    for end in [*sorted(cuts), len(labels)]:
        part = slice(start, end)
        found = duel.add(old[part], new[part], labels[part])
        if found is not None:
            found += start
            break
        duel, start = Duel(rule, duel.snapshot()), end
    assert found == row
    assert duel.snapshot() == whole.snapshot()


def test_guardrails() -> None:
    """A challenger that is too slow, or floods the investigators, becomes champion because it scores well."""
    old, new, labels = stream(5)
    assert Duel(promotion(latency="5ms")).add(old, new, labels) is None
    assert Duel(promotion(latency="5ms")).add(old, new, labels, latency=6.0) is None
    assert Duel(promotion(latency="5ms")).add(old, new, labels, latency=4.0) is not None
    assert Duel(promotion(alerts=0.5, threshold=0.01)).add(old, new, labels) is None
    assert Duel(promotion(alerts=2.0, threshold=0.01)).add(old, new, labels) is not None


def test_promotion_then_rollback() -> None:
    """A promoted model that turns bad stays, or the one that it replaced has been forgotten."""
    old, new, labels = stream(7, 60_000)
    turned = np.concatenate((new[:30_000], np.full(30_000, 0.2)))
    scores, known = {"a": old, "b": turned, "c": old}, np.arange(60_000)
    contest = Contest(promotion(), "a")
    for version in "abc":
        contest.enter(version)
    verdicts = contest.add(scores, labels, known)
    assert [(v.kind, v.version, v.instead) for v in verdicts] == [("promote", "b", "a"), ("rollback", "a", "b")]
    assert 30_000 < verdicts[1].at == verdicts[1].row < 31_500
    assert contest.champion == "a"
    assert set(contest.duels) == {"c"}

    again, start = Contest(promotion(), "a"), 0
    for version in "bc":
        again.enter(version)
    seen = []
    for end in (1, 17_000, 30_003, 31_000, 60_000):
        part = slice(start, end)
        batch = {name: s[part] for name, s in scores.items()}
        seen += [(v.kind, v.at, v.labels) for v in again.add(batch, labels[part], known[part])]
        again, start = Contest.restore(promotion(), again.snapshot()), end
    assert seen == [(v.kind, v.at, v.labels) for v in verdicts]
    assert again.report() == contest.report()


def test_what_is_fresh_promotes_and_what_was_served_rolls_back() -> None:
    """A learner that knows what changed waits until labels of what it served are there, or is sent away unserved."""
    old, new, labels = stream(9, 60_000)
    known, stale = np.arange(60_000), np.full(60_000, 0.3)
    contest = Contest(promotion(), "a")
    contest.enter("b")
    assert contest.add({"a": old, "b": stale}, labels, known) == []
    promoted, *more = contest.add({"a": old, "b": np.full(60_000, np.nan)}, labels, known, fresh={"b": new})
    assert (promoted.version, more) == ("b", [])
    (back,) = contest.add({"a": old, "b": stale}, labels, known, fresh={"b": new})
    assert (back.kind, back.version) == ("rollback", "a")


@pytest.mark.parametrize("settle", ["0s", "30d"])
def test_what_is_known_sooner_decides_no_contest(settle: str) -> None:
    """Where frauds are known in days and the rest is presumed after a month, whoever alarms more wins."""
    draw, days, n = np.random.default_rng(0), 150, 150_000
    at = np.sort(draw.integers(0, days * DAY, n))
    truth = sigmoid(draw.normal(-4.5, 1.5, n))
    labels = draw.random(n) < truth
    known = np.where(labels, at + draw.integers(DAY, 5 * DAY, n), at + 30 * DAY)
    scores = {"loud": np.clip(3 * truth, 0, 0.95), "right": truth}
    contest, decided, verdicts = Contest(promotion(settle=settle), "loud"), np.full(n, "loud", object), []
    contest.enter("right")
    order = np.argsort(known, kind="stable")
    for day in range(days):
        rows = order[(known[order] // DAY) == day]
        some = {name: values[rows] for name, values in scores.items()}
        verdicts += contest.add(some, labels[rows], known[rows], at=at[rows], by=decided[rows].tolist())
        contest.enter("loud" if contest.champion == "right" else "right")
        decided[at >= (day + 1) * DAY] = contest.champion
    found = [(verdict.kind, verdict.version) for verdict in verdicts]
    assert (found == [("promote", "right")]) == (settle == "30d")


def test_by_hand() -> None:
    """`freeze`, `promote` and `rollback` by hand do not hold."""
    old, new, labels = stream(8)
    contest = Contest(promotion(), "a")
    contest.enter("b")
    contest.frozen = True
    assert contest.add({"a": old, "b": new}, labels, np.arange(len(labels))) == []
    contest.frozen = False
    assert contest.add({"a": old[:1], "b": new[:1]}, labels[:1], np.zeros(1, np.int64))[0].version == "b"
    contest.crown("a")
    assert (contest.champion, contest.previous, set(contest.duels)) == ("a", None, set())
    contest.enter("c")
    contest.crown("c")
    contest.leave("a")
    assert (contest.previous, set(contest.duels)) == (None, set())


@pytest.mark.parametrize(
    "wrong",
    [{"alpha": 0}, {"loss": "auc"}, {"labels": 0}, {"latency": 5}, {"alerts": -1.0}, {"threshold": 2}, {"weight": 0.5}],
)
def test_wrong_declarations(wrong: dict[str, object]) -> None:
    """A rule that means nothing is found out in production, or the message does not name the argument."""
    with pytest.raises(DefinitionError, match=next(iter(wrong))):
        promotion(**wrong)  # type: ignore[arg-type]


def test_foreign_bytes() -> None:
    """Bytes of something else are taken for evidence."""
    for data in (b"", b"x", Contest(promotion(), "a").snapshot(), Duel(promotion()).snapshot()[:-3]):
        if data:
            with pytest.raises(ModelRejected):
                Duel(promotion(), data)
