"""After a crash, what was said already is said again, whichever model serves and whatever is known by now."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from models.linear import linear
from models.registry import Registry, announcement
from schemas import frames
from schemas.models import encode
from schemas.topics import Topics
from streaming import kafka
from streaming.again import Again
from streaming.loop import Served
from streaming.resident import FeatureOperator
from streaming.serving import Services, Serving
from streaming.simulator import Spec
from streaming.stack import Stack
from tests import java
from tests.unit.streaming.test_loop import OWN, small
from tests.unit.streaming.test_same_decisions import source
from tests.world import Data, World, wait

pytestmark = pytest.mark.services
A, B = (linear("small", {"value": weight, "key_count_1h": 0.0}) for weight in (0.1, 0.2))

AT = 1_700_000_000_000


class Job:
    """The last stage of a job that learns, from a snapshot or from nothing; its decisions go to their topic."""

    def __init__(
        self, services: Stack, topics: Topics, registry: Registry, snapshot: bytes | None = None, since: int = 0
    ):
        plan = small()
        of = Services(registry=str(registry.url), brokers=services.kafka)
        again = Again(services.kafka, topics.decisions, since)
        self._operator = FeatureOperator(plan, topics, plan.stages[0], Serving(plan, 0, of), again)
        self._brokers, self._topics, self._registry = services.kafka, topics, registry
        if snapshot is not None:
            self._operator.restore(snapshot)

    def take_up(self) -> None:
        """What the registry says by now serves, before or between two batches."""
        self._operator.control(encode(announcement(self._registry, self._topics.name)))
        self._operator._models._loading.acquire()  # type: ignore[union-attr]  # its thread is through
        self._operator._models._loading.release()  # type: ignore[union-attr]

    def decide(self, first: int, last: int) -> tuple[list[bytes], list[Served]]:
        """The decisions on events of keys of their own, and what waits for an outcome."""
        keys = [f"k{i}".encode() for i in range(first, last)]
        events = [{"id": key.decode(), "at": AT, "key": key.decode(), "value": 3.0} for key in keys]
        values = [json.dumps(event).encode() for event in events]
        rows = list(range(len(keys)))
        sent = [source(value, key, i) for i, (key, value) in enumerate(zip(keys, values, strict=True))]
        request = java.build_request(rows, [0] * len(rows), sent, keys, [b""] * len(rows), rows, rows)
        outputs = java.parse_response(self._operator.process(request))[0]
        said = [java.sink_parts(frame) for tag, frame in outputs if tag == frames.DECISION]
        waits = [msgspec.msgpack.decode(frames.payload(f), type=Served) for tag, f in outputs if tag == frames.PENDING]
        with kafka.Producer(self._brokers) as producer:
            producer.publish(self._topics.decisions, [(key, value, ()) for key, value, *_ in said])
        return [value or b"" for _, value, *_ in said], waits

    def snapshot(self) -> bytes:
        """What a checkpoint would keep."""
        return self._operator.snapshot(b"")


def by(decisions: list[bytes]) -> list[str]:
    """Who decided."""
    return [json.loads(decision)["model"] for decision in decisions]


def test_repeats_say_what_was_said(services: Stack, tmp_path: Path) -> None:
    """If this fails, a crash while models change makes two different decisions on one event."""
    topics, registry = Topics("small-again"), Registry(tmp_path / "models")
    for model in (A, B):
        registry.register(topics.name, model)
    kafka.create_topics(services.kafka, {topics.decisions: {}}, 2)
    job = Job(services, topics, registry)
    job.decide(0, 10)
    time.sleep(1.5)  # longer ago than clocks may differ
    snapshot, taken = job.snapshot(), time.time_ns() // 1_000_000
    said, waits = job.decide(10, 20)
    registry.promote(topics.name, A.version)
    job.take_up()
    said, waits = (before + after for before, after in zip((said, waits), job.decide(20, 30), strict=True))
    assert by(said) == [OWN.version] * 10 + [A.version] * 10
    other = json.dumps({"id": "k30", "key": "k30", "at": AT, "model": "gone", "score": 0.25}).encode()
    others = [json.dumps({"id": f"k{i}", "key": "x", "at": AT, "model": "gone"}).encode() for i in range(31, 35)]
    with kafka.Producer(services.kafka) as producer:  # from a model that nobody has, and from nobody knows whom
        half = (b'{"id": "k31", "model": ""}', b'{"id": "k32", "model": "a", "score": null}', b'{"id": "k33')
        many = b'{"id": "k31",\n "model": "a"}'
        strange = (many, *half, b"\xff no decision", b'{"id": "\xff"}', b"[" * 50_000, b"")
        producer.publish(topics.decisions, [(b"k30", other, ()), *((b"", value, ()) for value in (*strange, *others))])

    registry.promote(topics.name, B.version)
    for restored in (Job(services, topics, registry, snapshot), Job(services, topics, registry, since=taken)):
        restored.take_up()
        again, waiting = restored.decide(5, 35)
        assert again[5:26] == [*said, other]
        assert by(again[:5]) + by(again[26:]) == [B.version] * 9
        by_id = {one.key: one for one in waiting}
        for one in waits:  # taught as it was served; what serves now is scored beside
            assert by_id[one.key].versions[0] == one.versions[0]
            assert B.version in by_id[one.key].versions[1:]
            assert by_id[one.key].scores[0] == pytest.approx(one.scores[0], abs=1e-6)
        assert by_id["k30"].versions[:2] == ("gone", B.version)
        assert by_id["k30"].scores[0] == 0.25
        assert by(restored.decide(10, 30)[0]) == [B.version] * 20, "each is said again once"


def test_repeats_of_a_job_without_checkpoint(world: Callable[..., World]) -> None:
    """If this fails, outcomes that came late change what was decided before they came, or --fresh decides nothing."""
    data = Data.simulated(Spec(cards=200, terminals=100, days=30))
    job = world()
    job.settings = replace(job.settings, checkpoint=600_000)
    job.deploy()
    wait(lambda: job.checkpoints() > 0, 60, "the checkpoint that Flink takes at the start")
    job.publish(data.events)
    job.decided(data.expected)
    first = dict.fromkeys(job.everything())
    assert len(first.keys() - set(data.expected.values())) > 100, "outcomes would have changed decisions"
    job.publish((), data.outcomes)
    job.close()
    shutil.rmtree(job.settings.home / "checkpoints" / job.name)
    assert job.deploy().savepoint is None
    job.reach(2 * len(data.events))
    assert dict.fromkeys(job.everything()) == first
    job.close()
    job.deploy(fresh=True)
    job.reach(3 * len(data.events))
    assert set(job.everything()[-len(data.events) :]) == set(data.expected.values())
