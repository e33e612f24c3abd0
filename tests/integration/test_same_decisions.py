"""Replay and a cluster make the same decisions from the same topics, byte for byte, whatever is killed on the way."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer as Client

from streaming import stack
from streaming.settings import Settings
from streaming.simulator import Spec
from streaming.stack import Stack
from tests.world import Data, World, wait

pytestmark = pytest.mark.services
Make = Callable[..., World]


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


def test_scaled_down_in_a_backfill(world: Make, data: Data) -> None:
    """If this fails, what two tasks held when a job was stopped is let go in another order than that of time."""
    job = world(parallelism=2)
    producer = Client({"bootstrap.servers": job.services.kafka, "transactional.id": job.name})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(job.topics.outcomes, data.outcomes[0], json.loads(data.outcomes[0])["event"])
    producer.flush()  # until the transaction ends, no outcome can be read, and every event waits for them
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


def test_fewer_partitions_than_tasks(world: Make, data: Data) -> None:
    """If this fails, a job of more tasks than its topics have partitions says nothing for ten seconds."""
    job = world(parallelism=2)
    job.deploy()
    began = time.monotonic()
    job.publish(data.events[:10])
    job.reach(10)
    assert time.monotonic() - began < 4
