"""The ledger and `explain` on topics that a real job wrote, through a kill, a duplicate, dead letters and outcomes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from models.policy import DIGITS
from schemas.topics import Topics
from streaming import jobs, kafka
from streaming.commands import options
from streaming.commands.explain import again, find
from streaming.commands.ledger import Books
from streaming.simulator import Spec
from streaming.workloads import Reference
from tests.world import Data, World, wait

pytestmark = pytest.mark.services
Make = Callable[..., World]
LEARNS = Reference("fraud", set={"learn": "true"})


def closed(job: World, memory: int = 1024, patience: float = 60.0) -> Any:
    """What the ledger says."""
    books = Books(job.services.kafka, job.workload, job.topics, memory, patience)
    with options.progress("read", books.records, quiet=True) as (bar, task):
        return books.close(bar, task)


def send(job: World, topic: str, *values: bytes, key: bytes = b"x") -> None:
    """Publish values as they are."""
    with kafka.Producer(job.services.kafka) as producer:
        producer.publish(topic, [(key, value, ()) for value in values])


def test_every_record_is_accounted_for(world: Make) -> None:
    """If this fails, a job lost, doubled or changed a record, or the ledger takes a right one for wrong."""
    data = Data.simulated(Spec(cards=200, terminals=400, days=16))
    job = world(reference=LEARNS)
    job.deploy()
    job.publish(data.events, data.outcomes)
    job.reach(len(data.events) // 2)
    job.kill("taskmanager-0")
    job.mend()
    again_ = json.loads(data.events[-1])
    send(job, job.topics.events, data.events[-1], key=again_["card"].encode())
    send(job, job.topics.events, b"no event", b'{"id": 5}')
    send(job, job.topics.outcomes, b"no outcome", b'{"event": "nobody", "at": 1, "label": true}')
    job.reach(len(data.events) // 2)  # the ledger waits for the rest
    wait(lambda: len(job.everything(job.topics.deadletters)) >= 3, 60, "dead letters")
    wait(lambda: any(b'"evaluation"' in s for s in job.everything(job.topics.signals)), 60, "an evaluation")
    found = closed(job)
    assert found["holds"], json.dumps(found, indent=1)
    n = len(data.events)
    assert found["events"] == {"records": n + 3, "decided": n, "dead": 2, "duplicates": 1, "lost": 0}
    outcomes = found["outcomes"]
    assert (outcomes["dead"], outcomes["unknown"], outcomes["unsampled"], outcomes["lost"]) == (1, 1, 0, 0)
    assert outcomes["learned"] == found["examples"]["ids"] > 0
    assert 0 < found["learned"] <= found["examples"]["ids"]
    assert sum(count for kind, count in outcomes.items() if kind != "records") == outcomes["records"]

    _explained(job)
    job.stop()
    send(job, job.topics.events, b'{"id": "late", "at": 1, "card": "1", "terminal": "1", "amount": 1.0}')
    said = json.loads(job.everything()[0])
    send(job, job.topics.decisions, json.dumps(said | {"score": 0.123}).encode())
    found = closed(job, patience=1.0)
    assert [one["id"] for one in found["counterexamples"]] == [said["id"]]
    assert "something else" in found["counterexamples"][0]["kind"]
    assert (found["events"]["lost"], found["events"]["unread"]) == (0, 1)

    cut = job.topics.events, job.topics.outcomes, job.topics.decisions, job.topics.examples
    for topic in cut:
        truncate(job, topic, 100)
    found = closed(job, patience=1.0)
    assert found["holds"], found  # what was wrong may be right by what is gone: `late` may repeat an event
    assert found["events"]["untold"] >= 1
    assert set(found["gone"]) == set(cut)
    assert found["gone"][job.topics.events]["records"] == n + 4 - 100
    assert found["learned"] > found["examples"]["ids"]

    assert jobs._unread(job.topics, job.services.kafka, job.settings) == {}
    send(job, job.topics.events, *[b"after the stop"] * 9)  # and `late` was
    truncate(job, job.topics.events, 4)
    assert jobs._unread(job.topics, job.services.kafka, job.settings) == {job.topics.events: 6}, "deploy says so"


def test_events_that_were_gone_before_they_were_decided(world: Make) -> None:
    """If this fails, events that retention took before any job came pass for accounted for, or all of them for lost."""
    job = world()
    event = b'{"id": "%d", "at": 1, "card": "1", "terminal": "1", "amount": 1.0}'
    send(job, job.topics.events, *(event % number for number in range(5)))
    truncate(job, job.topics.events, 0)
    found = closed(job, patience=0.0)
    assert found["gone"] == {job.topics.events: {"records": 5, "known": 0, "unaccounted": 5}}
    assert [one["kind"] for one in found["counterexamples"]] == ["5 records are gone, and none was ever decided"]
    send(job, job.topics.decisions, b'{"id": "3", "key": "1", "at": 1}')
    found = closed(job, patience=0.0)
    assert found["holds"], found
    assert found["gone"] == {job.topics.events: {"records": 5, "known": 1, "unaccounted": 4}}


def truncate(job: World, topic: str, keep: int) -> None:
    """Delete all but the newest records of a topic, as retention does."""
    end = kafka.end_offsets(job.services.kafka, topic)[0]
    admin = AdminClient({"bootstrap.servers": job.services.kafka})
    for done in admin.delete_records([TopicPartition(topic, 0, end - keep)]).values():
        done.result(timeout=30)


def _explained(job: World) -> None:
    """Some examples, computed again."""
    topics: Topics = job.topics
    for value in job.everything(topics.examples)[::500]:
        example = json.loads(value)
        decided = find(job.services.kafka, topics.decisions, "id", example["event"], lambda _: None)
        told = again(job.workload, decided[0][0], example["features"], str(job.settings.home / "models"))
        model, score = decided[0][0]["model"], decided[0][0]["score"]
        assert round(example["scores"][model], DIGITS) == score
        # What was decided before the kill is said again as it was, also where outcomes have changed its features.
        assert told["agrees"] or len(decided) > 1, (decided, told["score_again"])
    assert find(job.services.kafka, topics.decisions, "id", "nobody", lambda _: None) == []
