"""A replay of odd files: what it may not know, and what must not stop it."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from models import linear, thresholds
from models.exploration import exploration
from models.policy import Batch
from operators import by, count, label_rate, label_since
from schemas.decisions import Decision
from schemas.errors import DefinitionError
from schemas.records import Event, Identifier, Outcome
from streaming.learning import learning
from streaming.plan import plan
from streaming.replay import Replay, Step
from streaming.workload import Workload
from streaming.workloads import Reference, resolve

DAY = 86_400_000
NOW = 1_800_000_000_000


class Sale(Event, frozen=True):
    """A whole number may be as long as JSON allows."""

    shop: Identifier
    n: int = 0
    of: int | None = None


def workload(**changes: object) -> Workload:
    """Sales, scored by the share of a shop's that turned out bad."""
    given = {
        "name": "sales", "event": Sale, "outcome": Outcome,
        "features": (by("shop", count("1d"), label_rate("2d"), label_since()),),
        "model": linear("sales", {"shop_label_rate_2d": 8.0}, bias=-1.0),
        "policy": thresholds(alert=0.5, degraded="alert"),
    }  # fmt: skip
    return Workload(**(given | changes))  # type: ignore[arg-type]


def sale(id: str, at: int, **fields: object) -> bytes:
    """An event."""
    return json.dumps({"id": id, "at": at, "shop": "s", **fields}).encode()


def truth(event: str, at: int) -> bytes:
    """Its outcome, which is bad."""
    return json.dumps({"event": event, "at": at, "label": True}).encode()


def steps(of: Workload, events: Sequence[bytes], outcomes: Sequence[bytes] = ()) -> list[Step]:
    """A replay of these."""
    return list(Replay(plan(of), NOW).run(events, outcomes))


def scores(events: Sequence[bytes], outcomes: Sequence[bytes]) -> dict[str, float]:
    """What a replay says of each event."""
    values = [value for step in steps(workload(), events, outcomes) for value in step.decided.values if value]
    return {said["id"]: said["score"] for said in map(json.loads, values)}


def test_an_outcome_stamped_before_its_event_is_known_with_it() -> None:
    """If this fails, an event, and those before it, are decided by its own truth."""
    events = [sale("a", 10 * DAY), sale("b", 20 * DAY), sale("c", 30 * DAY), sale("d", 30 * DAY + 1)]
    found = scores(events, [truth("c", 5 * DAY)])
    assert found["a"] == found["b"] == found["c"] < 0.5 < found["d"]


@pytest.mark.parametrize("between", [0, 1023])
def test_a_late_event_is_not_known_before_it_came(between: int) -> None:
    """If this fails, an event is decided by the truth about one that comes later in the file, if that is soon."""
    junk = [b"{" for _ in range(between)]
    events = [sale("a", 10 * DAY), *junk, sale("b", 10 * DAY - 300_000), sale("c", 10 * DAY + 1)]
    found = scores(events, [truth("b", 10 * DAY - 200_000)])
    assert found["a"] < 0.5 < found["c"]


@pytest.mark.parametrize("field", ["n", "of"])
def test_a_whole_number_beyond_any_float_is_a_dead_letter(field: str) -> None:
    """If this fails, one record ends the job, again and again."""
    [step] = [step for step in steps(workload(), [sale("a", DAY), sale("b", DAY, **{field: 10**400})]) if step.refused]
    assert [(one.record, one.kind) for one in step.refused] == [(2, "not-finite")]
    assert f"$.{field}" in step.refused[0].detail
    assert step.events.ids == ["a"]


def test_names_of_values_may_have_any_character() -> None:
    """If this fails, a name with a NUL in it is read as two, or ends the job."""
    of = resolve(Reference("anomaly", set={"values": "2"}))
    values = [{"id": f"e{i}", "at": i * 1000, "sensor": "s", "values": {"\0" * 16: 1.0}} for i in range(3)]
    decided = [step for step in steps(of, [json.dumps(value).encode() for value in values]) if step.events.ids]
    assert [len(step.events.ids) for step in decided] == [3]


def test_a_number_whose_square_is_none_is_a_dead_letter() -> None:
    """If this fails, sums of a key are infinite from one event on."""
    odd = [sale("a", DAY), sale("b", DAY, of=10**101), sale("c", DAY, of=-(10**100))]
    [step] = steps(workload(), odd)
    assert [(one.record, one.kind) for one in step.refused] == [(2, "not-finite")]


class Fails:
    """A policy that does not work."""

    actions = ("pass",)

    def decide(self, batch: Batch) -> Any:
        """Say nothing of an event, and of some what no policy may say: no plan finds that."""
        n = len(batch.ids)
        said: dict[str, Callable[[], Any]] = {
            "a": lambda: ([], []), "b": lambda: 1 / 0, "c": lambda: (["x"] * n, ["pass"] * n),
            "d": lambda: ([None] * n, ["block"] * n),
        }  # fmt: skip
        return said.get(batch.ids[0], lambda: ([None] * n, ["pass"] * n))()


@pytest.mark.parametrize(
    ("id", "found"),
    [("a", "0 decisions"), ("b", r"ZeroDivisionError.*test_replay.py:\d+"), ("c", "type str"), ("d", "'block'")],
)
def test_a_policy_that_fails_is_named(id: str, found: str) -> None:
    """If this fails, an author looks for what is wrong in the engine."""
    good = plan(workload(policy=Fails()))
    with pytest.raises(DefinitionError, match=rf"policy Fails \(.*{found}"):
        list(Replay(good, NOW).run([sale(id, DAY)], ()))


class Blocks:
    """A policy with decisions of its own kind."""

    actions = ("pass", "block")

    def decide(self, batch: Batch) -> tuple[Sequence[Decision], Sequence[str]]:
        """Block all."""
        rows = zip(batch.ids, batch.at.tolist(), batch.keys, strict=True)
        decisions = [Decision(id, "sales", id, at, key, batch.model, False) for id, at, key in rows]
        return decisions, ["block"] * len(decisions)


def test_what_chance_decides_must_say_so() -> None:
    """If this fails, events that were blocked are learned from as if they had been let through."""
    rule = learning(horizon="7d", exploration=exploration(share=0.5, salt="s", action="pass"))
    with pytest.raises(DefinitionError, match="expected Scored ones for exploration="):
        steps(workload(policy=Blocks(), learning=rule), [sale(f"e{i}", DAY + i) for i in range(20)])
