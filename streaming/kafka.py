"""Kafka from Python: topics, publishing, reading back. The one module that imports confluent_kafka.

The way of an event inside a job does not pass here (Flink has its own connector); this is how files get into
topics, and how decisions get out of them to people, tests and commands.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from time import monotonic, sleep
from types import TracebackType
from typing import Literal, NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka import Producer as Client
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import TopicMetadata
from confluent_kafka.cimpl import NewTopic

from schemas.errors import DefinitionError, Unavailable

MESSAGE_BYTES = 8 * 1024 * 1024
TOPIC_CONFIG = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(MESSAGE_BYTES)}
TIMEOUT = 10.0

PASSING = (
    KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError._UNKNOWN_PARTITION,
    KafkaError._DESTROY_BROKER,
)  # fmt: skip
"""What a client is told of a partition that exists, while its broker starts or hangs."""

SILENT = 10.0
"""A reader without a record for so many seconds is replaced: librdkafka may miss that a partition has its leader again,
after its broker hung for example, and would wait for ever (librdkafka #5593)."""

MUTE = 6
"""After so many readers in a row that got nothing from the broker, not even that there is nothing, it is gone."""

Headers = Sequence[tuple[str, bytes | None]]
Outgoing = tuple[bytes | None, bytes | None, Headers]
"""What is published: key, value, headers."""


class Record(NamedTuple):
    """One record as read: coordinates, timestamp (ms since the epoch), key, value, headers."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def _client(brokers: str, **options: str | int | float | bool) -> dict[str, str | int | float | bool]:
    """Options of every client: quiet, and quick to reconnect to a broker that is just starting."""
    common: dict[str, str | int | float | bool] = {
        "bootstrap.servers": brokers,
        "log_level": 0,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 500,
        "socket.keepalive.enable": True,
    }
    return common | options


@contextmanager
def _translated(brokers: str, doing: str) -> Iterator[None]:
    """Kafka's own errors as ours."""
    try:
        yield
    except KafkaException as error:
        reason = error.args[0] if error.args else error
        text = reason.str() if isinstance(reason, KafkaError) else str(reason)
        raise Unavailable(f"Kafka at {brokers}, {doing}: {text}; is it up? `millrace status` tells") from error


def partitions(brokers: str, seconds: float = TIMEOUT) -> dict[str, int]:
    """Topics and how many partitions each has. Unavailable when no broker answers in time."""
    with _translated(brokers, "asking for its topics"):
        topics = AdminClient(_client(brokers)).list_topics(timeout=seconds).topics
    return {name: len(topic.partitions) for name, topic in topics.items()}


def ping(brokers: str, seconds: float = 2.0) -> None:
    """Return once a broker answers; Unavailable when none does in `seconds`."""
    partitions(brokers, seconds)


def create_topics(brokers: str, topics: Mapping[str, Mapping[str, str]], partitions: int = 1) -> list[str]:
    """Create what is missing with `TOPIC_CONFIG` and its own configuration on top, and wait for leaders.

    What is there already is left as it is. Returns the names that were created.
    """
    admin = AdminClient(_client(brokers))
    with _translated(brokers, "creating topics"):
        there = admin.list_topics(timeout=TIMEOUT).topics
        wanted = [
            NewTopic(name, num_partitions=partitions, config=TOPIC_CONFIG | dict(config))
            for name, config in topics.items()
            if name not in there
        ]
        created = [name for name, done in admin.create_topics(wanted).items() if _created(name, done)] if wanted else []
        deadline = monotonic() + TIMEOUT
        while not all(_led(topic) for topic in _topics(admin, topics)):
            if monotonic() > deadline:
                raise Unavailable(f"Kafka at {brokers}: no leader for {', '.join(topics)} after {TIMEOUT:.0f} s")
            sleep(0.02)
    return created


def _created(name: str, done: object) -> bool:
    """The outcome of one creation; that another process was first is fine."""
    try:
        done.result(timeout=TIMEOUT)  # type: ignore[attr-defined]
    except KafkaException as error:
        code = error.args[0].code()
        if code == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        if code in (KafkaError.INVALID_CONFIG, KafkaError.TOPIC_EXCEPTION, KafkaError.INVALID_PARTITIONS):
            raise DefinitionError(f"topic {name!r} cannot be created: {error.args[0].str()}") from error
        raise
    return True


def _topics(admin: AdminClient, names: Iterable[str]) -> list[TopicMetadata | None]:
    found = admin.list_topics(timeout=TIMEOUT).topics
    return [found.get(name) for name in names]


def _led(topic: TopicMetadata | None) -> bool:
    return topic is not None and bool(topic.partitions) and all(p.leader >= 0 for p in topic.partitions.values())


def delete_topics(brokers: str, names: Iterable[str]) -> None:
    """Delete topics; one that is not there is fine."""
    admin = AdminClient(_client(brokers))  # must outlive what it was asked for
    with _translated(brokers, "deleting topics"):
        for done in admin.delete_topics(list(names)).values():
            try:
                done.result(timeout=TIMEOUT)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise


def end_offsets(brokers: str, topic: str) -> dict[int, int]:
    """For each partition the offset its next record will get. DefinitionError if there is no such topic."""
    with _reader(brokers) as consumer, _translated(brokers, f"asking where {topic} ends"):
        return {partition: high for partition, (_, high) in _bounds(consumer, brokers, topic).items()}


def start_offsets(brokers: str, topic: str) -> dict[int, int]:
    """For each partition the offset of its oldest record, above 0 where retention has taken older ones."""
    with _reader(brokers) as consumer, _translated(brokers, f"asking where {topic} begins"):
        return {partition: low for partition, (low, _) in _bounds(consumer, brokers, topic).items()}


def offsets_since(brokers: str, topic: str, at: int) -> dict[int, int]:
    """For each partition the offset of its first record with a timestamp of `at` (ms) or later, else its end."""
    with _reader(brokers) as consumer, _translated(brokers, f"asking what {topic} has since {at}"):
        bounds = _bounds(consumer, brokers, topic)
        found = consumer.offsets_for_times([TopicPartition(topic, p, at) for p in bounds], timeout=TIMEOUT)
        return {one.partition: one.offset if one.offset >= 0 else bounds[one.partition][1] for one in found}


def committed_offsets(brokers: str, group: str, topics: Iterable[str]) -> dict[str, dict[int, int]]:
    """For each partition of `topics` up to where `group` has read, as it said last; 0 where it never did."""
    with _reader(brokers, group) as consumer, _translated(brokers, f"asking how far {group} has read"):
        wanted = [TopicPartition(topic, p) for topic in topics for p in _bounds(consumer, brokers, topic)]
        found: dict[str, dict[int, int]] = {one.topic: {} for one in wanted}
        for one in consumer.committed(wanted, timeout=TIMEOUT):
            found[one.topic][one.partition] = max(one.offset, 0)
    return found


def _bounds(consumer: Consumer, brokers: str, topic: str) -> dict[int, tuple[int, int]]:
    """For each partition the offset of its oldest record, and the one that its next will get."""
    known = consumer.list_topics(topic, timeout=TIMEOUT).topics[topic]
    if known.error is not None or not known.partitions:
        raise DefinitionError(f"Kafka at {brokers} has no topic {topic!r}; deploy or publish creates it")
    return {partition: _span(consumer, TopicPartition(topic, partition)) for partition in known.partitions}


def _span(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    """First and next offset of a partition; waits while the broker does not lead it yet."""
    deadline = monotonic() + TIMEOUT
    while True:
        try:
            return consumer.get_watermark_offsets(partition, timeout=TIMEOUT)
        except KafkaException as error:
            if error.args[0].code() not in PASSING or monotonic() > deadline:
                raise
        sleep(0.02)
        consumer.list_topics(partition.topic, timeout=TIMEOUT)  # or it believes for minutes what it was told once


@contextmanager
def _reader(brokers: str, group: str = "millrace-reader") -> Iterator[Consumer]:
    """A consumer outside every group: commits nothing, sees transactions only when they are complete."""
    options = _client(brokers) | {
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "fetch.wait.max.ms": 50,
        "fetch.message.max.bytes": MESSAGE_BYTES,
        "queued.min.messages": 50_000,
    }
    consumer = Consumer(options)
    try:
        yield consumer
    finally:
        consumer.close()


def records(
    brokers: str,
    topic: str,
    start: Literal["earliest", "latest"] | Mapping[int, int] = "earliest",
    until: Literal["end"] | Mapping[int, int] | None = "end",
    batch: int = 10_000,
) -> Iterator[list[Record]]:
    """Read a topic in batches of at most `batch` records, in offset order within each partition.

    `start` and `until` may be offsets by partition; `until="end"` is where the topic ends when reading
    starts, None reads for ever and yields an empty list when nothing came for 0.1 s: the caller may stop.
    Unavailable where there is an end, and for `MUTE` times `SILENT` seconds no broker answers.
    """
    with _translated(brokers, f"reading {topic}"):
        with _reader(brokers) as consumer:
            bounds = _bounds(consumer, brokers, topic)
        ends = {partition: high for partition, (_, high) in bounds.items()}
        # "latest" is resolved here and now: what is published after this call returns is seen
        offsets = start if not isinstance(start, str) else ends if start == "latest" else {}
        goal = None if until is None else (ends if until == "end" else dict(until))
        reached = {p: max(offsets.get(p, 0), low) for p, (low, _) in bounds.items()}  # retention may have been there
        with closing(_messages(brokers, topic, reached, batch, goal is None)) as arrived:
            while goal is None or any(reached[p] < end for p, end in goal.items() if p in reached):
                out = [record for m in next(arrived) if (record := _received(m, reached)) is not None]
                if goal is not None:
                    out = [record for record in out if record.offset < goal.get(record.partition, 0)]
                if out or goal is None:
                    yield out


def _messages(brokers: str, topic: str, reached: dict[int, int], batch: int, ever: bool) -> Generator[list[Message]]:
    """Messages from `reached` on, which the caller moves; an empty list when none came for 0.1 s. Unavailable when no
    broker answers, unless it is to be waited for `ever`."""
    mute = 0
    while ever or mute < MUTE:
        mute += 1
        with _reader(brokers) as consumer:
            consumer.assign([TopicPartition(topic, p, offset) for p, offset in reached.items()])
            heard = monotonic()
            while monotonic() - heard < SILENT:
                one = consumer.poll(0.1)  # `consume` alone would wait until the batch is full
                messages = [] if one is None else [one, *consumer.consume(batch - 1, timeout=0)]
                if messages:  # also that a partition is read to its end, as each reader is told
                    heard, mute = monotonic(), 0
                yield messages
    waited = f"no broker answered for {MUTE * SILENT:.0f} s"
    raise Unavailable(f"Kafka at {brokers}, reading {topic}: {waited}; is it up? `millrace status` tells")


def _received(message: Message, reached: dict[int, int]) -> Record | None:
    """A record; None for the notice that a partition is read to its end. `reached` follows both."""
    error, partition, offset = message.error(), message.partition(), message.offset()
    if error is not None:
        if error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        # Markers of transactions take offsets too: only this notice tells that the rest holds no records.
        reached[partition or 0] = max(reached[partition or 0], offset or 0)
        return None
    assert partition is not None
    assert offset is not None
    reached[partition] = offset + 1
    headers: Headers = message.headers() or ()  # type: ignore[assignment]
    value = message.value()
    return Record(partition, offset, message.timestamp()[1], message.key(), value, tuple(headers))


class Producer:
    """Publishes records; leaving the `with` block waits for every acknowledgement.

    Idempotent: in order for each key, and once, whatever the broker answers on the way. Keys go to the same partitions
    as Java's clients choose (murmur2).
    """

    def __init__(self, brokers: str, **options: str | int | float | bool) -> None:
        """Connect to `brokers`; `options` are librdkafka's own, on top of ours."""
        self.brokers = brokers
        self._failed: KafkaError | None = None
        ours: dict[str, str | int | float | bool] = {
            # Without it librdkafka 2.16 mixes up the order when a broker refuses requests, though one at a time is in
            # flight. With several in flight it uses a whole core while a broker holds them up, and so starves a broker
            # beside it, which goes on.
            "enable.idempotence": True,
            "max.in.flight.requests.per.connection": 1,
            "partitioner": "murmur2_random",
            "linger.ms": 1,
            "compression.type": "lz4",
            "message.max.bytes": MESSAGE_BYTES,
            "queue.buffering.max.messages": 200_000,
            "delivery.timeout.ms": 60_000,
            # An unknown topic is an error after two seconds, not thirty: ours exist before they are written.
            "topic.metadata.propagation.max.ms": 2_000,
            "delivery.report.only.error": True,
            "on_delivery": self._delivered,  # type: ignore[dict-item]
        }
        self._client = Client(_client(brokers, **(ours | options)))

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed = self._failed or error

    def publish(self, topic: str, outgoing: Iterable[Outgoing]) -> int:
        """Queue records, waiting while the queue is full; returns how many. Raises errors of earlier ones."""
        count, produce = 0, self._client.produce
        for key, value, headers in outgoing:
            extra = {"headers": list(headers)} if headers else {}
            while True:
                try:
                    produce(topic, value, key, **extra)  # type: ignore[arg-type]
                    break
                except BufferError:
                    self._client.poll(0.05)
                    self._check()
                except KafkaException as error:
                    raise DefinitionError(f"record {count} for {topic!r} cannot be published: {error}") from error
            count += 1
            if count % 1000 == 0:
                self._client.poll(0)
                self._check()
        self._client.poll(0)
        self._check()
        return count

    def flush(self, seconds: float = 60.0) -> None:
        """Wait until everything published is acknowledged; Unavailable if it is not after `seconds`."""
        left = self._client.flush(seconds)
        self._check()
        if left:
            raise Unavailable(f"Kafka at {self.brokers} has not acknowledged {left} records after {seconds:.0f} s")

    def _check(self) -> None:
        if self._failed is not None:
            reason, self._failed = self._failed.str(), None
            raise Unavailable(f"Kafka at {self.brokers} did not take a record: {reason}")

    def __enter__(self) -> Self:
        """The producer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush, unless an error is on its way already."""
        if error is None:
            self.flush()
