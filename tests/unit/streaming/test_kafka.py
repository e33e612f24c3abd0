"""Clients beside a broker that refuses what it is asked, or knows no leader: librdkafka's own mock cluster, made to."""

import ctypes
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from schemas.errors import Unavailable
from streaming import kafka

PRODUCE, NOT_LEADER = 0, 6
RECORDS = 12_000


class Mock:
    """A mock cluster of one broker."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("confluent_kafka")
        assert spec
        assert spec.origin
        (path,) = (Path(spec.origin).parent.parent / "confluent_kafka.libs").glob("librdkafka*")
        lib = self._lib = ctypes.CDLL(str(path))
        for function in (lib.rd_kafka_conf_new, lib.rd_kafka_new, lib.rd_kafka_mock_cluster_new):
            function.restype = ctypes.c_void_p
        lib.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        reason = ctypes.create_string_buffer(512)
        self._client = ctypes.c_void_p(
            lib.rd_kafka_new(0, ctypes.c_void_p(lib.rd_kafka_conf_new()), reason, len(reason))
        )
        assert self._client, reason.value
        self._mock = ctypes.c_void_p(lib.rd_kafka_mock_cluster_new(self._client, 1))
        self.brokers: str = lib.rd_kafka_mock_cluster_bootstraps(self._mock).decode()

    def refuse(self, times: int) -> None:
        """Answer the next `times` requests to produce that the broker is not the leader."""
        errors = (ctypes.c_int * times)(*[NOT_LEADER] * times)
        self._lib.rd_kafka_mock_push_request_errors_array(
            self._mock, ctypes.c_int16(PRODUCE), ctypes.c_size_t(times), errors
        )

    def forget_leader(self, topic: str) -> None:
        """Answer the next question for the leader of partition 0 that there is none."""
        numbers = map(ctypes.c_int32, (0, -1, 0))
        self._lib.rd_kafka_mock_partition_push_leader_response(self._mock, topic.encode(), *numbers)

    def close(self) -> None:
        """Stop it."""
        self._lib.rd_kafka_mock_cluster_destroy(self._mock)
        self._lib.rd_kafka_destroy(self._client)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Mock]:
    """The mock cluster of these tests."""
    mock = Mock()
    yield mock
    mock.close()


def test_order_outlives_errors(cluster: Mock) -> None:
    """If this fails, what a broker refused at first comes behind what was published after it."""
    for run, times in enumerate((1, 2, 3, 2, 3, 2)):
        topic = f"order-{run}"
        cluster.refuse(times)
        with kafka.Producer(cluster.brokers) as producer:
            producer.publish(topic, ((b"k", b"%d %0100d" % (i, i), ()) for i in range(RECORDS)))
        found = [int((r.value or b"").split()[0]) for batch in kafka.records(cluster.brokers, topic) for r in batch]
        assert found == list(range(RECORDS))


def test_a_leader_is_asked_for_again(cluster: Mock) -> None:
    """If this fails, who asks for the end of a topic while its broker comes back believes for long that it has none."""
    with kafka.Producer(cluster.brokers) as producer:
        producer.publish("asked", [(b"k", b"v", ())])
    for _ in range(2 * int(kafka.TIMEOUT)):  # librdkafka by itself asks once a second
        cluster.forget_leader("asked")
    assert sum(kafka.end_offsets(cluster.brokers, "asked").values()) == 1


def test_a_reader_that_stands_still_is_replaced(cluster: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a reader that missed that a partition has a leader again waits for ever."""
    made: list[Consumer] = []

    class First(Consumer):
        """Gets nothing where it is the first that reads."""

        def assign(self, partitions: list[TopicPartition]) -> None:
            super().assign(partitions)
            if not made:
                self.pause(partitions)
            made.append(self)

    monkeypatch.setattr(kafka, "SILENT", 0.5)
    monkeypatch.setattr(kafka, "Consumer", First)
    with kafka.Producer(cluster.brokers) as producer:
        producer.publish("still", [(b"k", b"%d" % i, ()) for i in range(9)])
    found = [r.value for batch in kafka.records(cluster.brokers, "still") for r in batch]
    assert found == [b"%d" % i for i in range(9)]
    assert len(made) == 2


@pytest.mark.timeout(60)
def test_a_reader_gives_up_a_broker_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, who reads to an end waits for ever, and says nothing, once the broker has died; or gives up one
    that answers, but has nothing yet."""
    monkeypatch.setattr(kafka, "SILENT", 0.5)
    mock = Mock()
    with kafka.Producer(mock.brokers) as producer:
        producer.publish("gone", [(b"k", b"v", ())])

    def publish() -> None:
        with kafka.Producer(mock.brokers) as producer:
            producer.publish("gone", [(b"k", b"w", ())])

    later = threading.Timer(1.5 * kafka.MUTE * kafka.SILENT, publish)
    later.start()
    batches = kafka.records(mock.brokers, "gone", until={0: 3})
    assert [r.value for _ in range(2) for r in next(batches)] == [b"v", b"w"]
    later.join()
    mock.close()
    with pytest.raises(Unavailable, match=r"reading gone: no broker answered for 3 s"):
        next(batches)
