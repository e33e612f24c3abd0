"""kill -9 of every part while events flow: nothing is lost, and what is decided twice is decided the same."""

import json
import signal
import time
from collections.abc import Callable

import pytest

from streaming import jobs, kafka, stack
from streaming.commands.doctor import _jobs
from tests.world import Data, World, wait

pytestmark = pytest.mark.services
Make = Callable[..., World]
UP = "millrace up: the job then goes on by itself"


def assert_whole(found: list[bytes], data: Data) -> None:
    """Each event has a decision, and repeats say the same.

    One repeat in a hundred may differ: a live job waits for no outcome, and one that came right before the crash
    may come right after the event when both are read again.
    """
    first: dict[str, bytes] = {}
    repeats = differ = 0
    for value in found:
        id = json.loads(value)["id"]
        repeats += id in first
        differ += value != first.setdefault(id, value)
    assert first.keys() == data.expected.keys()
    assert differ * 100 <= repeats


def test_taskmanager_thrice(world: Make, data: Data) -> None:
    """If this fails, a crash of the worker loses decisions, or contradicts what was decided before; or doctor has a job
    cancelled that only waits for a part."""
    job = world()
    job.deploy()
    sending = job.publishing(data.events, data.outcomes, 1_500)
    for number in (3_000, 9_000, 15_000):
        job.reach(number)
        job.kill("taskmanager-0")
        if number == 3_000:
            wait(lambda: [f.mend for f in _jobs(job.settings) if not f.well] == [UP], 30, "a finding")
        job.mend()
    sending.finish()
    job.decided(data.expected)
    job.stop()
    assert_whole(job.everything(), data)


def test_broker(world: Make, data: Data) -> None:
    """If this fails, an outage of Kafka loses events or decisions, or the job does not come back by itself."""
    job = world()
    job.deploy()
    sending = job.publishing(data.events, data.outcomes, 1_500)
    job.reach(4_000)
    job.kill("kafka")
    job.mend()
    sending.finish()
    job.decided(data.expected)
    job.stop()
    assert_whole(job.everything(), data)


def test_jobmanager(world: Make, data: Data) -> None:
    """If this fails, a job that died with its JobManager starts over, forgets what it knew, or is not missed."""
    job = world()
    half = len(data.events) // 2
    job.publish(data.events[:half], data.outcomes)
    job.deploy()
    job.reach(half // 2)
    wait(lambda: job.checkpoints() > 0, 30.0, "a checkpoint to go on from")
    jobs.expect(job.name, job.settings, "millrace deploy this")
    assert all(finding.well for finding in _jobs(job.settings))
    job.kill("jobmanager")
    job.mend()
    assert [finding.mend for finding in _jobs(job.settings) if not finding.well] == ["millrace deploy this"]
    jobs.expect(job.name, job.settings, None)
    assert all(finding.well for finding in _jobs(job.settings))
    job.publish(data.events[half:])
    deployed = job.deploy()
    assert deployed.savepoint is not None
    assert "/chk-" in deployed.savepoint
    job.finish(data.expected)


def test_hung_broker_in_a_backfill(world: Make, data: Data) -> None:
    """If this fails, events are decided without labels that were on the topic: silence passed for its end."""
    job = world()
    job.publish(data.events, data.outcomes)
    job.deploy()
    job.reach(len(data.events) // 4)
    stack.kill(job.settings, "kafka", signal.SIGSTOP)
    try:
        time.sleep(12)  # not to wait for anything: a source gives up on a partition that is silent for so long
    finally:
        stack.kill(job.settings, "kafka", signal.SIGCONT)
    job.finish(data.expected)


def test_publisher_leaves_the_cores_to_a_hung_broker(world: Make) -> None:
    """If this fails, a publisher spins while its broker holds requests up, and takes the core that the broker needs."""
    job = world()
    topic = job.topics.events
    busy: list[float] = []
    with kafka.Producer(job.services.kafka) as producer:
        for number in range(6):
            producer.publish(topic, [(b"k", b"{}", ())] * 20)
            time.sleep(0.1 + number / 100)  # requests are in flight at another moment each time
            stack.kill(job.settings, "kafka", signal.SIGSTOP)
            try:
                began, used = time.monotonic(), time.process_time()
                while time.monotonic() - began < 0.4:
                    producer.publish(topic, [(b"k", b"{}", ())])
                    time.sleep(0.002)
                busy.append((time.process_time() - used) / 0.4)
            finally:
                stack.kill(job.settings, "kafka", signal.SIGCONT)
    assert max(busy) < 0.6, busy
