"""Trackers: models in the state of a key, and events with missing values and mappings, in both runners."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from models import native
from models.policy import Batch
from operators import track
from operators.tracked import HEADER, TrackedFeatures
from schemas import frames
from schemas.decisions import Decision, Scored
from schemas.errors import DefinitionError
from schemas.records import Event, Identifier, Outcome
from streaming.plan import plan
from streaming.replay import Replay
from streaming.resident import FeatureOperator
from streaming.serving import Services, Serving
from streaming.workload import Workload
from streaming.workloads import load
from tests import java

NOW = 1_800_000_000_000


class Reading(Event, frozen=True):
    """A reading of one or of several values."""

    sensor: Identifier
    value: float | None = None
    values: Annotated[dict[str, float], msgspec.Meta(max_length=3)] | None = None


class Verdict(Outcome, frozen=True):
    """Whether it was an anomaly."""


@dataclass(frozen=True)
class Sums:
    """Sums of what a sensor read: its value, entries of its mapping, verdicts."""

    names = ("sum", "entries", "verdicts")
    inputs = ("value", "values.0", "values.n")
    words = 3
    labelled = False
    fingerprint = "sums-1"

    def zero(self, states: NDArray[np.float64]) -> None:
        """All 0."""
        states[:, :3] = 0

    def step(self, states: Any, slot: Any, port: Any, at: Any, label: Any, columns: Any, fresh: Any, out: Any) -> None:
        """Row by row."""
        for i in np.flatnonzero(fresh).tolist():
            states[slot[i], :3] += np.nan_to_num([columns[i, 0], columns[i, 2], 0.0])
            out[i] = states[slot[i], :3]


@dataclass(frozen=True)
class EverySecond:
    """Decides only about every second event of a key, and names the entries."""

    actions = ("seen",)

    def decide(self, batch: Batch) -> tuple[Sequence[Decision | None], Sequence[str]]:
        """By the number of entries so far."""
        rows = zip(batch.ids, batch.keys, batch.at.tolist(), batch.column("sensor_entries").tolist(), strict=True)
        names = [tuple(filter(None, text.split("\0"))) for text in batch.maps["values"]]
        return [
            Scored(
                id=id, workload=batch.workload, event=id, at=at, key=key, model=batch.model, degraded=False,
                score=float(score), action="seen", reasons=why,
            ) if score % 2 == 0 else None
            for (id, key, at, score), why in zip(rows, names, strict=True)
        ], ["seen"] * len(batch.ids)  # fmt: skip


def workload() -> Workload:
    """The workload of these tests."""
    return Workload(
        name="sums", event=Reading, features=(track("sensor", Sums()),), model=native("sums-1", "sensor_sum"),
        policy=EverySecond(), views=False,
    )  # fmt: skip


def events(number: int) -> list[dict[str, Any]]:
    """Readings of five sensors, some of one value, some of several, some twice."""
    chance = random.Random(3)
    made: list[dict[str, Any]] = []
    for i in range(number):
        reading: dict[str, Any] = {"id": f"r{i}", "at": NOW - 10_000 + i, "sensor": f"s{chance.randrange(5)}"}
        if chance.random() < 0.5:
            reading["value"] = chance.randrange(9)
        if chance.random() < 0.5:
            reading["values"] = dict.fromkeys(chance.sample("zyx", chance.randrange(4)), 1.5)
        made.append(chance.choice(made[-9:]) if made and chance.random() < 0.1 else reading)
    return made


def test_replay_sums() -> None:
    """If this fails, a tracker sees a duplicate, a missing value is taken for a number, or names get mixed up."""
    made = events(500)
    steps = list(Replay(plan(workload()), NOW).run([msgspec.json.encode(event) for event in made], []))
    found = [json.loads(value) for step in steps for value in step.decided.values if value is not None]
    expected, sums, seen = [], dict[str, list[float]](), set()
    for event in made:
        if event["id"] not in seen:
            seen.add(event["id"])
            total = sums.setdefault(event["sensor"], [0.0, 0.0])
            total[0] += event.get("value", 0)
            total[1] += len(event.get("values", {}))
            if total[1] % 2 == 0:
                expected.append((event["id"], total[1], sorted(event.get("values", {}))))
    assert [(d["id"], d["score"], d["reasons"]) for d in found] == expected
    assert sum(step.duplicates for step in steps) == 500 - len(seen)


def by_name(number: int) -> list[dict[str, Any]]:
    """Readings of values by name, of which some are absent now and then."""
    made = [event for event in events(number) if event.get("values")]
    return [{k: v for k, v in event.items() if k != "value"} for event in made]


@pytest.mark.parametrize("declared", ["sums", "anomaly"])
def test_operator_decides_as_replay_does(declared: str) -> None:
    """If this fails, a tracker's state, or a name, changes on its way through the state of a cluster."""
    made = [msgspec.json.encode(event) for event in (events(400) if declared == "sums" else by_name(1000))]
    compiled = plan(workload() if declared == "sums" else load("anomaly", {"values": "3"}))
    replayed = [value for step in Replay(compiled, NOW).run(made, []) for value in step.decided.values]
    sensors = sorted({json.loads(value)["sensor"].encode() for value in made})
    states, logs, found, logged = dict[bytes, bytes](), dict[bytes, bytes](), list[bytes](), False
    for start in range(0, len(made), 37):
        if start % 2 == 0:  # the batch after this one finds the states in Python, and hands over what came for them
            operator = FeatureOperator(
                compiled, compiled.workload.topics, compiled.stages[0], Serving(compiled, 0, Services())
            )
        part, known = made[start : start + 37], [] if start % 2 else sensors
        keys = [json.loads(value)["sensor"].encode() for value in part]
        records = [
            java.write_source(java.Source(0, 0, i, NOW, k, v))
            for i, (k, v) in enumerate(zip(keys, part, strict=True))
        ]
        request = java.build_request(
            [sensors.index(key) for key in keys], [0] * len(part), records, known,
            [states.get(k, b"") for k in known], handed=range(len(sensors)), logs=[logs.get(k, b"") for k in known],
        )  # fmt: skip
        outputs, packed, _ = java.parse_response(operator.process(request))
        for key, state in zip(sensors, packed, strict=True):
            if isinstance(state, java.Log):
                logs[key], logged = bytes(state), True
            elif state is not None:
                states[key], logs[key] = state, b""
        found += [java.sink_parts(frame)[1] or b"" for tag, frame in outputs if tag == frames.DECISION]
    assert logged == (declared == "anomaly")
    assert found == [value for value in replayed if value is not None]


