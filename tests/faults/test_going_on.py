"""A job that was stopped, changed or lost goes on where it was, and from nothing that is not whole."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import streaming.workloads.fraud
from schemas.errors import DefinitionError, MillraceError
from streaming import flink, jobs
from streaming.commands.doctor import _jobs
from streaming.workloads import Reference
from tests.world import FRAUD, Data, World, wait

pytestmark = pytest.mark.services
Make = Callable[..., World]
SOURCE = Path(streaming.workloads.fraud.__file__).read_text()


def variant(old: str, new: str) -> Reference:
    """The fraud workload with some of its text replaced."""
    assert old in SOURCE
    return Reference("variant.py", SOURCE.replace(old, new))


def stopped(world: Make, data: Data) -> tuple[World, int, str]:
    """A job that has decided a third of the events and was stopped; how many those are, and its savepoint."""
    job, third = world(), len(data.events) // 3
    job.publish(data.events[:third], data.outcomes)
    job.deploy()
    job.decided({json.loads(event)["id"]: b"" for event in data.events[:third]})
    return job, third, job.stop()


def test_stop_and_go(world: Make, data: Data) -> None:
    """If this fails, a stop loses or repeats decisions, or features start over, or one more costs old state."""
    job, third, savepoint = stopped(world, data)
    job.publish(data.events[third : 2 * third])
    assert job.deploy().savepoint == savepoint
    job.decided({json.loads(event)["id"]: b"" for event in data.events[: 2 * third]})
    job.stop()
    job.publish(data.events[2 * third :])
    job.deploy(variant('mean("amount", *WINDOWS)', 'mean("amount", *WINDOWS, "60d")'))
    assert job.finish(data.expected) == 0


def test_lost_soon_after_a_savepoint(world: Make, data: Data) -> None:
    """If this fails, a job whose JobManager dies within minutes of a deploy from a savepoint can go on from nothing."""
    job, third, _ = stopped(world, data)
    for number in (third + 1000, third + 2000):
        job.deploy()
        job.publish(data.events[number - 1000 : number])
        job.decided({json.loads(event)["id"]: b"" for event in data.events[:number]})
        before = job.checkpoints()
        wait(lambda before=before: job.checkpoints() > before, 30, "a checkpoint")
        job.close()
        wait(lambda: jobs.running(job.services.flink, job.name) is None, 30, "the end of the job")
    job.publish(data.events[number:])
    found = job.deploy().savepoint
    assert found is not None
    assert "/chk-" in found
    job.finish(data.expected)


def test_newest_state(world: Make, data: Data) -> None:
    """If this fails, a deploy starts over though there is a state, takes an old one, or one that is not whole."""
    job = world()
    folder = job.settings.home / "checkpoints" / job.name
    (folder / "dead" / "chk-9").mkdir(parents=True)
    assert job.deploy().savepoint is None
    wait(lambda: job.checkpoints() > 0, 30, "a checkpoint")
    job.close()
    wait(lambda: jobs.running(job.services.flink, job.name) is None, 30, "the end of the job")
    (folder / "dead" / "chk-10").mkdir()
    (folder / "dead" / "chk-10" / "_metadata.inprogress").write_bytes(b"half")
    checkpoint = job.deploy().savepoint
    assert checkpoint is not None
    assert "/chk-" in checkpoint
    assert "dead" not in checkpoint
    savepoint = job.stop()
    assert job.deploy().savepoint == savepoint
    job.stop()
    assert job.deploy(fresh=True).savepoint is None


def test_stop_while_it_recovers(world: Make, data: Data) -> None:
    """If this fails, a job cannot be stopped with a savepoint right after a crash, or for ever after several.

    A kill during a checkpoint now and then keeps Flink from the next one until that expires, here after 30 s.
    """
    job = world()
    half = len(data.events) // 2
    job.publish(data.events[:half], data.outcomes)
    job.deploy()
    for _ in range(flink.HOPELESS):
        started = job.checkpoints()
        wait(lambda least=started: job.checkpoints() > least, 90, "a checkpoint")  # type: ignore[misc]
        job.kill("taskmanager-0")
        job.mend()
    savepoint = job.stop()
    assert job.deploy().savepoint == savepoint
    job.publish(data.events[half:])
    job.decided(data.expected)


def test_stop_of_what_does_not_recover(world: Make, data: Data) -> None:
    """If this fails, stopping a job that fails for ever waits for it, or keeps the reason to itself, as doctor does; or
    there is no way on from it."""
    job = world()
    job.deploy(variant("night=lambda f: f.hour <= 6,", "night=lambda f: (f.hour <= 6) if f.at[0] < 1e9 else 1 / 0,"))
    job.publish(data.events[:10])
    wait(lambda: "ZeroDivisionError" in job.failure(), 30, "the reason")
    wait(lambda: "ZeroDivisionError" in "".join(f.found for f in _jobs(job.settings) if not f.well), 30, "a finding")
    wait(lambda: len(flink.failures(job.services.flink, job.job().id)) >= flink.HOPELESS, 30, "failures")
    for _ in range(20):  # it runs for a moment each time
        assert not all(finding.well for finding in _jobs(job.settings))
        time.sleep(0.1)


    def stop() -> None:
        job.stop()
        job.deploy()  # as that stop met a moment in which it ran
        wait(lambda: len(flink.failures(job.services.flink, job.job().id)) >= flink.HOPELESS, 30, "failures")
        job.stop()

    with pytest.raises(MillraceError, match=r"(?s)ZeroDivisionError.*--cancel"):
        stop()
    jobs.cancel(job.name, job.services, job.settings)
    job.deploy(FRAUD)
    job.reach(10)


def test_refused_before_the_cluster(world: Make) -> None:
    """If this fails, a workload that cannot run reaches the cluster and fails there, far from its author."""
    job = world()
    with pytest.raises(DefinitionError, match="shipped are"):
        job.deploy(Reference("fraud", None, {"model": "nothing"}))
    with pytest.raises(DefinitionError, match="inputs: found 'card_count_1d'"):
        job.deploy(variant('count(*WINDOWS), mean("amount", *WINDOWS), since(),', 'mean("amount", *WINDOWS), since(),'))
    with pytest.raises(DefinitionError, match="found no feature 'amuont'"):
        job.deploy(variant("f.amount / f.card_amount_label_max_false", "f.amuont / f.card_amount_label_max_false"))
    assert jobs.running(job.services.flink, job.name) is None


def test_errors_on_the_cluster_are_told(world: Make, data: Data) -> None:
    """If this fails, a Python error inside a job is a riddle, or a job that cannot start goes on trying for ever."""
    job = world()
    began = time.monotonic()
    broken = variant(
        "def fraud(", 'import sys\nif "pemja" in sys.modules:\n    raise ValueError("planted")\n\n\ndef fraud('
    )
    with pytest.raises(MillraceError, match="planted"):
        job.deploy(broken)
    assert time.monotonic() - began < 30
    assert jobs.running(job.services.flink, job.name) is None
    fails = "night=lambda f: (f.hour <= 6) if f.at[0] < 1e9 else 1 / 0,"
    job.deploy(variant("night=lambda f: f.hour <= 6,", fails))
    job.publish(data.events[:10])
    wait(lambda: "ZeroDivisionError" in job.failure(), 30, "the reason")
    assert "variant.py" in job.failure()
