"""Prequential evaluation against scikit-learn and naive twins: exact, weighted, and blind to batches."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from models import metrics
from models.evaluation import DAY, Evaluation, Labelled
from models.rules import Costs, evaluation
from models.tallies import ONE, coarse
from schemas.errors import DefinitionError, ModelRejected

F64 = NDArray[np.float64]
START = 17_800 * DAY
COSTS = Costs(false_alarm=5, miss=2, by_amount=True, threshold=0.5)
RULE = evaluation(k=3, half_life="36h", window="2d", horizon="1d", bins=10, costs=COSTS)


def examples(n: int, seed: int, digits: int = 2) -> tuple[Labelled, dict[str, F64]]:
    """Examples of eight days whose labels come up to a day later, and scores with ties of two versions."""
    rng = np.random.default_rng(seed)
    at = START + rng.integers(0, 8 * DAY, n)
    known = at + rng.integers(0, DAY, n)
    order = np.argsort(known, kind="stable")
    score = np.round(rng.beta(1, 2, n), digits)
    e = Labelled(
        rng.random(n) < score,
        at[order],
        known[order],
        rng.choice((1.0, 2.5, 20.0), n),
        rng.choice(("web", "shop"), n).tolist(),
        rng.integers(0, 12, n).astype(np.uint64),
        rng.lognormal(2, 1, n),
    )
    second = np.round(score**2, digits)
    second[rng.random(n) < 0.2] = np.nan
    return e, {"a": score, "b": second}


def cut(e: Labelled, rows: slice | NDArray[Any]) -> Labelled:
    """Some of the rows."""
    names = None if e.segments is None else np.array(e.segments)[rows].tolist()
    rest = (None if column is None else column[rows] for column in (e.groups, e.amount))
    return Labelled(
        e.labels[rows], e.at[rows], e.known[rows], None if e.weight is None else e.weight[rows], names, *rest
    )


def part(report: dict[str, Any], version: str, name: str, segment: str | None = None) -> dict[str, float]:
    """One group of measures."""
    found = report["lineages"][version]  # "a" is the only version of lineage "a"
    assert report["versions"][version][name] == found[name] or not np.isfinite([*found[name].values()]).all()
    return (found["segments"][segment] if segment else found)[name]  # type: ignore[no-any-return]


def naive(y: NDArray[np.bool_], s: F64, w: F64, cost: F64) -> dict[str, float]:
    """The measures from rows."""
    bins = np.minimum((s * 10).round(6).astype(int), 9)
    gap = sum(abs((w * (y - s))[bins == b].sum()) for b in range(10))
    return {
        "n": w.sum(),
        "positives": w[y].sum(),
        "average_precision": sk.average_precision_score(y, s, sample_weight=w),
        "roc_auc": sk.roc_auc_score(y, s, sample_weight=w),
        "log_loss": sk.log_loss(y, np.clip(s, 5e-7, 1 - 5e-7), sample_weight=w),
        "brier": sk.brier_score_loss(y, s, sample_weight=w),
        "calibration_error": gap / w.sum(),
        "cost": (w * cost).sum(),
    }


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_measures_are_exact(seed: int) -> None:
    """A reported AP, AUC, loss, calibration error or cost is not that of the scores as served, faded or windowed."""
    e, scores = examples(300, seed)
    watched = Evaluation(RULE)
    watched.add(e, scores)
    report = watched.report()
    assert e.weight is not None
    assert e.amount is not None
    now = e.known.max()
    fade = 0.5 ** ((now - e.known) / (1.5 * DAY))
    recent = e.known // DAY > now // DAY - 2
    segment = np.array(e.segments) == "web"
    for version, s in scores.items():
        cost = np.where(s >= 0.5, ~e.labels * 5.0, e.labels * 2.0 * e.amount)
        for name, w in (("overall", e.weight), ("fading", e.weight * fade), ("window", e.weight * recent)):
            for chosen, only in ((None, np.isfinite(s)), ("web", segment & np.isfinite(s))):
                rows = only & (w > 0)
                expected = naive(e.labels[rows], s[rows], w[rows], cost[rows])
                found = part(report, version, name, chosen)
                assert {k: found[k] for k in expected} == pytest.approx(expected, rel=1e-9)
    seen = np.isfinite(scores["b"])
    assert report["versions"]["b"]["labels"] == seen.sum()


def test_agrees_with_the_metrics_of_training() -> None:
    """The same scores have one AP when a model is trained and another when it serves."""
    e, scores = examples(5000, 1, digits=6)
    watched = Evaluation(evaluation())
    watched.add(Labelled(e.labels, e.at, e.known), scores)
    found = part(watched.report(), "a", "overall")
    for name in ("average_precision", "roc_auc", "brier"):
        assert found[name] == pytest.approx(getattr(metrics, name)(e.labels, scores["a"]))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(e.labels, scores["a"], clip=5e-7))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 400), max_size=6), st.booleans())
def test_splits_and_snapshots_change_nothing(cuts: list[int], restart: bool) -> None:
    """A replay and a cluster, or a cluster before and after a crash, report other figures for the same model."""
    e, scores = examples(400, 7)
    rule = evaluation(k=3, half_life="30m", window="2d", horizon="6h", costs=COSTS)  # fading is rescaled often
    whole = Evaluation(rule)
    whole.add(e, scores)
    watched, start = Evaluation(rule), 0
    for end in [*sorted(cuts), 400]:
        batch = slice(start, end)
        watched.add(cut(e, batch), {name: s[batch] for name, s in scores.items()})
        start = end
        if restart:
            watched = Evaluation(rule, watched.snapshot())
    assert watched.snapshot() == whole.snapshot()
    assert repr(watched.report()) == repr(whole.report())


def naive_at_k(e: Labelled, s: F64, k: int, days: range) -> float:
    """Mean over days of the share of positive groups among the k of the highest score."""
    assert e.groups is not None
    shares = []
    for day in days:
        rows = np.flatnonzero((e.at // DAY == day) & np.isfinite(s))
        best = {g: max(s[i] for i in rows if e.groups[i] == g) for g in e.groups[rows].tolist()}
        top = sorted(best, key=lambda g: (-best[g], g))[:k]
        shares.append(sum(any(e.labels[i] for i in rows if e.groups[i] == g) for g in top) / k)
    return float(np.mean(shares))


def test_precision_at_k_waits_for_the_labels() -> None:
    """Days of which only the frauds are known yet count, groups count twice, or the wrong k are looked at."""
    e, scores = examples(1500, 3)
    e = Labelled(e.labels, e.at, e.known, None, e.segments, e.groups)
    watched = Evaluation(evaluation(k=3, window="2d", horizon="1d"))
    last = START // DAY + 8
    for start in range(0, 1500, 100):
        batch = slice(start, start + 100)
        watched.add(cut(e, batch), {name: s[batch] for name, s in scores.items()})
        settled = int(e.known[start + 99] // DAY) - 1  # the days before it
        found = part(watched.report(), "b", "overall")["precision_at_3"]
        first = range(START // DAY, min(settled, last))
        assert found == pytest.approx(naive_at_k(e, scores["b"], 3, first)) if first else np.isnan(found)
    window = part(watched.report(), "b", "window")["precision_at_3"]
    assert window == pytest.approx(naive_at_k(e, scores["b"], 3, range(last - 3, last - 1)))
    web = np.array(e.segments) == "web"
    found = part(watched.report(), "a", "overall", "web")["precision_at_3"]
    days = range(START // DAY, last - 1)
    assert found == pytest.approx(naive_at_k(e, np.where(web, scores["a"], np.nan), 3, days))


def test_a_weight_takes_as_many_places() -> None:
    """One sampled event that stands for a hundred takes one place among the k."""
    watched = Evaluation(evaluation(k=100, horizon="0s"))
    labels, weight = np.array([True, False, True, False]), np.array([1.0, 49.0, 100.0, 1.0])
    at = np.array([0, 0, 0, DAY])
    watched.add(Labelled(labels, at, at, weight), {"a": np.array([0.9, 0.8, 0.7, 0.1])})
    assert part(watched.report(), "a", "overall")["precision_at_100"] == (1 + 50) / 100


def test_delays_and_what_is_unlabelled() -> None:
    """Nobody sees that labels come late, or not at all."""
    watched = Evaluation(evaluation())
    delay = np.arange(1, 1001) * 60_000
    watched.served("a", 4000)
    watched.served("new", 10)
    watched.add(Labelled(np.zeros(1000, np.bool_), np.zeros(1000, np.int64), delay), {"a": np.zeros(1000)})
    report: Any = watched.report()
    assert report["delay"]["mean"] == pytest.approx(delay.mean())
    assert report["delay"]["p50"] == pytest.approx(500 * 60_000, rel=0.05)
    assert report["delay"]["p90"] == pytest.approx(900 * 60_000, rel=0.05)
    assert report["versions"]["a"]["unlabelled"] == 0.75
    assert report["versions"]["new"]["unlabelled"] == 1
    assert np.isnan(part(report, "a", "overall")["average_precision"])
    empty: Any = Evaluation(evaluation()).report()
    assert np.isnan(empty["delay"]["p50"])


def daily(days: int, quiet: int, rows: int = 300) -> tuple[Evaluation, dict[str, list[tuple[bool, float]]]]:
    """A champion, and a challenger with a new version each day, whose labels come `quiet` days late; closed as a
    teacher does it. Beside it what each version said, by row."""
    watched = Evaluation(evaluation(horizon="0s", window="2d", k=5), lineage=lambda version: version[:1])
    rng, said = np.random.default_rng(0), dict[str, list[tuple[bool, float]]]()
    for day in range(days):
        at = day * DAY + np.sort(rng.integers(0, DAY, rows))
        names, labels = [f"s{i}" for i in rng.integers(0, 200, rows)], rng.random(rows) < 0.1
        scores = {f"v{day}": np.round(rng.random(rows), 3), "champion": np.round(rng.random(rows), 3)}
        if day % 3 == 0:  # of yesterday's version one label comes late
            scores["champion"][0], scores[f"v{max(day - 1, 0)}"] = np.nan, np.append(0.5, np.full(rows - 1, np.nan))
        watched.add(Labelled(labels, at, at + quiet * DAY, None, names), scores)
        watched.served(f"v{day}", rows)
        watched.close([f"v{day}", "champion"], quiet * DAY)
        for version, values in scores.items():
            pairs = [(bool(y), s) for y, s in zip(labels, values.tolist(), strict=True) if np.isfinite(s)]
            said.setdefault(version, []).extend(pairs)
    return watched, said


def test_a_version_a_day_loses_nothing() -> None:
    """Of versions that are replaced daily, labels that come weeks later are lost, or their lineage is not their sum."""
    watched, said = daily(60, 20)
    report: Any = watched.report()
    assert len(report["versions"]) == 61
    for version, pairs in said.items():
        labels, scores = (np.array(column) for column in zip(*pairs, strict=True))
        found = report["versions"][version]
        assert (version, found["labels"]) == (version, len(pairs))
        assert found["overall"]["brier"] == pytest.approx(np.mean((scores - labels) ** 2))
        assert ("window" in found) == (version == "champion" or int(version[1:]) >= 39)
    labels, scores = (np.array(c) for c in zip(*(p for v in said if v[0] == "v" for p in said[v]), strict=True))
    found = report["lineages"]["v"]["overall"]
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(labels, scores))
    assert report["lineages"]["v"]["labels"] == len(scores)


def test_many_scores_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of many digits fill the memory, or rounding them moves one past another, or a figure by a percent."""
    every = np.arange(ONE + 1) << 1 | 5 << 21
    rounded = coarse(every)
    score, found = every >> 1 & 0xFFFFF, rounded >> 1 & 0xFFFFF
    assert (np.diff(rounded) >= 0).all()
    assert (rounded >> 21 == 5).all()
    assert (np.abs(found - score) <= 0.005 * np.minimum(score, ONE - score)).all()
    assert len(np.unique(rounded)) <= 6_401
    assert (coarse(rounded) == rounded).all()

    monkeypatch.setattr("models.evaluation.LINES", 1000)
    e, scores = examples(4000, 1, digits=6)
    exact, watched = Evaluation(RULE), Evaluation(RULE)
    for one in (exact, watched):
        one.add(e, scores)
        one.report()
    watched.close([*scores], 0)
    assert len(watched._total.keys) < 0.8 * len(exact._total.keys)
    for name in ("overall", "fading", "window"):
        want, got = (part(one.report(), "a", name) for one in (exact, watched))
        gaps = got.pop("calibration_error") - want.pop("calibration_error")
        assert abs(gaps) <= 0.0025  # a difference of means that each move by so much at most
        assert got == pytest.approx(want, rel=0.005)
        assert (got["n"], got["cost"]) == pytest.approx((want["n"], want["cost"]))


