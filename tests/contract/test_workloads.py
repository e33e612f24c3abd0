"""What every workload must keep to: one suite, run on each that discovery finds."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import pytest

from models.policy import Thresholds
from schemas.errors import DefinitionError
from streaming import replay
from streaming.plan import check_model, plan
from streaming.replay import Replay, Step
from streaming.workload import Workload
from streaming.workloads import describe_parameters, load, names

NOW = 1_800_000_000_000
START = 1_700_000_000_000
DAY = 86_400_000


@dataclass(frozen=True)
class Case:
    """A workload, and events and outcomes made from nothing but its declaration."""

    workload: Workload
    events: list[bytes]
    outcomes: list[bytes]

    def run(self, events: Sequence[bytes] | None = None) -> list[Step]:
        """A replay."""
        return list(Replay(plan(self.workload), NOW).run(self.events if events is None else events, self.outcomes))


def made(workload: Workload, number: int) -> Iterator[dict[str, object]]:
    """Events of forty days, of few keys each of its text fields."""
    chance = random.Random(number)
    at = START
    for i in range(number):
        at += chance.randrange(2 * 40 * DAY // number)
        texts = {name: f"{name}{chance.randrange(5 + 20 * n)}" for n, name in enumerate(workload.strings)}
        optional = [field for field in workload.fields if field.optional]
        fields = [field for field in workload.fields if not field.optional]
        fields += [optional[(number - 1 - i) % len(optional)]] if optional else []  # one of those that may be missing
        values: dict[str, object] = {field.name: chance.lognormvariate(3, 1) for field in fields if not field.room}
        values |= {f.name: {n: chance.lognormvariate(3, 1) for n in "abc"} for f in fields if f.room}
        yield {"id": f"e{i}", "at": at, **texts, **values}


@pytest.fixture(params=names())
def case(request: pytest.FixtureRequest) -> Case:
    """Each workload in turn."""
    workload = load(request.param)
    events = list(made(workload, 2_000))
    chance = random.Random(1)
    outcomes = [
        {"event": e["id"], "at": int(str(e["at"])) + chance.randrange(8 * DAY), "label": chance.random() < 0.2}
        for e in events
    ]
    chance.shuffle(outcomes)
    encode = msgspec.json.encode
    return Case(workload, list(map(encode, events)), list(map(encode, outcomes)) if workload.outcome else [])


@pytest.mark.parametrize("name", names())
def test_is_a_value(name: str) -> None:
    """If this fails, defining or planning a workload does something, or tells nobody what it will do."""
    workload = load(name)
    assert workload.name == name
    assert all(topic.startswith(f"{name}.") for topic in workload.topics.all())
    assert len(set(workload.topics.all())) == 6
    compiled = plan(workload)
    check_model(compiled)
    text = compiled.describe()
    assert text == plan(load(name)).describe()
    assert all(word in text for word in (*compiled.keyed, workload.topics.events, workload.model.version))
    with pytest.raises(AttributeError):
        workload.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", names())
def test_refuses_wrong_parameters(name: str) -> None:
    """If this fails, a misspelt `--set` changes nothing, silently."""
    declared = describe_parameters(name)
    with pytest.raises(DefinitionError, match="no_such"):
        load(name, {"no_such": "1"})
    for parameter, default in declared.items():
        if not isinstance(default, str):
            with pytest.raises(DefinitionError, match=parameter):
                load(name, {parameter: "nonsense"})


def test_decides_every_event_alike(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, decisions depend on the run, on the order of the outcomes' file or on how events were batched."""
    decided = [value for step in case.run() for value in step.decided.values]
    assert [json.loads(value)["id"] for value in decided] == [f"e{i}" for i in range(len(case.events))]
    for chunk in (1, 7, 100_000):
        monkeypatch.setattr(replay, "CHUNK", chunk)
        if chunk == 1:  # a hundred events tell as much, and cost less
            assert [v for step in case.run(case.events[:100]) for v in step.decided.values] == decided[:100]
        else:
            assert [v for step in case.run() for v in step.decided.values] == decided
    case.outcomes.reverse()
    assert [v for step in case.run() for v in step.decided.values] == decided


def test_says_what_the_contract_says(case: Case) -> None:
    """If this fails, a reader of the decisions' topic finds other fields than the README promises."""
    entity = plan(case.workload).stages[0].entity
    policy = case.workload.policy
    for step in case.run():
        for value in step.decided.values:
            decision = json.loads(value)
            event = json.loads(case.events[int(decision["id"][1:])])
            common = {"workload": case.workload.name, "event": event["id"], "at": event["at"], "key": event[entity]}
            assert common.items() <= decision.items()
            assert decision["model"] == case.workload.model.version
            assert decision["degraded"] is False
            if isinstance(policy, Thresholds):
                assert list(decision)[-3:] == ["score", "action", "reasons"]
                assert 0 <= decision["score"] <= 1
                assert decision["action"] in policy.actions
                assert len(decision["reasons"]) <= policy.reasons


def test_duplicates_are_suppressed(case: Case) -> None:
    """If this fails, a producer's retry is decided, and counted, twice."""
    events = [event for event in case.events[:300] for _ in range(2)]
    steps = case.run(events)
    assert sum(step.duplicates for step in steps) == 300
    assert [v for step in steps for v in step.decided.values] == [
        v for step in case.run(case.events[:300]) for v in step.decided.values
    ]


def test_poison(case: Case) -> None:
    """If this fails, some bytes are decided that are no event, or refused for another reason than before."""
    good = json.loads(case.events[-1])
    entity = case.workload.strings[0]
    number = next((field.name for field in case.workload.fields if not field.room), None)

    def spoilt(**changes: object) -> bytes:
        return json.dumps({k: v for k, v in (good | changes).items() if v is not None}).encode()

    bad = [
        ("syntax", b"no json"), ("syntax", spoilt()[:-1]), ("wrong-type", b"[]"), ("wrong-type", b"1"),
        ("encoding", b"\xff" + spoilt()), ("depth", b'{"x": ' + b"[" * 50_000), ("missing-field", b"{}"),
        ("missing-field", spoilt(id=None)), ("missing-field", spoilt(**{entity: None})),
        ("wrong-type", spoilt(id=1)), ("wrong-type", spoilt(at="now")), ("out-of-range", spoilt(at=-1)),
        ("future", spoilt(at=NOW + 3_600_000)), ("out-of-range", spoilt(**{entity: ""})),
        ("too-large", spoilt(padding="x" * 1_100_000)), ("out-of-range", spoilt(id="x" * 257)),
    ]  # fmt: skip
    if number is not None:
        nan, huge = (spoilt(**{number: 7777.5}).replace(b"7777.5", text) for text in (b"NaN", b"1e400"))
        bad += [("wrong-type", spoilt(**{number: "1"})), ("syntax", nan), ("not-finite", huge)]
    (step,) = case.run([*(value for _, value in bad), case.events[0]])
    refused = sorted(step.refused, key=lambda one: one.record)
    assert [(one.kind, one.value) for one in refused] == bad
    assert all(one.detail for one in refused)
    assert step.events.ids == ["e0"]
