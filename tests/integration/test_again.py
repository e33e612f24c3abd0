"""After a crash, what was decided already is decided again by the model that did, whichever serves by now."""

import json
import time
from pathlib import Path

import pytest

from models.linear import linear
from models.registry import Registry, announcement
from schemas import frames
from schemas.models import encode
from schemas.topics import Topics
from streaming import kafka
from streaming.again import Again
from streaming.resident import FeatureOperator
from streaming.serving import Services, Serving
from streaming.stack import Stack
from tests.unit.streaming.test_loop import OWN, small
from tests.unit.streaming.test_same_decisions import source

pytestmark = pytest.mark.services
A, B, GONE = (linear("small", {"value": weight, "key_count_1h": 0.0}) for weight in (0.1, 0.2, 0.4))

AT = 1_700_000_000_000


class Job:
    """The last stage of a job that learns, from a snapshot or from nothing; its decisions go to their topic."""

    def __init__(self, services: Stack, topics: Topics, registry: Registry, snapshot: bytes | None = None):
        plan = small()
        of = Services(registry=str(registry.url), brokers=services.kafka)
        again = Again(plan, topics, of)
        self._operator = FeatureOperator(plan, topics, plan.stages[0], Serving(plan, 0, of), again)
        self._brokers, self._topics, self._registry = services.kafka, topics, registry
        if snapshot is not None:
            self._operator.restore(snapshot)

    def promote(self, version: str) -> None:
        """A version becomes champion, before or between two batches."""
        self._registry.promote(self._topics.name, version)
        self._operator.control(encode(announcement(self._registry, self._topics.name)))
        self._operator._models._loading.acquire()  # type: ignore[union-attr]  # its thread is through
        self._operator._models._loading.release()  # type: ignore[union-attr]

    def decide(self, first: int, last: int) -> tuple[list[bytes], list[str]]:
        """The decisions on events of keys of their own, and models that were refused."""
        keys = [f"k{i}".encode() for i in range(first, last)]
        events = [{"id": key.decode(), "at": AT, "key": key.decode(), "value": 3.0} for key in keys]
        values = [json.dumps(event).encode() for event in events]
        rows = list(range(len(keys)))
        sent = [source(value, key, i) for i, (key, value) in enumerate(zip(keys, values, strict=True))]
        request = frames.build_request(rows, [0] * len(rows), sent, keys, [b""] * len(rows), rows, rows)
        outputs = frames.parse_response(self._operator.process(request))[0]
        said = [frames.sink_parts(frame) for tag, frame in outputs if tag == frames.DECISION]
        signals = [json.loads(frames.sink_parts(frame)[1] or b"") for tag, frame in outputs if tag == frames.SIGNAL]
        with kafka.Producer(self._brokers) as producer:
            producer.publish(self._topics.decisions, [(key, value, ()) for key, value, *_ in said])
        return [value or b"" for _, value, *_ in said], [signal["detail"]["model"] for signal in signals]

    def snapshot(self) -> bytes:
        """What a checkpoint would keep."""
        return self._operator.snapshot(b"")


def by(decisions: list[bytes]) -> list[str]:
    """Who decided."""
    return [json.loads(decision)["model"] for decision in decisions]


def test_repeats_are_decided_by_the_model_that_decided(services: Stack, tmp_path: Path) -> None:
    """If this fails, a crash while models change makes two different decisions on one event."""
    topics, registry = Topics("small-again"), Registry(tmp_path / "models")
    for model in (A, B, GONE):
        registry.register(topics.name, model)
    kafka.create_topics(services.kafka, {topics.decisions: {}}, 2)
    job = Job(services, topics, registry)
    job.decide(0, 10)
    time.sleep(1.5)  # longer ago than clocks may differ
    snapshot = job.snapshot()
    said = job.decide(10, 20)[0]
    job.promote(A.version)
    said += job.decide(20, 30)[0]
    assert by(said) == [OWN.version] * 10 + [A.version] * 10
    with kafka.Producer(services.kafka) as producer:  # nobody can say it again; nor does this stop anything
        other = json.dumps({"id": "k30", "model": GONE.version[:-1] + "x"}).encode()
        producer.publish(topics.decisions, [(b"k30", other, ()), (b"", b"\xff no decision", ())])

    restored = Job(services, topics, registry, snapshot)
    restored.promote(B.version)
    again, refused = restored.decide(5, 35)
    assert again[5:25] == said
    assert by(again[:5]) + by(again[25:]) == [B.version] * 10
    assert refused == [GONE.version[:-1] + "x"]
    assert by(restored.decide(10, 30)[0]) == [B.version] * 20, "each is said again once"
