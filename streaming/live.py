"""Live traffic through a deployed job, watched from outside: what was sent, what came back, and how fast.

Beside the way of an event: it publishes where users publish, reads what they read, and believes only the broker.
Latency is the broker's append time of a decision minus its append time of the event, in whole milliseconds.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np

from schemas.decisions import Decision
from schemas.topics import Topics
from streaming import kafka
from streaming.shows import Show
from streaming.simulator import Record

RECENT = 3.0
"""Seconds that rates and latencies of the view cover."""


class _Event(msgspec.Struct):
    """All that is read of an event; an outcome has no `id`."""

    id: str = ""


class _Time(msgspec.Struct):
    at: int


Offsets = Mapping[str, dict[int, int]]
"""Of topics and their partitions."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a run. lost: events without decision or dead letter, its history's too; repeated: decisions beyond
    an event's first.

    p50_ms and p99_ms are of latency, over the whole run; None without a decision.
    """

    events: int
    decisions: int
    deadletters: int
    lost: int
    repeated: int
    p50_ms: float | None
    p99_ms: float | None


class Tally:
    """Counts of one run, of the events `prefix` + number from `first` on; those before are its history. Fed by the
    threads that read the topics; `taken` gets each decision of the run once, also those of its history."""

    def __init__(
        self, prefix: str, first: int, kind: type[Decision], taken: Callable[[Any], None] = lambda decision: None
    ) -> None:
        """Decisions are decoded as `kind`."""
        self.sent = self.repeated = self.differing = 0
        self.actions: Counter[str] = Counter()
        self.at = 0  # event time of the newest decision, ms
        self.first = threading.Event()  # set with the first event that came to its end
        self.shown: float | None = None  # time.monotonic() of the first decision, of the history too
        self.latencies: list[int] = []
        self.seen: dict[str, int] = {}  # event id → append time, ms
        self.decided: dict[str, int] = {}
        self.past = 0  # events of the history with a decision
        self.dead: set[str] = set()
        self.before = first
        self._prefix, self._taken = prefix, taken
        self._bodies: dict[str, int] = {}  # event id → hash of its first decision
        self._decision: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
        self._event = msgspec.json.Decoder(_Event)

    @property
    def ended(self) -> int:
        """Events with a decision or a dead letter, and those of the history with a decision."""
        return len(self.decided) + len(self.dead) + self.past

    def _id(self, record: kafka.Record) -> str | None:
        try:
            id = self._event.decode(record.value or b"").id
        except msgspec.DecodeError:
            return None
        return id if self._ours(id) else None

    def _ours(self, id: str) -> bool:
        return id.startswith(self._prefix) and int(id.removeprefix(self._prefix)) >= self.before

    def event(self, record: kafka.Record) -> None:
        """Note an event."""
        if (id := self._id(record)) is not None:
            self.seen[id] = record.timestamp
            if id in self.decided:
                self.latencies.append(self.decided[id] - record.timestamp)

    def decision(self, record: kafka.Record) -> None:
        """Note a decision."""
        decision = self._decision.decode(record.value or b"")
        if not decision.id.startswith(self._prefix):
            return
        body = hash(record.value)
        if decision.id in self._bodies:
            self.repeated += 1
            self.differing += body != self._bodies[decision.id]
            return
        self._bodies[decision.id] = body
        self.shown = self.shown or time.monotonic()
        self._taken(decision)
        if not self._ours(decision.id):
            self.past += 1
            return
        self.decided[decision.id] = record.timestamp
        if decision.id in self.seen:
            self.latencies.append(record.timestamp - self.seen[decision.id])
        self.at = decision.at
        self.actions[getattr(decision, "action", None) or decision.status] += 1
        self.first.set()

    def deadletter(self, record: kafka.Record) -> None:
        """Note a dead letter."""
        if (id := self._id(record)) is not None:
            self.dead.add(id)
            self.first.set()

    def summary(self) -> Summary:
        """The counts now."""
        p50, p99 = percentiles(self.latencies)
        lost = max(self.sent + self.before - len(self.decided.keys() | self.dead) - self.past, 0)
        return Summary(self.sent, len(self.decided), len(self.dead), lost, self.repeated, p50, p99)


def percentiles(latencies: list[int]) -> tuple[float, float] | tuple[None, None]:
    """p50 and p99, ms."""
    if not latencies:
        return None, None
    p50, p99 = np.percentile(np.array(latencies), (50, 99))
    return round(float(p50), 1), round(float(p99), 1)


class Pace:
    """Rates and latencies of the last `RECENT` seconds; `look` is called once a tick."""

    def __init__(self, tally: Tally) -> None:
        self.events = self.decisions = 0.0
        self.p50: float | None = None
        self.p99: float | None = None
        self._tally = tally
        self._marks: deque[tuple[float, int, int, int]] = deque()

    def look(self) -> None:
        """Bring the figures up to date."""
        now, tally = time.monotonic(), self._tally
        self._marks.append((now, len(tally.seen), len(tally.decided), len(tally.latencies)))
        while len(self._marks) > 2 and self._marks[1][0] < now - RECENT:
            self._marks.popleft()
        then, events, decisions, latencies = self._marks[0]
        if now > then:
            self.events = (self._marks[-1][1] - events) / (now - then)
            self.decisions = (self._marks[-1][2] - decisions) / (now - then)
        self.p50, self.p99 = percentiles(tally.latencies[latencies:])


class Live:
    """One run: threads that publish a stream and read what comes of it. Use it in `with`."""

    def __init__(self, brokers: str, topics: Topics, tally: Tally, show: Show, since: Offsets) -> None:
        """Begins to read the topics of the workload where they end now; those that `since` names, from there."""
        self.tally, self.show = tally, show
        self.began: float | None = None  # time.monotonic() of the steady stream's start
        self._brokers, self._topics = brokers, topics
        self._halt, self._over = threading.Event(), threading.Event()
        takers = {
            topics.events: tally.event, topics.decisions: tally.decision, topics.deadletters: tally.deadletter,
            **show.takers(topics),
        }  # fmt: skip
        offsets = {topic: since.get(topic) or kafka.end_offsets(brokers, topic) for topic in takers}
        self._pool = ThreadPoolExecutor(len(takers) + 1)
        self._work = [self._pool.submit(self._read, topic, offsets[topic], take) for topic, take in takers.items()]

    def _read(self, topic: str, offsets: dict[int, int], take: Callable[[kafka.Record], None]) -> None:
        for batch in kafka.records(self._brokers, topic, offsets, until=None, batch=1000):
            for record in batch:
                take(record)
            if self._over.is_set():
                return

    def send(self, records: Iterator[Record], seconds: float) -> None:
        """Publish one event, and when it has come to its end the others for `seconds`, each when it is due."""
        self._work.append(self._pool.submit(self._send, records, seconds))

    def _send(self, records: Iterator[Record], seconds: float) -> None:
        with kafka.Producer(self._brokers) as producer:
            for record in records:
                if self.tally.sent == 1 and self.began is None and not self._begin(producer):
                    return
                if self.began is not None:
                    if record.due >= seconds:
                        return
                    ahead = self.began + record.due - time.monotonic()
                    if ahead > 0.002:
                        self._halt.wait(ahead)
                if self._halt.is_set():
                    return
                publish(producer, self._topics, record)
                self.tally.sent += record.topic == "events"

    def _begin(self, producer: kafka.Producer) -> bool:
        """Wait for the end of the first event: a job's first batch loads its model and its compiled code."""
        producer.flush()
        while not self.tally.first.wait(0.05):
            if self._halt.is_set():
                return False
        self.began = time.monotonic()
        return True

    @property
    def sending(self) -> bool:
        """Whether there is more to publish."""
        return not self._work[-1].done()

    @property
    def seconds(self) -> float:
        """Seconds since the steady stream began."""
        return 0.0 if self.began is None else time.monotonic() - self.began

    def check(self) -> None:
        """Raise what a thread has raised."""
        for work in self._work:
            if work.done():
                work.result()

    def halt(self) -> None:
        """Publish nothing more."""
        self._halt.set()

    def drain(self, patience: Callable[[], float], busy: Callable[[], bool]) -> None:
        """Wait until everything has come to its end, or nothing has for `patience()` seconds without being `busy()`."""
        least, since = self.left, time.monotonic()
        while (left := self.left) or self.sending:
            self.check()
            if busy() or self.sending or left < least:
                least, since = left, time.monotonic()
            if time.monotonic() - since > patience():
                return
            time.sleep(0.05)

    @property
    def left(self) -> int:
        """Events that were not read back, events without an end, and what the show waits for."""
        tally = self.tally
        unread = max(tally.sent - len(tally.seen), 0)
        return unread + max(tally.sent + tally.before - tally.ended, 0) + self.show.owed()

    def __enter__(self) -> Self:
        """The run itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the threads."""
        self._halt.set()
        self._over.set()
        self._pool.shutdown()


