"""Decisions by chance that a replay repeats, and sources of outcomes that cannot flood."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.exploration import DAY, Cap, by_chance, exploration
from models.metrics import brier
from schemas.errors import DefinitionError, ModelRejected

IDS = [f"e{i}" for i in range(40_000)]


def test_the_share_is_chosen_and_always_the_same() -> None:
    """A replay explores other events, or more of them than were declared."""
    chosen = by_chance(IDS, 0.05, "s")
    assert abs(chosen.mean() - 0.05) < 0.004
    assert (by_chance(IDS[::-1], 0.05, "s")[::-1] == chosen).all()
    assert np.flatnonzero(chosen)[:3].tolist() == [19, 30, 68]  # on every machine
    other = by_chance(IDS, 0.05, "t")
    assert abs((chosen & other).mean() - 0.0025) < 0.001
    assert (chosen <= by_chance(IDS, 0.2, "s")).all()  # a larger share only adds
    assert by_chance(IDS, 1.0, "s").all()
    assert not by_chance(IDS, 0.0, "s").any()
    assert by_chance([], 0.5, "s").shape == (0,)


def test_weighted_metrics_are_unbiased() -> None:
    """What was declined is taken to have been right, and a model looks better than it is."""
    rng = np.random.default_rng(0)
    score = rng.random(40_000)
    label = rng.random(40_000) < score**2  # the score is too high, most of all where it declines
    declined = score > 0.6
    rule = exploration(share=0.1, salt="s")
    chosen = rule.chosen(IDS, declined)
    assert not (chosen & ~declined).any()
    weight = rule.weight(declined, chosen)
    loss = (score - label) ** 2
    assert (weight * loss).sum() / weight.sum() == pytest.approx(brier(label, score), rel=0.03)
    assert loss[weight > 0].mean() < 0.97 * brier(label, score)


def test_a_flood_is_capped() -> None:
    """One source of outcomes teaches the model what it likes; or those of others are lost with it."""
    cap = Cap(100)
    sources = ["a"] * 10_000 + ["b"] * 50
    allowed = cap.add(sources, np.full(10_050, 5 * DAY + 7))
    assert (allowed[:10_000].sum(), allowed[10_000:].sum()) == (100, 50)
    assert cap.refused == 9_900
    assert cap.add(["a", "a"], np.array([6, 5]) * DAY).tolist() == [True, False]
    assert not cap.add(["b"], np.array([-40]) * DAY + 6 * DAY).any()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), max_size=40), st.integers(0, 40))
def test_cap_is_its_definition(outcomes: list[tuple[str, int]], cut: int) -> None:
    """A split or a restart lets other outcomes through."""
    counts: dict[tuple[str, int], int] = {}
    expected, newest = [], 0
    for source, day in outcomes:
        newest = max(newest, day)
        n = counts[source, day] = counts.get((source, day), 0) + 1
        expected.append(n <= 2 and day > newest - 3)
    cap, found = Cap(2, days=3), list[bool]()
    for part in (outcomes[:cut], outcomes[cut:]):
        at = np.array([day * DAY for _, day in part], np.int64)
        found += cap.add([source for source, _ in part], at).tolist()
        cap = Cap(2, 3, cap.snapshot())
    assert found == expected


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources that are made up, one for each outcome, fill the memory."""
    monkeypatch.setattr("models.exploration.SOURCES", 1000)
    cap = Cap(5)
    assert cap.add(IDS, np.zeros(len(IDS), np.int64)).sum() == 1005
    size = len(cap.snapshot())
    cap.add([id + "x" for id in IDS], np.zeros(len(IDS), np.int64))
    assert len(cap.snapshot()) <= size + 8


def test_refusals() -> None:
    """Declarations that mean nothing, or foreign bytes, are taken."""
    for wrong in ({"share": 0.0, "salt": "s"}, {"share": 0.1, "salt": ""}, {"share": 0.1, "salt": "s", "action": ""}):
        with pytest.raises(DefinitionError, match="exploration"):
            exploration(**wrong)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="Cap"):
        Cap(0)
    with pytest.raises(ModelRejected, match="cap/1"):
        Cap(1, state=b"\x81")
