"""The micro-batch operator on a real cluster: broker, JobManager, TaskManager, and stages of a few lines."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer as Client

from schemas import frames
from schemas.errors import DefinitionError, MillraceError, Unavailable
from streaming import flink, kafka, stack
from streaming.flink import Input, Job, Key, Port, Stage
from streaming.settings import Settings
from streaming.stack import Stack

pytestmark = pytest.mark.services
OPENER = "tests.integration.operator_stages:Counter"
Record = dict[str, Any]
BY_CARD = Key("record", "card")
_serial = count()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A stack of its own, stopped at the end."""
    chosen = Settings(home=tmp_path_factory.mktemp("stack"), slots=4, heap=1024)
    try:
        yield chosen
    finally:
        stack.down(chosen)


@pytest.fixture(scope="module")
def cluster(settings: Settings) -> Stack:
    """The stack, up."""
    return stack.up(settings)


class World:
    """Topics and a job of one test."""

    def __init__(self, cluster: Stack, folder: Path):
        self.cluster, self.folder = cluster, folder
        self.name = f"job{next(_serial)}"
        self.ids: list[str] = []
        kafka.create_topics(cluster.kafka, {self.topic(t): {} for t in ("in", "side", "control", "dead")}, 2)
        kafka.create_topics(cluster.kafka, {self.topic(t): {} for t in ("out", "signals")})

    def topic(self, kind: str) -> str:
        """Its name."""
        return f"{self.name}.{kind}"

    def job(self, *stages: Stage, **changes: object) -> Job:
        """A job of these stages over the topics."""
        sinks = {frames.DECISION: "out", frames.DEADLETTER: "dead", frames.SIGNAL: "signals"}
        values: dict[str, object] = {
            "name": self.name,
            "brokers": self.cluster.kafka,
            "inputs": (Input(self.topic("in"), times=True), Input(self.topic("side"), times=True)),
            "stages": stages,
            "sinks": {tag: self.topic(kind) for tag, kind in sinks.items()},
            "checkpoint_dir": (self.folder / "checkpoints").as_uri(),
            "checkpoint_ms": 200,
        }
        return Job(**(values | changes))  # type: ignore[arg-type]

    def stage(self, **changes: object) -> Stage:
        """A stage keyed by card."""
        values: dict[str, object] = {
            "uid": "counter", "spec": "{}", "main": Port(self.topic("in"), BY_CARD), "opener": OPENER,
        }  # fmt: skip
        return Stage(**(values | changes))  # type: ignore[arg-type]

    def start(self, job: Job) -> str:
        """Submit a job and wait until it runs."""
        id = flink.submit(job, self.cluster.flink)
        self.ids.append(id)
        flink.wait_running(self.cluster.flink, id)
        return id

    def publish(self, kind: str, records: list[tuple[str | None, object]]) -> None:
        """Publish by key; what is not bytes, as JSON."""
        with kafka.Producer(self.cluster.kafka) as producer:
            producer.publish(
                self.topic(kind),
                [
                    (
                        key.encode() if key is not None else None,
                        v if isinstance(v, bytes | None) else json.dumps(v).encode(),
                        (),
                    )
                    for key, v in records
                ],
            )

    def read(
        self, kind: str, enough: Callable[[list[kafka.Record]], bool], seconds: float = 40.0
    ) -> list[kafka.Record]:
        """What is on a topic, as soon as it is enough."""
        found: list[kafka.Record] = []
        deadline = time.monotonic() + seconds
        for batch in kafka.records(self.cluster.kafka, self.topic(kind), until=None):
            found += batch
            if enough(found):
                return found
            if time.monotonic() > deadline:
                failures = [flink.failure(self.cluster.flink, id) for id in self.ids]
                raise AssertionError(f"{kind}: only {len(found)} records: {found[-3:]}; {failures}")
        raise AssertionError("unreachable")

    def decisions(self, enough: Callable[[list[Record]], bool]) -> list[Record]:
        """Decisions, as soon as they are enough."""
        found = self.read("out", lambda records: enough([json.loads(r.value or b"") for r in records]))
        return [json.loads(r.value or b"") for r in found]

    def close(self) -> None:
        """Cancel what runs."""
        for id in self.ids:
            if flink.state(self.cluster.flink, id) not in flink.TERMINAL:
                flink.cancel(self.cluster.flink, id)