@dataclass(frozen=True)
class Forgetful(EverySecond):
    """Says nothing of the last event of a batch."""

    def decide(self, batch: Batch) -> tuple[Sequence[Decision | None], Sequence[str]]:
        """One too few."""
        decisions, actions = super().decide(batch)
        return decisions[:-1], actions


def test_a_policy_that_forgets_an_event_fails() -> None:
    """If this fails, a decision is lost without a word where a policy gives too few."""
    compiled = replace(plan(workload()), workload=replace(workload(), policy=Forgetful()))
    operator = FeatureOperator(compiled, compiled.workload.topics, compiled.stages[0], Serving(compiled, 0, Services()))
    made = [msgspec.json.encode({"id": f"r{i}", "at": NOW - 9 + i, "sensor": "s", "value": 1.0}) for i in range(2)]
    records = [java.write_source(java.Source(0, 0, i, NOW, b"s", value)) for i, value in enumerate(made)]
    with pytest.raises(DefinitionError, match=r"policy Forgetful \(.* found 1 decisions"):
        operator.process(java.build_request([0, 0], [0, 0], records, [b"s"], [b""]))


def test_state_of_another_declaration_starts_anew() -> None:
    """If this fails, the numbers of an old declaration are taken for those of a new one."""

    @dataclass(frozen=True)
    class Others(Sums):
        fingerprint = "sums-2"

    first, second = (TrackedFeatures(track("sensor", tracker), True) for tracker in (Sums(), Others()))
    states = first.zero(2)
    states[:, 0] = 7
    packed, lengths = first.pack(states)
    assert first.unpack(packed.tobytes(), lengths)[:, 0].tolist() == [7, 7]
    assert second.unpack(packed.tobytes(), lengths)[:, 0].tolist() == [0, 0]
    assert first.width == 3 + HEADER


def test_mapping_without_a_bound_is_refused() -> None:
    """If this fails, one event may make a state as wide as it likes."""

    class Unbounded(Event, frozen=True):
        sensor: Identifier
        values: dict[str, float]

    with pytest.raises(DefinitionError, match="max_length"):
        plan(
            Workload(
                name="sums", event=Unbounded, features=(track("sensor", Sums()),), policy=EverySecond(), views=False,
                model=native("sums-1", "sensor_sum"),
            )
        )  # fmt: skip