def test_memory_is_bounded() -> None:
    """Versions, segments or days fill the memory of a job that runs for months."""
    watched, _ = daily(400, 300)  # more wait for labels than are told apart
    report: Any = watched.report()
    assert len(watched._s.slots) == 258
    assert len(watched._s.closed) == 64
    lost = 134  # labels
    given = 120_000 - 300 + lost
    assert report["lineages"]["v"]["labels"] == given
    assert report["versions"]["champion"]["overall"]["n"] == 120_000 - lost
    assert report["lineages"]["c"]["window"]["n"] == 599
    assert sum(m["overall"]["n"] for m in report["lineages"]["v"]["segments"].values()) == given
    assert len(watched.snapshot()) < 2_000_000
    for number in range(20):  # more lineages than are told apart
        watched.served(f"{chr(65 + number)}1", 1)
    assert len(watched._s.slots) <= 16 + 256
    assert Evaluation(watched.rule, watched.snapshot(), lambda version: version[:1]).snapshot() == watched.snapshot()


def test_refusals() -> None:
    """Declarations, columns or states that do not fit are found out by wrong figures."""
    wrongs = ({"k": 0}, {"window": "36h"}, {"bins": 1}, {"half_life": "0d"}, {"costs": Costs(1, 1, threshold=3)})
    for wrong in wrongs:
        with pytest.raises(DefinitionError, match=next(iter(wrong))):
            evaluation(**wrong)  # type: ignore[arg-type]
    e, scores = examples(5, 0)
    with pytest.raises(DefinitionError, match="5 rows"):
        Evaluation(RULE).add(e, {"a": scores["a"][:3]})
    with pytest.raises(DefinitionError, match="amount"):
        Evaluation(RULE).add(Labelled(e.labels, e.at, e.known), scores)
    with pytest.raises(DefinitionError, match="costs"):
        Evaluation(evaluation(), Evaluation(RULE).snapshot())
    with pytest.raises(ModelRejected, match="evaluation/2"):
        Evaluation(RULE, b"\x82")
