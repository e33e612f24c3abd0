"""Policies: the action of a score, of a degraded decision, and the reasons of an alert."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from models.policy import Batch, thresholds
from schemas.decisions import Scored
from schemas.errors import DefinitionError


def batch(scores: list[float], degraded: list[bool]) -> Batch:
    """Scored rows of two inputs, of which only the second raises the score."""
    k = len(scores)
    return Batch(
        "w", "m-1", [str(i) for i in range(k)], ["key"] * k, np.arange(k), np.array(degraded, bool), np.array(scores),
        ("a", "b"), np.zeros((k, 2)), ("a", "b"), lambda rows: np.tile([-0.1, 0.2], (len(rows), 1)),
    )  # fmt: skip


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=20))
def test_actions_follow_the_thresholds(rows: list[tuple[float, bool]]) -> None:
    """If this fails, a score gets the action of another, or a degraded decision an undeclared one."""
    policy = thresholds(review=0.5, decline=0.9, degraded="review")
    decisions, actions = policy.decide(batch([score for score, _ in rows], [down for _, down in rows]))
    for (score, down), decision, action in zip(rows, decisions, actions, strict=True):
        assert isinstance(decision, Scored)
        kept = round(score, 6)
        expected = "decline" if kept >= 0.9 else "review" if kept >= 0.5 else "approve"
        assert decision.action == action == ("review" if down else expected)
        assert decision.degraded == down
        assert decision.reasons == (("b",) if down or kept >= 0.5 else ())


def test_an_event_without_its_key_fails() -> None:
    """If this fails, an event whose key is missing is left out without a word."""
    short = batch([0.1, 0.2], [False, False])
    with pytest.raises(ValueError, match="zip"):
        thresholds(review=0.5, degraded="review").decide(replace(short, keys=["key"]))


@pytest.mark.parametrize(
    "bad",
    [
        {"review": 1.5, "degraded": "review"},
        {"review": 0.5, "decline": 0.5, "degraded": "review"},
        {"approve": 0.5, "degraded": "approve"},
        {"review": 0.5, "degraded": "decline"},
    ],
)
def test_what_cannot_be_meant_is_refused(bad: dict[str, object]) -> None:
    """If this fails, a policy with a typing error goes to production."""
    with pytest.raises(DefinitionError, match="thresholds"):
        thresholds(**bad)  # type: ignore[arg-type]
