"""The baseline of the benches: what a raw confluent-kafka loop does when it is written as well as we can.

The same work as a stage of ours on JSON events `{"id", "at", "key", "value"}` (record key = key): by key,
three windows with count, mean and maximum in panes, an ONNX model over these nine, JSON out. State in
memory, and no checkpoints, dead letters or dedupe. Start it, let it run, SIGTERM it: it prints a report.

    python tests/bench/raw_loop.py --brokers 127.0.0.1:9092 --input IN --output OUT --model model.onnx
"""

import argparse
import contextlib
import gc
import json
import resource
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import numba
import numpy as np
import onnxruntime
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from numpy.typing import NDArray

WINDOWS, PANES = 3, 12
PANE = np.array([60_000, 3_600_000, 86_400_000], np.int64) // PANES  # ms
FEATURES = WINDOWS * 3
CHUNK = 256  # rows a model call: fastest for tree ensembles


class Event(msgspec.Struct, gc=False):
    """One event."""

    id: str
    at: int
    key: str
    value: float


class Decision(msgspec.Struct, gc=False):
    """What is decided about it."""

    id: str
    workload: str
    event: str
    at: int
    key: str
    model: str
    degraded: bool
    score: float
    action: str
    reasons: tuple[str, ...] = ()


@numba.njit(cache=True, nogil=True)
def windows(
    states: NDArray[np.float64],
    slot: NDArray[np.int64],
    at: NDArray[np.int64],
    value: NDArray[np.float64],
    out: NDArray[np.float32],
) -> None:
    """Fold k events into states[key, window, pane, (epoch, count, sum, max)]; out: f32[k, 9] as of each."""
    for i in range(at.shape[0]):
        state = states[slot[i]]
        for w in range(WINDOWS):
            epoch = at[i] // PANE[w]
            pane = state[w, epoch % PANES]
            if pane[0] != epoch:
                pane[0] = epoch
                pane[1] = 0.0
                pane[2] = 0.0
                pane[3] = -np.inf
            pane[1] += 1.0
            pane[2] += value[i]
            pane[3] = max(pane[3], value[i])
            count = total = 0.0
            top = -np.inf
            for j in range(PANES):
                other = state[w, j]
                if epoch - PANES < other[0] <= epoch:
                    count += other[1]
                    total += other[2]
                    top = max(top, other[3])
            out[i, w * 3] = count
            out[i, w * 3 + 1] = total / count
            out[i, w * 3 + 2] = top


class Loop:
    """Decode, features, model, encode: one call a batch."""

    def __init__(self, model: bytes, threshold: float) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._output = [self._session.get_outputs()[-1].name]
        self._threshold = threshold
        self._decode = msgspec.json.Decoder(list[Event]).decode
        self._one = msgspec.json.Decoder(Event).decode
        self._encode = msgspec.json.Encoder().encode
        self._slots: dict[str, int] = {}
        self._states = np.zeros((1024, WINDOWS, PANES, 4))
        self.bad = 0

    def decode(self, values: list[bytes]) -> list[Event]:
        """Events of a batch in one call; one by one where one of them is broken, which is left out."""
        try:
            return self._decode(b"[" + b",".join(values) + b"]")
        except (msgspec.MsgspecError, UnicodeDecodeError):
            events = []
            for value in values:
                with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    events.append(self._one(value))
            return events

    def score(self, rows: NDArray[np.float32]) -> list[float]:
        """Probability of the last class, by the row."""
        run, name = self._session.run, self._input
        parts = [
            np.asarray(run(self._output, {name: rows[i : i + CHUNK]})[0]).reshape(len(rows[i : i + CHUNK]), -1)[:, -1]
            for i in range(0, len(rows), CHUNK)
        ]
        scores: list[float] = np.concatenate(parts).tolist()
        return scores

    def process(self, values: list[bytes]) -> list[dict[str, Any]]:
        """Messages to produce."""
        events = self.decode(values)
        self.bad += len(values) - len(events)
        if not events:
            return []
        slots, k = self._slots, len(events)
        slot = np.array([slots.setdefault(e.key, len(slots)) for e in events], np.int64)
        if len(slots) > len(self._states):
            grown = np.zeros((2 * len(slots), *self._states.shape[1:]))
            grown[: len(self._states)] = self._states
            self._states = grown
        at = np.array([e.at for e in events], np.int64)
        value = np.array([e.value for e in events], np.float64)
        rows = np.empty((k, FEATURES), np.float32)
        windows(self._states, slot, at, value, rows)
        encode, limit = self._encode, self._threshold
        return [
            {
                "key": e.key,
                "value": encode(
                    Decision(
                        e.id, "reference", e.id, e.at, e.key, "raw", False, p, "review" if p > limit else "approve"
                    )
                ),
            }
            for e, p in zip(events, self.score(rows), strict=True)
        ]


def consumer_of(brokers: str) -> Consumer:
    """A consumer that fetches at once, far ahead, and never sits out a back-off."""
    return Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": f"raw-{uuid.uuid4()}",
            "auto.offset.reset": "earliest",
            "fetch.min.bytes": 1,
            "fetch.wait.max.ms": 10,
            "fetch.queue.backoff.ms": 1,
            "queued.min.messages": 200_000,
            "socket.nagle.disable": True,
        }
    )


def producer_of(brokers: str) -> Producer:
    """A producer that lingers 1 ms, waits for all replicas as ours does, and reports only what failed."""
    return Producer(
        {
            "bootstrap.servers": brokers,
            "linger.ms": 1,
            "acks": "all",
            "batch.num.messages": 10_000,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1_048_576,
            "delivery.report.only.error": True,
            "socket.nagle.disable": True,
        }
    )


def value_of(message: Message) -> bytes:
    """Its value; raises what the consumer reports in place of a message."""
    error = message.error()
    if error is not None and error.code() != KafkaError._PARTITION_EOF:
        raise KafkaException(error)
    return message.value() or b""


def send(producer: Producer, topic: str, messages: list[dict[str, Any]]) -> None:
    """Hand over all of them; a full queue is waited for."""
    while messages:
        producer.produce_batch(topic, messages)
        messages = [message for message in messages if message.pop("_error", None) is not None]
        producer.poll(0.01 if messages else 0)


def main() -> None:
    """Run until SIGTERM or SIGINT, then print one JSON line: records, decisions, CPU and wall seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("brokers", "input", "output", "model"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--threshold", type=float, default=0.7)
    given = parser.parse_args()
    loop = Loop(Path(given.model).read_bytes(), given.threshold)
    warm = Loop(Path(given.model).read_bytes(), given.threshold)
    warm.process([b'{"id":"w","at":1,"key":"w","value":1}'] * CHUNK)
    running = [True]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: running.clear())
    consumer, producer = consumer_of(given.brokers), producer_of(given.brokers)
    consumer.subscribe([given.input])
    gc.collect()
    gc.freeze()
    records = decisions = 0
    begin, cpu = time.monotonic(), time.process_time()
    while running:
        first = consumer.poll(0.05)  # sleeps until there is something, then takes what there is
        if first is None:
            producer.poll(0)
            continue
        messages = [first, *consumer.consume(given.batch - 1, 0)]
        out = loop.process([value_of(message) for message in messages])
        send(producer, given.output, out)
        records, decisions = records + len(messages), decisions + len(out)
    lost = producer.flush(10)
    report: dict[str, float] = {"records": records, "decisions": decisions - lost, "bad": loop.bad}
    report |= {"cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - begin}
    report |= {"max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    consumer.close()
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