@pytest.fixture
def world(cluster: Stack, tmp_path: Path) -> Iterator[World]:
    """Fresh topics; jobs are cancelled at the end."""
    made = World(cluster, tmp_path)
    try:
        yield made
    finally:
        made.close()


def event(card: str, at: int, value: str = "x") -> tuple[str | None, object]:
    """A record keyed by its card."""
    return card, {"card": card, "at": at, "value": value}


def test_keyed_state_and_order(world: World) -> None:
    """State is lost between batches, mixed between keys, or a key's records are out of order."""
    world.start(world.job(world.stage()))
    world.publish("in", [event(f"c{i % 7}", i) for i in range(3000)])
    world.publish("in", [(None, {"card": "c3", "at": 3000, "value": "no key"})])
    found = world.decisions(lambda d: len(d) >= 3001)
    assert sorted(d["total"] for d in found) == list(range(1, 3002))
    for card in range(7):
        mine = [d for d in found if d["key"] == f"c{card}"]
        assert [d["seen"] for d in mine] == list(range(1, len(mine) + 1))
        assert [d["at"] for d in mine if d["value"] == "x"] == list(range(card, 3000, 7))
    assert [d["key"] for d in found if d["value"] == "no key"] == ["c3"]


def test_any_bytes(world: World) -> None:
    """A record that cannot be decoded stops the job, or its dead letter lost its bytes, key, headers."""
    bad: list[tuple[str | None, object]] = [
        ("utf", b"\xff\xfe{"), ("none", None), ("empty", b""), ("deep", b'{"a":' * 50_000), ("list", b"[1]"),
        ("cut", b'{"at": 1'), ("big", b'{"at": "' + b"x" * 2_000_000), (None, b'{"card": 5, "at": 1e999}'),
        (None, None),
    ]  # fmt: skip
    id = world.start(world.job(world.stage()))
    world.publish("in", [*bad, event("good", 1)])
    dead = world.read("dead", lambda found: len(found) >= len(bad))
    assert {(r.key, r.value) for r in dead} == {(k.encode() if k else None, v) for k, v in bad}
    assert all(dict(r.headers)["reason"] == b"bad" for r in dead)
    assert [d["key"] for d in world.decisions(bool)] == ["good"]
    assert flink.state(world.cluster.flink, id) == "RUNNING"


def test_stages_and_timers(world: World) -> None:
    """Rows do not reach the next stage under their key, or a timer does not fire in event time."""
    rows = Stage("rows", '{"rows": true, "stage": "second"}', Port("counter", Key("row"), 1), opener=OPENER)
    world.start(world.job(world.stage(), rows))
    world.publish("in", [event("a", 1, "row"), event("a", 2, "timer 50"), event("b", 3, "timer 9999")])
    assert len(world.decisions(lambda d: len(d) >= 3)) == 3
    world.publish("in", [event("a", 60)])
    [row] = [d for d in world.decisions(lambda d: len(d) >= 4) if d["stage"] == "second"]
    assert (row["key"], row["at"], row["value"]) == ("to-a", 1, "from a row")
    [signal] = world.read("signals", bool)
    assert json.loads(signal.value or b"") == {"key": "a", "timer": 50}


def test_python_error(world: World) -> None:
    """An exception in Python, or an output for nobody, does not name its cause in the job's failure."""
    id = world.start(world.job(world.stage(), restarts=0))
    world.publish("in", [event("a", 1, "boom")])
    reason = _failure(world, id)
    assert "ValueError: planted in the stage" in reason
    assert "operator_stages.py" in reason
    with pytest.raises(MillraceError, match="planted in the stage"):
        flink.wait_running(world.cluster.flink, id)
    other = World(world.cluster, world.folder)
    id = other.start(other.job(other.stage(), restarts=0))
    other.publish("in", [event("a", 1, "tag")])
    assert "stage counter put out a record under tag 77" in _failure(other, id)


