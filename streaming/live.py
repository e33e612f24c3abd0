"""Live traffic through a deployed job, watched from outside: what was sent, what came back, and how fast.

Beside the way of an event: it publishes where users publish, reads what they read, and believes only the broker.
Latency is the broker's append time of a decision minus its append time of the event, in whole milliseconds.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from schemas.decisions import Scored
from schemas.errors import DefinitionError
from schemas.topics import Topics
from streaming import kafka
from streaming.course import Course
from streaming.simulator import BOOK_START, DAY, Frauds, Record, Spec

DAYS_A_SECOND = 1.05
"""Simulated days that pass in a second, about, in runs of minutes: labels, 7 days late, are there after 7 seconds."""

DAYS = 1000
"""Simulated days that a longer run takes at most, about: its days pass more slowly."""

HISTORY = 26.0
"""Seconds of the stream that are published at once, before anything is shown: four weeks, three of them with labels."""

DRIFT, LIMIT = 0.45, 110.0
"""The share of a run after which frauds change: from then on every payment above the limit is one; it was 220 before.
So much of the run is left that the labels of that time, models that learned them, and the labels of what those decided
all come within it."""

TRANSACTIONS = 1.9
"""Transactions of a card in a day, about."""

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
    """What came of a run. lost: events without decision or dead letter; repeated: decisions beyond an event's first.

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
    """Counts of one run, of the events `prefix` + number from `first` on; fed by the threads that read the topics."""

    def __init__(self, prefix: str, alarm: str, first: int = 0) -> None:
        """`alarm` is the action whose latest decisions are kept."""
        self.sent = self.repeated = 0
        self.actions: Counter[str] = Counter()
        self.latest: deque[Scored] = deque(maxlen=8)
        self.at = 0  # event time of the newest decision, ms
        self.first = threading.Event()  # set with the first event that came to its end
        self.latencies: list[int] = []
        self.seen: dict[str, int] = {}  # event id → append time, ms
        self.decided: dict[str, int] = {}
        self.dead: set[str] = set()
        self.alarm = alarm
        self._prefix, self._first = prefix, first
        self._decision, self._event = msgspec.json.Decoder(Scored), msgspec.json.Decoder(_Event)

    @property
    def ended(self) -> int:
        """Events with a decision or a dead letter."""
        return len(self.decided) + len(self.dead)

    def _id(self, record: kafka.Record) -> str | None:
        try:
            id = self._event.decode(record.value or b"").id
        except msgspec.DecodeError:
            return None
        return id if self._ours(id) else None

    def _ours(self, id: str) -> bool:
        return id.startswith(self._prefix) and int(id.removeprefix(self._prefix)) >= self._first

    def event(self, record: kafka.Record) -> None:
        """Note an event."""
        if (id := self._id(record)) is not None:
            self.seen[id] = record.timestamp
            if id in self.decided:
                self.latencies.append(self.decided[id] - record.timestamp)

    def decision(self, record: kafka.Record) -> None:
        """Note a decision."""
        decision = self._decision.decode(record.value or b"")
        if not self._ours(decision.id):
            return
        if decision.id in self.decided:
            self.repeated += 1
            return
        self.decided[decision.id] = record.timestamp
        if decision.id in self.seen:
            self.latencies.append(record.timestamp - self.seen[decision.id])
        self.at = decision.at
        self.actions[decision.action] += 1
        if decision.action == self.alarm:
            self.latest.appendleft(decision)
        self.first.set()

    def deadletter(self, record: kafka.Record) -> None:
        """Note a dead letter."""
        if (id := self._id(record)) is not None:
            self.dead.add(id)
            self.first.set()

    def summary(self) -> Summary:
        """The counts now."""
        p50, p99 = percentiles(self.latencies)
        lost = max(self.sent - len(self.decided.keys() | self.dead), 0)
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

    def __init__(self, brokers: str, topics: Topics, tally: Tally, course: Course, since: Offsets) -> None:
        """Begins to read the topics of the workload where they end now; those that `since` names, from there."""
        self.tally, self.course = tally, course
        self.began: float | None = None  # time.monotonic() of the steady stream's start
        self._brokers, self._topics = brokers, topics
        self._halt, self._over = threading.Event(), threading.Event()
        takers = {
            topics.events: tally.event, topics.decisions: tally.decision, topics.deadletters: tally.deadletter,
            topics.examples: course.example, topics.signals: course.signal,
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

    def drain(self, patience: float) -> None:
        """Wait until every event has come to its end, or nothing has for `patience` seconds."""
        self._work[-1].result()
        ended, since = -1, time.monotonic()
        while len(self.tally.seen) < self.tally.sent or self.tally.ended < self.tally.sent:
            self.check()
            if self.tally.ended > ended:
                ended, since = self.tally.ended, time.monotonic()
            if time.monotonic() - since > patience:
                return
            time.sleep(0.05)

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


def calendar(before: int | None, rate: float, seconds: float, now: int) -> Spec:
    """The simulated world of a run: cards and terminals, and days that go on after the event time `before` (ms).

    There are half as many cards as events a second, so that a day is over in one, and both windows and labels
    that are days late mean something within a minute. Frauds are some six times as frequent as in the book's data,
    and change on a day of their own. DefinitionError where the calendar would run into the future of `now` (ms).
    """
    start = BOOK_START if before is None else (before // DAY + 1) * DAY
    cards = max(50, round(rate / TRANSACTIONS / min(DAYS_A_SECOND, DAYS / seconds)))
    pace = rate / TRANSACTIONS / cards  # days a second
    days = int((seconds + HISTORY) * pace * 1.05) + 3
    if start + days * DAY > now:
        known = time.strftime("%Y-%m-%d", time.gmtime((before or 0) / 1000))
        raise DefinitionError(
            f"demo: found events up to {known} in the topic, and {days} simulated days after them would run into the "
            "future; expected fewer --seconds, or an installation of its own: "
            "MILLRACE_HOME=/tmp/millrace-demo millrace demo"
        )
    later = (start - BOOK_START) // DAY  # days that runs before this one took: other draws for other days
    frauds, day = Frauds(terminals=1, cards=1), round((HISTORY + DRIFT * seconds) * pace)
    return Spec(
        cards=cards, terminals=max(1000, 2 * cards), days=days, start=start, frauds=frauds,
        drift=((day, replace(frauds, amount_above=LIMIT)),),
        transaction_seed=later * 7919 % 2**31, fraud_seed=later * 7919 % 2**31,
    )  # fmt: skip


def injected(world: Spec) -> int:
    """Event time (ms) from which on frauds are others."""
    return world.start + world.drift[0][0] * DAY


def publish(producer: kafka.Producer, topics: Topics, record: Record) -> None:
    """Publish a record of a stream to its topic."""
    topic = topics.events if record.topic == "events" else topics.outcomes
    producer.publish(topic, [(record.key.encode(), record.value, ())])


def history(brokers: str, topics: Topics, records: Iterator[Record]) -> tuple[int, Iterator[Record]]:
    """Publish the first `HISTORY` seconds of a stream at once; returns how many events, and the rest, due from 0 on.

    A job that is deployed after this reads it as a backfill, events and outcomes in the order of their times.
    """
    count = 0
    with kafka.Producer(brokers) as producer:
        for record in records:
            if record.topic == "events" and record.due >= HISTORY:
                break
            publish(producer, topics, record)
            count += record.topic == "events"
    return count, (later._replace(due=later.due - HISTORY) for later in chain([record], records))
