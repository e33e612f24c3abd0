"""Replay and the operator's stages execute one plan: whatever the batches, they say the same, byte for byte."""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product

import msgspec
import pytest

from schemas import frames
from streaming.plan import plan
from streaming.replay import Replay
from streaming.resident import FeatureOperator, JoinOperator, StageSpec, open_stage
from streaming.simulator import Spec, simulate
from streaming.workloads import Reference, load
from tests import java

NOW = 1_800_000_000_000

Record = tuple[int, bytes, bytes]
"""Port, key and frame."""


class Operator:
    """What the micro-batch operator does around a stage: batches of random size, and states that come and go."""

    def __init__(self, stage: JoinOperator | FeatureOperator, chance: random.Random):
        self._stage = stage
        self._chance = chance
        self._keeps = isinstance(stage, FeatureOperator)
        self._rows: dict[bytes, int] = {}
        self._states: defaultdict[bytes, bytes] = defaultdict(bytes)
        self._logs: defaultdict[bytes, bytes] = defaultdict(bytes)

    def run(self, records: Sequence[Record]) -> list[tuple[int, bytes]]:
        """Outputs of `records`, as (tag, frame)."""
        outputs, start = [], 0
        while start < len(records):
            end = start + self._chance.randint(1, 60)
            outputs += self._batch(records[start:end])
            start = end
        return outputs

    def take(self, before: "Operator") -> None:
        """Go on from its states."""
        self._states |= before._states

    def _batch(self, records: Sequence[Record]) -> list[tuple[int, bytes]]:
        if not self._keeps:
            self._rows.clear()
            records = self._busy(records)
        keys = [key for key in dict.fromkeys(key for _, key, _ in records) if key not in self._rows]
        for key in keys:
            self._rows[key] = min(set(range(len(self._rows) + 1)) - set(self._rows.values()))
        handed = [key for key in self._rows if not self._keeps or self._chance.random() < 0.3]
        gone = [key for key in handed if not self._keeps or self._chance.random() < 0.3]
        request = java.build_request(
            [self._rows[key] for _, key, _ in records], [port for port, _, _ in records],
            [frame for _, _, frame in records], keys, [self._states[key] for key in keys],
            [self._rows[key] for key in keys], [self._rows[key] for key in handed],
            [self._logs[key] for key in keys],
        )  # fmt: skip
        outputs, states, _ = java.parse_response(self._stage.process(request))
        for key, state in zip(handed, states, strict=True):
            if isinstance(state, java.Log):
                self._logs[key] = state
            elif state is not None:
                self._states[key], self._logs[key] = state, b""
        for key in gone:
            del self._rows[key]
        return outputs


    def _busy(self, records: Sequence[Record]) -> list[Record]:
        """The records that Python is called with; some first ones of their keys wait, as they are, in their state."""
        busy: list[Record] = []
        for port, key, frame in records:
            first = not self._states[key] and all(key != other for _, other, _ in busy)
            if port == frames.MAIN and first and self._chance.random() < 0.8:
                self._states[key] = frames.WAITING + frame
            else:
                busy.append((port, key, frame))
        return busy


def source(value: bytes, key: bytes, offset: int) -> bytes:
    """The frame of a record as a source reads it."""
    return java.write_source(java.Source(json.loads(value)["at"], 0, offset, NOW, key, value))


def keyed(frame: bytes) -> tuple[bytes, bytes]:
    """A row frame with its key in front."""
    length = int.from_bytes(frame[24:28], "little")
    return frame[28 : 28 + length], frame


def through_operators(events: list[bytes], outcomes: list[bytes], chance: random.Random) -> list[bytes]:
    """Decisions of the fraud plan, one operator after the other, as a cluster in a backfill would order them."""
    join, card, terminal = (
        Operator(open_stage(msgspec.json.encode(StageSpec(Reference("fraud"), stage)).decode(), 0), chance)
        for stage in (-1, 0, 1)
    )
    merged = [(json.loads(v)["at"], 0, json.loads(v)["id"], v) for v in events]
    merged += [(json.loads(v)["at"], 1, json.loads(v)["event"], v) for v in outcomes]
    merged.sort(key=lambda item: item[0])
    keys = [json.loads(v).get("card", id).encode() for _, _, id, v in merged]
    labels = join.run([(m[1], m[2].encode(), source(m[3], key, 0)) for m, key in zip(merged, keys, strict=True)])
    told = {tag: [(frames.SIDE, *keyed(frame)) for t, frame in labels if t == tag] for tag in (0, 1)}
    by_card = [(frames.MAIN, json.loads(v)["card"].encode(), v) for v in events]
    arrivals = [(port, key, source(v, key, i)) for i, (port, key, v) in enumerate(by_card)]
    rows = card.run(interleave(told[0], arrivals, chance, time_of=lambda r: int.from_bytes(r[2][:8], "little")))
    main = [(frames.MAIN, *keyed(frame)) for tag, frame in rows if tag == 1]
    decided = terminal.run(interleave(told[1], main, chance, time_of=lambda r: int.from_bytes(r[2][:8], "little")))
    return [java.sink_parts(frame)[1] or b"" for tag, frame in decided if tag == frames.DECISION]


def interleave(
    told: list[Record], main: list[Record], chance: random.Random, time_of: Callable[[Record], int]
) -> list[Record]:
    """Events in their order, each label somewhere before the first event later than it."""
    out: list[Record] = []
    pending = sorted(told, key=time_of)
    for record in main:
        while pending and (time_of(pending[0]) < time_of(record) or chance.random() < 0.02):
            out.append(pending.pop(0))
        out.append(record)
    return out + pending


