"""The shared producer beside a broker that refuses what it is sent: librdkafka's own mock cluster, made to."""

import ctypes
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streaming import kafka

PRODUCE, NOT_LEADER = 0, 6
RECORDS = 12_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, Callable[[int], None]]]:
    """Address of a mock cluster of one broker, and what makes it refuse the next so many requests to produce."""
    spec = importlib.util.find_spec("confluent_kafka")
    assert spec
    assert spec.origin
    (path,) = (Path(spec.origin).parent.parent / "confluent_kafka.libs").glob("librdkafka*")
    lib = ctypes.CDLL(str(path))
    pointers = (lib.rd_kafka_conf_new, lib.rd_kafka_new, lib.rd_kafka_mock_cluster_new)
    for function in pointers:
        function.restype = ctypes.c_void_p
    lib.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    reason = ctypes.create_string_buffer(512)
    client = ctypes.c_void_p(lib.rd_kafka_new(0, ctypes.c_void_p(lib.rd_kafka_conf_new()), reason, len(reason)))
    assert client, reason.value
    mock = ctypes.c_void_p(lib.rd_kafka_mock_cluster_new(client, 1))

    def refuse(times: int) -> None:
        errors = (ctypes.c_int * times)(*[NOT_LEADER] * times)
        lib.rd_kafka_mock_push_request_errors_array(mock, ctypes.c_int16(PRODUCE), ctypes.c_size_t(times), errors)

    yield lib.rd_kafka_mock_cluster_bootstraps(mock).decode(), refuse
    lib.rd_kafka_mock_cluster_destroy(mock)
    lib.rd_kafka_destroy(client)


def test_order_outlives_errors(cluster: tuple[str, Callable[[int], None]]) -> None:
    """If this fails, what a broker refused at first comes behind what was published after it."""
    brokers, refuse = cluster
    for run, times in enumerate((1, 2, 3, 2, 3, 2)):
        topic = f"order-{run}"
        refuse(times)
        with kafka.Producer(brokers) as producer:
            producer.publish(topic, ((b"k", b"%d %0100d" % (i, i), ()) for i in range(RECORDS)))
        found = [int((r.value or b"").split()[0]) for batch in kafka.records(brokers, topic) for r in batch]
        assert found == list(range(RECORDS))