def newest(brokers: str, topic: str) -> int | None:
    """Event time (ms) of the newest of the last records of `topic`; None where it is empty or there is none."""
    if topic not in kafka.partitions(brokers):
        return None
    ends = kafka.end_offsets(brokers, topic)
    found: list[int] = []
    decoder = msgspec.json.Decoder(_Time)
    for batch in kafka.records(brokers, topic, {p: max(end - 100, 0) for p, end in ends.items()}, ends):
        for record in batch:
            try:
                found.append(decoder.decode(record.value or b"").at)
            except msgspec.DecodeError:
                continue
    return max(found, default=None)


def publish(producer: kafka.Producer, topics: Topics, record: Record) -> None:
    """Publish a record of a stream to its topic."""
    topic = topics.events if record.topic == "events" else topics.outcomes
    producer.publish(topic, [(record.key.encode(), record.value, ())])


def history(brokers: str, topics: Topics, records: Iterator[Record], before: float) -> tuple[int, Iterator[Record]]:
    """Publish the first `before` seconds of a stream at once; returns how many events, and the rest, due from 0 on.

    A job that is deployed after this reads it as a backfill, events and outcomes in the order of their times.
    """
    count = 0
    with kafka.Producer(brokers) as producer:
        for record in records:
            if record.topic == "events" and record.due >= before:
                break
            publish(producer, topics, record)
            count += record.topic == "events"
    return count, (later._replace(due=round(later.due - before, 6)) for later in chain([record], records))