@pytest.mark.parametrize("seed", [0, 1])
def test_operators_decide_as_replay_does(seed: int) -> None:
    """If this fails, a decision depends on the runner, on how records were batched, or on when a label was read."""
    transactions = simulate(Spec(cards=40, terminals=60, days=25, radius=20).seeded(seed))
    events = [line.rstrip("\n").encode() for line in transactions.event_lines()]
    outcomes = [line.rstrip("\n").encode() for line in transactions.outcome_lines()]
    chance = random.Random(seed)
    for _ in range(40):  # a producer's retries: the same record again, a little later
        i = chance.randrange(len(events) - 30)
        events.insert(i + chance.randrange(1, 30), events[i])
    steps = list(Replay(plan(load("fraud")), NOW).run(events, outcomes))
    expected = [value for step in steps for value in step.decided.values]
    assert sum(step.duplicates for step in steps) == 40
    assert len(expected) == len(transactions)
    assert through_operators(events, outcomes, chance) == expected


SMALL = """
from models import linear, thresholds
from operators import by, label_mean, label_rate, label_since
from schemas.fraud import FraudOutcome, Transaction
from streaming.workload import Workload
features = by("card", {}label_rate("1d"), label_since(of=False))
model = linear("small", {{"card_label_since_false": 0.001, "card_label_rate_1d": 0.3}}, bias=0.0)
small = Workload(name="small", event=Transaction, outcome=FraudOutcome, features=(features,), model=model,
                 policy=thresholds(review=0.5, degraded="review"))
"""


def test_labels_that_wait_while_their_definition_changes() -> None:
    """A label that waits for the next event tells another field than it did, or ends the job from then on."""
    chance, hour = random.Random(1), 3_600_000
    event = {"id": "e1", "at": hour, "card": "c", "terminal": "t", "amount": 7.0}
    outcome = {"event": "e1", "at": 2 * hour, "label": False}
    values = [json.dumps(value).encode() for value in (event, outcome, event | {"id": "e2", "at": 3 * hour})]
    plans = [Reference("small.py", SMALL.format(more)) for more in ("", 'label_mean("amount"), ')]
    found = set[bytes]()
    for before, now in product(plans, plans):
        join, old, new = (
            open_stage(msgspec.json.encode(StageSpec(reference, stage)).decode(), 0)
            for reference, stage in ((before, -1), (before, 0), (now, 0))
        )
        assert isinstance(join, JoinOperator)
        assert isinstance(new, FeatureOperator)
        wrong, right = (
            [(port, b"e1", source(value, key, port)) for port, value in enumerate(values[:2])] for key in (b"d", b"c")
        )
        assert Operator(join, chance).run(wrong) == [], "an event under another key is a dead letter, and tells nothing"
        ((_, label),) = Operator(join, chance).run(right)
        new.restore(old.snapshot(b""))
        told = [(frames.SIDE, *keyed(label)), (frames.MAIN, b"c", source(values[2], b"c", 2))]
        ((tag, decision),) = Operator(new, chance).run(told)
        assert tag == frames.DECISION
        found.add(java.sink_parts(decision)[1] or b"")
    assert len(found) == 1
    (score,) = (json.loads(value)["score"] for value in found)
    assert score != 0.5, "the label told nothing"


WIDER = """
from schemas.records import Event, Identifier
class Wider(Event, frozen=True, gc=False):
    country: Identifier
    card: Identifier
    fee: float
    amount: float
    branch: str
"""


def test_events_that_wait_while_their_definition_changes() -> None:
    """Events that waited for their outcomes tell nothing any more once others have other fields, or end the job."""
    chance, hour = random.Random(1), 3_600_000
    event = {"id": "e1", "at": hour, "card": "c", "terminal": "t", "amount": 7.0}
    outcome = json.dumps({"event": "e1", "at": 2 * hour, "label": True}).encode()
    narrow = SMALL.format("")
    wide = narrow.replace("\nfeatures", WIDER + "\nfeatures").replace("event=Transaction", "event=Wider")
    values = [event | {"branch": 5}, event | {"country": "se", "fee": 1.0, "branch": "5"}]
    joins = [msgspec.json.encode(StageSpec(Reference("small.py", text), -1)).decode() for text in (narrow, wide)]
    for before, now in product((0, 1), (0, 1)):
        value = json.dumps(values[before]).encode()
        poor = json.dumps(event | {"id": "e2"} | {"amount": None}).encode()
        old, new = (open_stage(joins[i], 0) for i in (before, now))
        assert isinstance(old, JoinOperator)
        assert isinstance(new, JoinOperator)
        for again in (1, 2):  # the record as it came, and as Python leaves what came twice
            first = Operator(old, chance)
            assert not first.run([(frames.MAIN, b"e1", source(value, b"c", 0))] * again)
            assert not first.run([(frames.MAIN, b"e2", source(poor, b"c", 1))])
            new.restore(old.snapshot(b""))
            later = Operator(new, chance)
            later.take(first)
            ((tag, label),) = later.run([(frames.SIDE, b"e1", source(outcome, b"e1", 0))])
            assert (tag, keyed(label)[0]) == (frames.ROW, b"c")
            of_poor = later.run([(frames.SIDE, b"e2", source(outcome.replace(b"e1", b"e2"), b"e2", 1))])
            assert before != now or not of_poor
