"""What integration and fault tests work with: data with what replay decides about it, and a job on a cluster."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from schemas.errors import MillraceError
from streaming import flink, jobs, kafka, parts, stack
from streaming.commands.topics import Line, lines
from streaming.plan import plan
from streaming.replay import Replay
from streaming.settings import Settings
from streaming.simulator import Spec, simulate
from streaming.stack import Stack
from streaming.workloads import Reference, resolve

NOW = 1_900_000_000_000
FRAUD = Reference("fraud")


def replayed(reference: Reference, events: Iterable[bytes], outcomes: Iterable[bytes]) -> dict[str, bytes]:
    """What replay decides, by event id."""
    steps = Replay(plan(resolve(reference)), NOW).run(events, outcomes)
    return {id: value for step in steps for id, value in zip(step.events.ids, step.decided.values, strict=True)}


@dataclass(frozen=True)
class Data:
    """Events and outcomes, each in the order of time, and the decisions of replay."""

    events: list[bytes]
    outcomes: list[bytes]
    expected: dict[str, bytes]

    @classmethod
    def simulated(cls, spec: Spec) -> "Data":
        """The transactions of `spec`."""
        made = simulate(spec)
        events = [line.rstrip("\n").encode() for line in made.event_lines()]
        outcomes = [line.rstrip("\n").encode() for line in made.outcome_lines()]
        return cls(events, outcomes, replayed(FRAUD, events, outcomes))


def check(found: Sequence[bytes], expected: dict[str, bytes]) -> int:
    """Assert that every event was decided, as `expected`, and that repeats are the same bytes; returns their number."""
    by_id: dict[str, list[bytes]] = {}
    for value in found:
        by_id.setdefault(json.loads(value)["id"], []).append(value)
    lost, strange = expected.keys() - by_id.keys(), by_id.keys() - expected.keys()
    assert not lost, f"{len(lost)} of {len(expected)} events were never decided, {min(lost)} for one"
    assert not strange, f"decisions on nothing that was published: {sorted(strange)[:3]}"
    wrong = [(id, values) for id, values in by_id.items() if set(values) != {expected[id]}]
    examples = "\n".join(f"{values} instead of {expected[id]!r}" for id, values in wrong[:2])
    assert not wrong, f"{len(wrong)} of {len(expected)} events were decided differently:\n{examples}"
    return len(found) - len(by_id)


def wait(done: Callable[[], bool], seconds: float, what: str) -> None:
    """Return once `done()`; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"{what}: not after {seconds:g} s"
        time.sleep(0.05)


