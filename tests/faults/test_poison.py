"""No bytes stop a job: what cannot be decided becomes one dead letter, whole, with its reason and where it stood."""

import json
import time
from collections import Counter
from collections.abc import Callable

import pytest

from schemas.codec import KINDS
from streaming import kafka
from tests.world import Data, World

pytestmark = pytest.mark.services
Make = Callable[..., World]
Bad = tuple[str, bytes | None, bytes | None]
"""Kind of dead letter, key and value."""

GOOD = {"id": "p", "at": 1_525_000_000_000, "card": "c1", "terminal": "m1", "amount": 10.0}
TOLD = {"event": "p", "at": 1_525_000_000_000, "label": True}


def spoilt(good: dict[str, object], **changes: object) -> bytes:
    """A record with some fields changed; None leaves one out."""
    return json.dumps({k: v for k, v in (good | changes).items() if v is not None}).encode()


def anything(good: dict[str, object], field: str) -> list[Bad]:
    """What is no record of any kind; `field` is a text field of `good`."""
    key = str(good[field]).encode()
    future = int(time.time() * 1000) + 3_600_000
    deep = b'{"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    return [
        ("null", key, None), ("syntax", key, b""), ("encoding", key, b"\xff\xfe" + spoilt(good)),
        ("encoding", b"\xed\xa0\x80", spoilt(good)[:-1] + b', "x": "\xed\xa0\x80"}'),
        ("syntax", key, b"not json"), ("syntax", key, spoilt(good)[:-1]), ("wrong-type", key, b"[1, 2]"),
        ("wrong-type", key, b"42"), ("wrong-type", key, b'"text"'), ("depth", key, deep),
        ("missing-field", key, spoilt(good, **{field: None})), ("wrong-type", key, spoilt(good, at="yesterday")),
        ("wrong-type", key, spoilt(good, at=1.5)), ("out-of-range", key, spoilt(good, at=-1)),
        ("out-of-range", key, spoilt(good, at=10**30)), ("future", key, spoilt(good, at=future)),
        ("too-large", key, spoilt(good, padding="x" * 2_000_000)), ("missing-field", None, b"{}"),
        ("null", None, None), ("missing-field", b"\xff\x00", b"{}"), ("out-of-range", key, spoilt(good, **{field: ""})),
        ("out-of-range", key, spoilt(good, **{field: "x" * 300})),
    ]  # fmt: skip


def bad_events() -> list[Bad]:
    """Everything that is no transaction."""
    nan = spoilt(GOOD).replace(b"10.0", b"NaN")
    return [
        *anything(GOOD, "card"), ("syntax", b"c1", nan), ("not-finite", b"c1", spoilt(GOOD).replace(b"10.0", b"1e400")),
        ("wrong-type", b"c1", spoilt(GOOD, amount="10")), ("key-mismatch", b"c2", spoilt(GOOD)),
        ("key-mismatch", b"", spoilt(GOOD)), ("key-mismatch", b"\xff", spoilt(GOOD)),
    ]  # fmt: skip


def bad_outcomes() -> list[Bad]:
    """Everything that is no outcome."""
    return [*anything(TOLD, "event"), ("wrong-type", b"p", spoilt(TOLD, label="yes"))]


def test_poison(world: Make, data: Data) -> None:
    """If this fails, some bytes stop the job, vanish, or come back changed or without their reason."""
    job = world()
    job.deploy()
    half = len(data.events) // 2
    job.publish(data.events[:half])
    sent = {job.topics.events: bad_events(), job.topics.outcomes: bad_outcomes()}
    with kafka.Producer(job.services.kafka) as producer:
        for topic, records in sent.items():
            producer.publish(topic, [(key, value, ()) for _, key, value in records])
    job.publish(data.events[half:])
    job.decided(data.expected)
    wanted = sum(map(len, sent.values()))
    job.read(job.topics.deadletters, lambda found: len(found) >= wanted)
    assert job.failure() == ""
    attempts = [job.rest(f"/vertices/{v['id']}")["subtasks"][0]["attempt"] for v in job.rest()["vertices"]]
    assert attempts == [0] * len(attempts)
    job.stop()
    found = [r for batch in kafka.records(job.services.kafka, job.topics.deadletters) for r in batch]
    assert len(found) == wanted
    where = {
        (topic, record.offset): record
        for topic in sent
        for batch in kafka.records(job.services.kafka, topic)
        for record in batch
    }
    reasons: dict[str, list[tuple[str, bytes | None, bytes | None]]] = {topic: [] for topic in sent}
    for letter in found:
        headers = {name: (value or b"").decode() for name, value in letter.headers}
        source = where[headers["topic"], int(headers["offset"])]
        assert (letter.key, letter.value) == (source.key, source.value)
        assert int(headers["timestamp"]) == source.timestamp
        assert headers["detail"]
        assert headers["reason"] in KINDS
        reasons[headers["topic"]].append((headers["reason"], letter.key, letter.value))
    for topic, records in sent.items():
        missing, strange = Counter(records) - Counter(reasons[topic]), Counter(reasons[topic]) - Counter(records)
        assert not missing, [(kind, key, str(value)[:90]) for kind, key, value in [*missing, *strange]]