def _failure(world: World, id: str) -> str:
    deadline = time.monotonic() + 30
    while flink.state(world.cluster.flink, id) != "FAILED" and time.monotonic() < deadline:
        time.sleep(0.05)
    return flink.failure(world.cluster.flink, id)


def test_mistakes_are_named(world: World) -> None:
    """A job that cannot run is accepted, or refused without saying why."""
    with pytest.raises(MillraceError, match="nowhere"):
        flink.submit(world.job(world.stage(control="nowhere")), world.cluster.flink)
    with pytest.raises(DefinitionError, match="reads 'later'"):
        world.job(world.stage(main=Port("later", Key("row"), 1)))
    with pytest.raises(Unavailable, match="millrace up"):
        flink.jobs("http://127.0.0.1:9")


def test_control(world: World) -> None:
    """An announcement from before the deployment is unknown to the first record, or forgotten on restore."""
    world.publish("control", [("m1", b"one")])
    world.publish("in", [event("a", 1)])
    job = world.job(world.stage(control=world.topic("control")))
    id = world.start(job)
    assert world.decisions(bool)[0]["models"] == ["one"]
    world.publish("control", [("m2", b"two")])
    world.read("signals", lambda found: len(found) >= 2)
    world.publish("in", [event("a", 2)])
    assert world.decisions(lambda d: len(d) >= 2)[1]["models"] == ["one", "two"]
    savepoint = flink.stop_with_savepoint(world.cluster.flink, id, world.folder.as_uri())
    world.publish("in", [event("a", 3)])
    world.start(world.job(*job.stages, savepoint=savepoint, parallelism=2))
    last = world.decisions(lambda d: len(d) >= 3)[2]
    assert sorted(last["models"]) == ["one", "two"]
    assert last["seen"] == 3
    assert last["total"] == 3, "each task gets the objects that were saved"


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
def test_killed_taskmanager(world: World, settings: Settings, delivery: str) -> None:
    """After kill -9 a record is missing, or counted twice in keyed state, the object or a transaction."""
    world.start(world.job(world.stage(), delivery=delivery))
    total = 20_000
    world.publish("in", [event(f"c{i % 50}", i) for i in range(total // 2)])
    world.decisions(lambda d: len(d) >= total // 4)
    stack.kill(settings, "taskmanager-0")
    world.publish("in", [event(f"c{i % 50}", i) for i in range(total // 2, total)])
    stack.up(settings)
    found = world.decisions(lambda d: any(x["total"] == total for x in d))
    assert max(d["total"] for d in found) == total
    assert {(d["key"], d["seen"]) for d in found} == {(f"c{i}", n + 1) for i in range(50) for n in range(total // 50)}
    by_event: dict[int, set[int]] = {}
    for d in found:
        by_event.setdefault(d["at"], set()).add(d["seen"])
    assert all(len(seen) == 1 for seen in by_event.values())
    assert len(by_event) == total
    assert delivery == "at-least-once" or len(found) == total


def _held(world: World, **changes: object) -> Stage:
    """A stage whose main records wait for the outcomes on `side`, each of which takes it a while."""
    side = Port(world.topic("side"), BY_CARD)
    return world.stage(spec=json.dumps({"pause": 0.01}), side=side, hold=True, **changes)


def _told_in_order(found: list[Record], outcomes: int) -> None:
    """Event 10 i + 5 knows the outcomes 0, 10 … 10 i; each event is counted once."""
    for d in found:
        known = [value for value in d["told"] if int(value) < d["at"]]
        assert known == [str(10 * i) for i in range(min(d["at"] // 10 + 1, outcomes))], d
        assert d["seen"] == d["at"] // 10 + 1


def test_hold(world: World) -> None:
    """In a backfill an event is processed before an earlier outcome, or a job that caught up still waits."""
    world.publish("side", [event("a", 10 * i, str(10 * i)) for i in range(60)])
    world.publish("in", [event("a", 10 * i + 5) for i in range(60)])
    world.start(world.job(_held(world), batch=4))
    _told_in_order(world.decisions(lambda d: len(d) >= 60), 60)
    began = time.monotonic()
    world.publish("in", [event("a", 605)])
    _told_in_order(world.decisions(lambda d: len(d) >= 61), 60)
    assert time.monotonic() - began < 10, "waited for an outcome that nobody promised"


def test_hold_outlives_a_crash(world: World, settings: Settings) -> None:
    """What waits for an outcome when its TaskManager is killed is lost, repeated or out of order."""
    producer = Client(
        {
            "bootstrap.servers": world.cluster.kafka,
            "transactional.id": world.name,
            "partitioner": "murmur2_random",
        }
    )
    producer.init_transactions()
    world.publish("side", [event("a", 0, "0")])
    # Until the transaction ends, the source knows that there is more to read, and cannot read it.
    producer.begin_transaction()
    for i in range(1, 60):
        producer.produce(world.topic("side"), json.dumps(event("a", 10 * i, str(10 * i))[1]), "a")
    producer.flush()
    world.publish("in", [event("a", 10 * i + 5) for i in range(60)])
    id = world.start(world.job(_held(world)))
    before = _checkpoints(world, id)
    while _checkpoints(world, id) < before + 2:
        time.sleep(0.02)
    stack.kill(settings, "taskmanager-0")
    producer.commit_transaction()
    assert len(kafka_values(world)) < 3, "nothing was waiting any more"
    stack.up(settings)
    found = world.decisions(lambda d: any(x["at"] == 595 for x in d))
    _told_in_order(found, 60)
    assert {d["at"] for d in found} == {10 * i + 5 for i in range(60)}


def _fill(world: World, partition: int, times: Iterable[int]) -> None:
    """Events of one card in one partition, each of which goes on to the next stage as a row."""
    producer = Client({"bootstrap.servers": world.cluster.kafka})
    for at in times:
        card, value = event(f"p{partition}", at, "row")
        producer.produce(world.topic("in"), json.dumps(value), card, partition)
        producer.poll(0)
    assert producer.flush() == 0


def _two_stages(world: World, **changes: object) -> Job:
    rows = Stage("rows", '{"rows": true}', Port("counter", Key("row"), 1), opener=OPENER)
    return world.job(world.stage(), rows, **changes)


def test_partitions_in_order(world: World) -> None:
    """In a backfill a second stage takes events in the order of reading, not of time; or a live event waits."""
    _fill(world, 0, range(0, 10_000, 2))
    _fill(world, 1, range(1, 10_000, 2))
    job = _two_stages(world)
    id = world.start(job)
    found = world.decisions(lambda d: len(d) >= 10_000)
    assert [d["at"] for d in found] == list(range(10_000))
    began = time.monotonic()
    _fill(world, 0, [20_000])
    world.decisions(lambda d: len(d) == 10_001)
    assert time.monotonic() - began < 10, "waited for the other partition, where nothing is to come"
    savepoint = flink.stop_with_savepoint(world.cluster.flink, id, world.folder.as_uri())
    _fill(world, 1, [20_001])
    world.start(_two_stages(world, savepoint=savepoint, parallelism=2))
    assert world.decisions(lambda d: len(d) == 10_002)[-1]["seen"] == 5_001


def test_drift(world: World) -> None:
    """In a backfill a partition that is ahead in time is read on, and all of it waits in memory and checkpoints."""
    count = 50_000
    _fill(world, 0, range(count))
    _fill(world, 1, range(10**9, 10**9 + count))
    whole = {"state.changelog.enabled": "false"}  # so that a checkpoint's size is that of what waits
    id = world.start(_two_stages(world, drift_ms=1000, batch=4, settings=whole))
    found = world.decisions(lambda d: len(d) >= 2 * count)
    assert [d["at"] for d in found] == [*range(count), *range(10**9, 10**9 + count)]
    sizes = flink._call(world.cluster.flink, "GET", f"/jobs/{id}/checkpoints")["summary"]["state_size"]
    assert sizes["max"] < count * 25, "found more than two thirds of what is ahead in a checkpoint"


def kafka_values(world: World) -> list[bytes | None]:
    """What is on the decision topic now."""
    return [r.value for batch in kafka.records(world.cluster.kafka, world.topic("out")) for r in batch]


def _checkpoints(world: World, id: str) -> int:
    return int(flink._call(world.cluster.flink, "GET", f"/jobs/{id}/checkpoints")["counts"]["completed"])