class World:
    """A workload as a job under a name of its own, so that no two tests share topics, state or checkpoints."""

    def __init__(
        self, settings: Settings, services: Stack, folder: Path, name: str,
        reference: Reference = FRAUD, partitions: int = 1, parallelism: int = 1,
    ):  # fmt: skip
        self.settings, self.services, self.folder = replace(settings, parallelism=parallelism), services, folder
        self.name, self.reference = name, reference
        self.topics = self.deployment().topics
        self.workload = self.deployment().plan.workload
        kafka.create_topics(services.kafka, {topic: {} for topic in self.topics.all()}, partitions)

    def deployment(self) -> jobs.Deployment:
        """The deployment of the workload under this name."""
        return jobs.deployment(self.reference, self.services, self.settings, self.name)

    def deploy(self, reference: Reference | None = None, fresh: bool = False) -> jobs.Deployed:
        """Deploy the workload, or another version of it."""
        self.reference = reference or self.reference
        return jobs.deploy(self.deployment(), self.services, self.settings, fresh)

    def stop(self) -> str:
        """Stop the job with a savepoint."""
        return jobs.stop(self.name, self.services, self.settings)

    def job(self) -> flink.Running:
        """The job as the cluster knows it."""
        return next(job for job in flink.jobs(self.services.flink) if job.name == self.name)

    def rest(self, path: str = "") -> Any:
        """What the cluster says about the job."""
        return parts.rest(self.services.flink, f"/jobs/{self.job().id}{path}")

    def checkpoints(self) -> int:
        """Checkpoints completed since the deployment."""
        return int(self.rest("/checkpoints")["counts"]["completed"])

    def kill(self, part: str) -> None:
        """kill -9 a part of the stack."""
        stack.kill(self.settings, part)

    def mend(self) -> None:
        """Start again what was killed."""
        self.services = stack.up(self.settings)

    def publish(self, events: Iterable[bytes] = (), outcomes: Iterable[bytes] = ()) -> None:
        """Publish everything at once, merged by time."""
        with kafka.Producer(self.services.kafka) as producer:
            for line in self._lines(events, outcomes):
                producer.publish(line.topic, [(line.key, line.value, ())])

    def publishing(self, events: Iterable[bytes], outcomes: Iterable[bytes], rate: float) -> "Publishing":
        """Publish in the background, merged by time, `rate` records a second."""
        return Publishing(self.services.kafka, self._lines(events, outcomes), rate)

    def _lines(self, events: Iterable[bytes], outcomes: Iterable[bytes]) -> list[Line]:
        files = self.folder / f"{self.name}.events", self.folder / f"{self.name}.outcomes"
        for file, values in zip(files, (events, outcomes), strict=True):
            file.write_bytes(b"".join(value + b"\n" for value in values))
        return list(lines(self.workload, *files, self.topics))

    def read(
        self, topic: str, enough: Callable[[list[kafka.Record]], bool], seconds: float = 120.0
    ) -> list[kafka.Record]:
        """What is on a topic, as soon as it is enough."""
        found: list[kafka.Record] = []
        deadline = time.monotonic() + seconds
        for batch in kafka.records(self.services.kafka, topic, until=None):
            found += batch
            if enough(found):
                break
            if time.monotonic() > deadline:
                raise AssertionError(f"{topic}: found {len(found)} records after {seconds:g} s; {self._trouble()}")
        return found

    def failure(self) -> str:
        """Why the job failed last; empty where it did not."""
        return flink.failure(self.services.flink, self.job().id)

    def _trouble(self) -> str:
        """What the cluster and the broker say about a job that does not get on."""
        found = []
        with suppress(MillraceError, StopIteration):  # a part that does not answer takes nothing from what others said
            found.append(f"job {self.job().state}: {self.failure() or 'no failure'}")
            found.append(f"checkpoints {self.rest('/checkpoints')['counts']}")
            for task in self.rest()["vertices"]:
                read, written = (task["metrics"][f"{way}-records"] for way in ("read", "write"))
                found.append(f"{task['name']}: {read} in, {written} out")
            found += [f"{topic} {kafka.end_offsets(self.services.kafka, topic)}" for topic in self.topics.all()]
        return "\n".join(found) or "no job"

    def reach(self, number: int, seconds: float = 120.0) -> None:
        """Wait until so many decisions are there."""
        self.read(self.topics.decisions, lambda found: len(found) >= number, seconds)

    def decided(self, expected: dict[str, bytes], seconds: float = 180.0) -> list[bytes]:
        """All decisions, once each of `expected` has been decided."""
        left = set(expected)
        seen = 0

        def enough(found: list[kafka.Record]) -> bool:
            nonlocal seen
            left.difference_update(json.loads(record.value or b"")["id"] for record in found[seen:])
            seen = len(found)
            return not left

        return [record.value or b"" for record in self.read(self.topics.decisions, enough, seconds)]

    def finish(self, expected: dict[str, bytes]) -> int:
        """Wait for all decisions, stop the job, and `check` everything it ever decided; returns the repeats."""
        self.decided(expected)
        self.stop()
        return check(self.everything(), expected)

    def everything(self, topic: str = "") -> list[bytes]:
        """Every value on the decisions, or on another topic."""
        batches = kafka.records(self.services.kafka, topic or self.topics.decisions)
        return [record.value or b"" for batch in batches for record in batch]

    def close(self) -> None:
        """Cancel the job if it runs."""
        with suppress(MillraceError):  # the cluster may be what the test killed
            found = jobs.running(self.services.flink, self.name)
            if found is not None:
                flink.cancel(self.services.flink, found.id)


class Publishing:
    """A producer at a steady rate in a thread; `counts` says how many records of each topic were sent."""

    def __init__(self, brokers: str, records: Sequence[Line], rate: float):
        self.counts: Counter[str] = Counter()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(brokers, records, rate), daemon=True)
        self._thread.start()

    def _run(self, brokers: str, records: Sequence[Line], rate: float) -> None:
        try:
            with kafka.Producer(brokers) as producer:
                began = time.monotonic()
                for number, line in enumerate(records):
                    while (ahead := began + number / rate - time.monotonic()) > 0:
                        if self._stop.wait(min(ahead, 0.01)):
                            return
                    self.counts[line.topic] += producer.publish(line.topic, [(line.key, line.value, ())])
        except BaseException as error:
            self._failure = error

    def reach(self, topic: str, number: int, seconds: float = 60.0) -> None:
        """Wait until so many records went to `topic`."""
        wait(lambda: self.counts[topic] >= number or self._failure is not None, seconds, f"{number} to {topic}")

    def finish(self, seconds: float = 120.0) -> None:
        """Wait until all is sent and acknowledged."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"still publishing after {seconds:g} s"
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()
        self.finish()
