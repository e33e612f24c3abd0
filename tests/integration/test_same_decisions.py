"""Replay and a cluster make the same decisions from the same topics, byte for byte, whatever is killed on the way."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer as Client

from streaming import kafka, stack
from streaming.plan import plan
from streaming.replay import Replay
from streaming.settings import Settings
from streaming.simulator import Spec
from streaming.stack import Stack
from streaming.workloads import resolve
from tests.world import FRAUD, Data, World, replayed, wait

pytestmark = pytest.mark.services
Make = Callable[..., World]
HOUR = 3_600_000


def test_backfill_with_a_kill(world: Make) -> None:
    """If this fails, a backfill is no replay: a label came late, or a crash lost or changed something."""
    data = Data.simulated(Spec(cards=2_000, terminals=4_000, days=27))
    assert len(data.events) > 100_000
    job = world()
    job.publish(data.events, data.outcomes)
    job.deploy()
    job.reach(len(data.events) // 4)
    job.kill("taskmanager-0")
    job.mend()
    job.finish(data.expected)


@pytest.mark.parametrize("partitions", [1, 2])
def test_in_parallel(home: Settings, services: Stack, tmp_path: Path, data: Data, partitions: int) -> None:
    """If this fails, a terminal's events, which come from two tasks, are not taken in the order of time."""
    where = {"home": tmp_path / "two", "kafka": services.kafka, "redis": services.redis}
    shared = replace(home, **where, slots=1, taskmanagers=2, state="rocksdb" if partitions == 2 else "hashmap")
    try:
        two = stack.up(shared)
        job = World(shared, two, tmp_path, f"parallel{partitions}", partitions=partitions, parallelism=2)
        job.publish(data.events, data.outcomes)
        job.deploy()
        job.reach(len(data.events) // 4)
        job.kill("taskmanager-1")
        job.mend()
        job.finish(data.expected)
    finally:
        stack.down(shared)


def held(job: World, outcome: bytes) -> Client:
    """A transaction on the outcomes in which one is: until it ends no outcome can be read, and events wait for them."""
    producer = Client({"bootstrap.servers": job.services.kafka, "transactional.id": job.name})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(job.topics.outcomes, outcome, json.loads(outcome)["event"])
    producer.flush()
    return producer


def test_scaled_down_in_a_backfill(world: Make, data: Data) -> None:
    """If this fails, what two tasks held when a job was stopped is let go in another order than that of time."""
    job = world(parallelism=2)
    producer = held(job, data.outcomes[0])
    job.publish(data.events, data.outcomes[1:])
    job.deploy()
    before = job.checkpoints()
    wait(lambda: job.checkpoints() > before + 1, 30, "checkpoints")
    job.stop()
    producer.commit_transaction()
    assert len(job.everything()) < len(data.expected) // 2, "nothing was waiting any more"
    job.settings = replace(job.settings, parallelism=1)
    job.deploy()
    job.finish(data.expected)


def test_a_late_event_behind_a_stop(world: Make, data: Data) -> None:
    """If this fails, an event whose time goes back passes those of its card that were read before a stop and wait."""
    events = [json.loads(event) for event in data.events]
    card = max({event["card"] for event in events}, key=lambda card: sum(event["card"] == card for event in events))
    mine = [event for event in events if event["card"] == card]
    late = mine[-1] | {"id": "late", "at": mine[-1]["at"] - 1_800_000, "amount": 500.0}
    values = [json.dumps(event).encode() for event in (*mine, late)]
    job = world(partitions=2)
    producer = held(job, data.outcomes[0])
    job.publish(values[:-1])
    job.deploy()
    before = job.checkpoints()
    wait(lambda: job.checkpoints() > before + 1, 30, "checkpoints")
    job.stop()
    job.publish(values[-1:])
    producer.commit_transaction()
    job.deploy()
    job.finish(replayed(FRAUD, values, data.outcomes[:1]))


@pytest.mark.parametrize("parallelism", [1, 2])
def test_late_events(world: Make, parallelism: int) -> None:
    """If this fails, the label of an event whose time goes back is told before that event has come, or is late for the
    next; or one stage takes an event by its own time, another by that of its partition (there is one: what comes from
    several has the order of their times)."""
    made, draw = Data.simulated(Spec(cards=150, terminals=60, days=20)), np.random.default_rng(7)
    events = [json.loads(event) for event in made.events]
    at = np.array([event["at"] for event in events])
    comes = at + np.where(draw.random(len(at)) < 0.1, draw.integers(0, 8 * HOUR, len(at)), 0)
    since = (at + draw.integers(HOUR // 6, 4 * HOUR, len(at))).tolist()
    known = {event["id"]: time for event, time in zip(events, since, strict=True)}
    told = [one | {"at": known[one["event"]]} for one in map(json.loads, made.outcomes)]
    values = [made.events[row] for row in np.argsort(comes, kind="stable").tolist()]
    truths = [json.dumps(one).encode() for one in sorted(told, key=lambda one: one["at"])]
    job = world(parallelism=parallelism)
    with kafka.Producer(job.services.kafka) as producer:
        for value in values:
            producer.publish(job.topics.events, [(json.loads(value)["card"].encode(), value, ())])
        for value in truths:
            producer.publish(job.topics.outcomes, [(json.loads(value)["event"].encode(), value, ())])
    job.deploy()
    job.reach(len(values) // 4)
    job.kill("taskmanager-0")
    job.mend()
    job.finish(replayed(FRAUD, values, truths))


def test_ids_that_keys_share_and_long_numbers(world: Make, data: Data) -> None:
    """If this fails, a label goes to another key's event of the same id, whichever is read first, or a number that
    nobody reads takes its event the label."""
    values = [json.loads(event) for event in data.events]
    for i in range(500, len(values), 100):
        values[i]["id"] = values[i - 450]["id"]
    digits = b'{"note":' + b"1" * 1500 + b","
    events = [json.dumps(value).encode() for value in values]
    events[::7] = [digits + event[1:] for event in events[::7]]
    steps = Replay(plan(resolve(FRAUD)), time.time_ns() // 1_000_000).run(events, data.outcomes)
    expected = sorted(value for step in steps for value in step.decided.values if value is not None)
    job = world(partitions=3)
    job.publish(events, data.outcomes)
    job.deploy()
    job.reach(len(expected))
    assert sorted(job.everything()) == expected


def test_fewer_partitions_than_tasks(world: Make, data: Data) -> None:
    """If this fails, a job of more tasks than its topics have partitions says nothing for ten seconds."""
    job = world(parallelism=2)
    job.deploy()
    began = time.monotonic()
    job.publish(data.events[:10])
    job.reach(10)
    assert time.monotonic() - began < 4
