"""Load for benches: a sender and a reader, each a process of its own so that neither limits what is measured.

`python -m streaming.load send|read SPEC`, where SPEC is a JSON object. Latency is counted from the moment at which
a record was *due*, not from when it was sent: a system that stalls its sender gains nothing by it.
"""

import signal
import sys
import time
from collections.abc import Iterator

import msgspec
import numpy as np

from streaming import kafka

ID = b'"id":"'

QUIET = {"enable.idempotence": False}
"""How a sender differs from other producers: under load an idempotent one uses more of the cores that what is measured
needs, and here the order matters to nobody."""


class Send(msgspec.Struct, frozen=True):
    """Records `first` to `first + count` of a workload's load, `rate` a second (0: as fast as possible)."""

    brokers: str
    topic: str
    workload: str
    first: int
    count: int
    rate: float = 0.0
    start_ns: int = 0
    outcomes: bool = False  # those of the records instead, known since they were due


class Read(msgspec.Struct, frozen=True):
    """Read `topic` from `offsets` on until ids `first` to `first + count` have come or `seconds` have passed.

    Writes when each came, i64[count] ns since the epoch (0: never), to `out`.
    """

    brokers: str
    topic: str
    first: int
    count: int
    seconds: float
    out: str
    offsets: dict[int, int]


STEP = {"reference": 0.1, "fraud": 9_000.0, "anomaly": 100.0, "forecast": 3_600.0}
"""Event time between two events of a full topic, ms: 10,000 a second, 9,600 a day as in the simulator, …"""

SERIES, BEGIN = 1_000, 1_500_000_000_000
"""Of the forecast's load: how many series, and when they begin."""


def values(workload: str, first: int, count: int, start_ms: int, step: float) -> Iterator[tuple[bytes, bytes]]:
    """Keys and JSON values of a synthetic load from `start_ms` on, `step` ms apart, the same for the same numbers.

    reference: 10,000 keys · fraud: 5,000 cards at 10,000 terminals · anomaly: 10,000 sensors · forecast: 1,000 series,
    each an hour after its last, in the past. Ids are decimal numbers.
    """
    if workload == "forecast":
        yield from _hours(first, count)
        return
    chance = np.random.default_rng(first)
    pick = chance.integers(0, 2**31, (count, 2))
    amount = np.round(chance.gamma(2.0, 25.0, count), 2)
    rows = zip(range(first, first + count), pick.tolist(), amount.tolist(), strict=True)
    for i, (a, b), value in rows:
        at = start_ms + int((i - first) * step)
        if workload == "anomaly":
            key = b"s%04d" % (a % 10_000)
            yield key, b'{"id":"%d","at":%d,"sensor":"%s","value":%.2f}' % (i, at, key, value)
        elif workload == "fraud":
            key = b"c%04d" % (a % 5000)
            yield (
                key,
                b'{"id":"%d","at":%d,"card":"%s","terminal":"m%04d","amount":%.2f}' % (i, at, key, b % 10_000, value),
            )
        else:
            key = b"k%04d" % (a % 10_000)
            yield key, b'{"id":"%d","at":%d,"key":"%s","value":%.2f}' % (i, at, key, value)


def told(workload: str, first: int, count: int, start_ms: int, step: float) -> Iterator[tuple[bytes, bytes]]:
    """Keys and JSON values of outcomes of a synthetic load: one in twenty is true."""
    for i in range(first, first + count):
        at, label = start_ms + int((i - first) * step), b"true" if i % 20 == 0 else b"false"
        yield b"%d" % i, b'{"event":"%d","at":%d,"label":%s}' % (i, at, label)


def _hours(first: int, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Hourly series with a day's and a week's season, and noise."""
    chance = np.random.default_rng(first)
    number = np.arange(first, first + count)
    hour = number // SERIES
    value = 20 + 5 * np.sin(hour / 24 * 2 * np.pi) + 2 * np.sin(hour / 168 * 2 * np.pi) + chance.normal(size=count)
    for i, x in zip(number.tolist(), value.tolist(), strict=True):
        key = b"f%03d" % (i % SERIES)
        at = BEGIN + i // SERIES * 3_600_000
        yield key, b'{"id":"%d","at":%d,"series":"%s","value":%.3f}' % (i, at, key, x)


def send(spec: Send) -> None:
    """Publish the records of `spec`, each when it is due."""
    start = spec.start_ns or time.time_ns()
    step = 1000.0 / spec.rate if spec.rate else STEP[spec.workload]
    begin = start // 1_000_000 - (0 if spec.rate else int(spec.count * step))  # a full topic lies in the past
    of = told if spec.outcomes else values
    records = of(spec.workload, spec.first, spec.count, begin, step)
    with kafka.Producer(spec.brokers, **QUIET) as producer:
        if not spec.rate:
            producer.publish(spec.topic, ((key, value, ()) for key, value in records))
            return
        ready, sent = [(key, value, ()) for key, value in records], 0  # the less a sender does, the less it disturbs
        while sent < spec.count:
            due = min(int((time.time_ns() - start) * spec.rate / 1e9) + 1, spec.count)
            if due > sent:
                sent += producer.publish(spec.topic, ready[sent:due])
            time.sleep(0.001)


def read(spec: Read) -> None:
    """Note when each decision of `spec` came."""
    came = np.zeros(spec.count, np.int64)
    left, deadline = spec.count, time.monotonic() + spec.seconds
    start = {int(partition): offset for partition, offset in spec.offsets.items()}
    for batch in kafka.records(spec.brokers, spec.topic, start, until=None, batch=500):
        now = time.time_ns()
        for record in batch:
            number = _number(record.value or b"") - spec.first
            if 0 <= number < spec.count and not came[number]:
                came[number] = now
                left -= 1
        if not left or time.monotonic() > deadline:
            break
    np.save(spec.out, came)


def _number(value: bytes) -> int:
    start = value.find(ID) + len(ID)
    return int(value[start : value.find(b'"', start)])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.argv[1] == "send":
        send(msgspec.json.decode(sys.argv[2], type=Send))
    else:
        read(msgspec.json.decode(sys.argv[2], type=Read, strict=False))
