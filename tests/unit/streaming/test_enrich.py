"""Features that are read from the online store: what a decision says when the store does not answer."""

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models import linear, thresholds
from operators import by, count
from schemas.fraud import Transaction
from streaming.plan import plan
from streaming.replay import Replay
from streaming.workload import Workload, enrich

EVENTS = [
    json.dumps({"id": f"e{i}", "at": 1_000 + i, "card": card, "terminal": "t", "amount": 1.0}).encode()
    for i, card in enumerate(["known", "unknown", "known"])
]

RISKY = Workload(
    name="risky",
    event=Transaction,
    features=(by("card", count("1d")), enrich("card", "tier", default=-1.0)),
    model=linear("risky", {"card_tier": 2.0}),
    policy=thresholds(decline=0.9, otherwise="approve", degraded="decline"),
)


def decide(answers: bool | None) -> list[dict[str, object]]:
    """Decisions with a store that knows one card, does not answer, or is not there (None)."""

    def read(entity: str, keys: Sequence[str], names: tuple[str, ...]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        assert (entity, names) == ("card", ("tier",))
        found = [3.0 if key == "known" and answers else np.nan for key in keys]
        return np.array(found).reshape(-1, 1), np.full(len(keys), bool(answers))

    replay = Replay(plan(RISKY), 10_000, None if answers is None else read)
    return [json.loads(value) for step in replay.run(EVENTS, ()) for value in step.decided.values]


def test_a_value_that_is_not_there_is_the_default() -> None:
    """If this fails, a new card is scored on a hole, or marked as if something had failed."""
    known, unknown, _ = decide(True)
    assert (known["action"], known["degraded"]) == ("decline", False)
    assert (unknown["action"], unknown["degraded"]) == ("approve", False)
    assert unknown["score"] == round(1 / (1 + np.exp(2.0)), 6)


def test_a_store_that_does_not_answer_degrades_the_decision() -> None:
    """If this fails, a decision made blindly looks like any other, or takes an action nobody declared."""
    for answers in (False, None):
        for decision in decide(answers):
            assert (decision["action"], decision["degraded"]) == ("decline", True)
