"""The byte codec from both sides: Java writes what `schemas.frames` writes, and each reads the other."""

import json
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import frames
from streaming import jars
from tests import java

I64 = st.integers(-(2**63), 2**63 - 1)
RECORDS = st.binary(max_size=40)
STATES = st.none() | st.integers(0, 5).map(lambda n: bytes(range(8)) * n)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


class Twin:
    """A JVM that answers questions about frames."""

    def __init__(self, process: "subprocess.Popen[bytes]"):
        assert process.stdin
        assert process.stdout
        self._in, self._out = process.stdin, process.stdout

    def ask(self, question: str, *parts: bytes) -> bytes:
        """Its answer."""
        self._in.write(question.encode() + b"".join(parts))
        self._in.flush()
        (size,) = struct.unpack(">i", self._out.read(4))
        return self._out.read(size)


def blob(value: bytes | None) -> bytes:
    """Bytes behind their length."""
    return struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value


def blobs(answer: bytes) -> list[bytes | None]:
    """All blobs in an answer."""
    found: list[bytes | None] = []
    while answer:
        (size,) = struct.unpack_from(">i", answer)
        found.append(None if size < 0 else answer[4 : 4 + size])
        answer = answer[4 + max(size, 0) :]
    return found


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    """The JVM, compiled from the test source and our operators."""
    classes = tmp_path_factory.mktemp("twin")
    lib = sorted(jars.flink_lib().glob("*.jar"))
    jars.compile_java(sorted((jars.SOURCES / "test").rglob("*.java")), lib, classes)
    classpath = ":".join(map(str, [classes, *lib]))
    command = [str(jars.java()), "-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp", classpath, "millrace.Twin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Twin(process)
        assert process.stdin
        process.stdin.close()
        assert process.wait(10) == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=3), RECORDS), max_size=30), st.data())
def test_request(twin: Twin, records: list[tuple[int, str, bytes]], data: st.DataObject) -> None:
    """A batch that Java sends is misread: wrong slots, ports, keys, states or records."""
    keys = list(dict.fromkeys(key for _, key, _ in records))
    states = data.draw(st.lists(STATES, min_size=len(keys), max_size=len(keys)))
    logs = data.draw(st.lists(STATES, min_size=len(keys), max_size=len(keys)))
    sent = [struct.pack(">b", port) + blob(key.encode()) + blob(record) for port, key, record in records]
    stored = [blob(part) for state, log in zip(states, logs, strict=True) for part in (state, log)]
    request = twin.ask("q", struct.pack(">i", len(records)), *sent, *stored)
    read = frames.parse_request(request)
    assert [keys[slot] for slot in read.slot.tolist()] == [key for _, key, _ in records]
    assert read.port.tolist() == [port for port, _, _ in records]
    assert read.records() == [record for _, _, record in records]
    assert read.keys == [key.encode() for key in keys]
    assert read.states() == [state or b"" for state in states]
    assert read.log_bytes() == b"".join(log or b"" for log in logs)
    assert read.log_length.tolist() == [len(log or b"") for log in logs]
    assert read.state_offset % 8 == 0
    built = java.build_request(
        [keys.index(key) for _, key, _ in records],
        [port for port, _, _ in records],
        [record for _, _, record in records],
        [key.encode() for key in keys],
        [state or b"" for state in states],
        logs=[log or b"" for log in logs],
    )
    assert request == built


KEYS = st.lists(st.sampled_from(["Aa", "BB"]), max_size=4).map("".join)
"""Of the same length, their hashes are the same in Java."""


@given(st.integers(1, 4), st.data())
def test_rows(twin: Twin, room: int, data: st.DataObject) -> None:
    """Two keys share a row, or a state that Python changed is never handed over, and a crash loses it."""
    batch = st.lists(KEYS | st.integers(0, 30).map(lambda n: f"k{n}"), min_size=1, max_size=room)
    batches = data.draw(st.lists(st.tuples(batch, st.integers(0, 3)), max_size=40))
    sent = [
        struct.pack(">i", len(keys)) + b"".join(blob(key.encode()) for key in keys) + struct.pack(">i", taken)
        for keys, taken in batches
    ]
    answer = twin.ask("w", struct.pack(">ii", room, len(batches)), *sent)
    numbers = iter(struct.unpack(f">{len(answer) // 4}i", answer))
    stored: dict[str, int] = {}
    table: dict[int, tuple[str, int]] = {}
    for keys, _ in batches:
        rows = [next(numbers) for _ in keys]
        admitted, victims, handed = ([next(numbers) for _ in range(next(numbers))] for _ in range(3))
        came = dict(zip(rows, keys, strict=True))
        table.update((row, (came[row], stored.get(came[row], 0))) for row in admitted)
        for row, key in zip(rows, keys, strict=True):
            assert table[row][0] == key
            table[row] = key, table[row][1] + 1
        assert not set(victims) & set(rows)
        stored.update(table[row] for row in handed)
        for row in victims:
            assert stored[table[row][0]] == table[row][1], "given up with changes that were not handed over"
            del table[row]
        stored.update(table[row] for row in [next(numbers) for _ in range(next(numbers))])
    every = [key for keys, _ in batches for key in keys]
    assert {key: max(stored.get(key, 0), dict(table.values()).get(key, 0)) for key in every} == Counter(every)


STEPS = st.lists(st.tuples(st.sampled_from("cccttwr"), KEYS, st.integers(0, 400)), max_size=80)


@given(STEPS)
def test_pool(twin: Twin, steps: list[tuple[str, str, int]]) -> None:
    """What waits is lost, mixed up or comes twice, at once or after a crash; or what was taken is kept for ever."""
    waits, written = dict[str, bytes](), dict[str, bytes]()
    sent, expected = list[bytes](), list[tuple[bytes, int, int]]()
    for number, (step, key, size) in enumerate(steps):
        if step == "c" and key not in waits:
            waits[key] = frames.row(number, key.encode(), bytes([number]) * size)
            sent.append(b"c" + blob(waits[key]))
            expected.append((b"", len(waits), -1))
        elif step in "ct":
            found = waits.pop(key, None)
            sent.append(b"t" + blob(key.encode()))
            expected.append((blob(None if found is None else b"\0" + found), len(waits), -1))
        else:
            sent.append(step.encode())
            waits, written = (waits, dict(waits)) if step == "w" else (dict(written), written)
            expected.append((b"", len(waits), sum(16 + len(frame) for frame in waits.values()) if step == "w" else -1))
    answer = twin.ask("p", struct.pack(">i", len(sent)), *sent)
    for found, size, live in expected:
        assert answer.startswith(found)
        answer = answer[len(found) :]
        if live >= 0:
            (stored,) = struct.unpack_from(">i", answer)
            assert live <= stored <= 2 * live + 128 + 256 + 16, "what is of no use stays"
            answer = answer[4:]
        assert struct.unpack_from(">i", answer) == (size,)
        answer = answer[4:]
    assert not answer


def test_pool_forgets(twin: Twin) -> None:
    """What waited for longer than states are kept stays, or what has not goes."""
    sent = [part for number in range(20) for part in (b"c" + blob(frames.row(0, b"%d" % number, bytes(80))), b"w")]
    sent += [b"e" + struct.pack(">i", 15), b"w", b"r", b"t" + blob(b"12"), b"t" + blob(b"13")]
    answer = twin.ask("p", struct.pack(">i", len(sent)), *sent)
    kept = 7  # number n came at step 2n; step 40 forgets what came before step 25
    assert answer.endswith(
        struct.pack(">i", kept) + struct.pack(">ii", (16 + 110) * kept, kept) + struct.pack(">i", kept)
        + struct.pack(">ii", -1, kept)
        + struct.pack(">i", 111) + b"\0" + frames.row(0, b"13", bytes(80)) + struct.pack(">i", kept - 1)
    )  # fmt: skip


@given(st.lists(st.none() | I64, max_size=60))
def test_dues(twin: Twin, times: list[int | None]) -> None:
    """A record is found due before one that is due earlier, or never."""
    left, sent, expected = list[tuple[int, int]](), list[bytes](), list[int]()
    for number, time in enumerate([*times, *[None] * len(times)]):
        if time is not None:
            left.append((time, number))
            sent.append(struct.pack(">iq", number, time))
        elif left:
            expected.append(min(left)[0])
            left.remove(min(left))
            sent.append(struct.pack(">i", -1))
    answer = twin.ask("d", struct.pack(">i", len(sent)), *sent)
    assert [time for time, _ in struct.iter_unpack(">qi", answer[:-1])] == expected
    assert answer[-1] == (not left)


def length(state: bytes | None) -> int:
    """As a response says it."""
    return -1 if state is None else -len(state) if isinstance(state, java.Log) else len(state)


def respond(outputs: list[tuple[int, bytes]], states: list[bytes | None], timers: list[int]) -> bytes:
    """A response as a stage writes it."""
    return frames.build_response(
        [frame for _, frame in outputs],
        bytes(tag for tag, _ in outputs),
        np.array([length(state) for state in states], np.int32),
        b"".join(state or b"" for state in states),
        np.array(timers, np.int64),
    )


@given(
    st.lists(st.tuples(st.integers(0, 12), RECORDS), max_size=20),
    st.lists(st.tuples(STATES | st.just(java.Log(range(16))), I64), max_size=20),
)
def test_response(twin: Twin, outputs: list[tuple[int, bytes]], keys: list[tuple[bytes | None, int]]) -> None:
    """A response is misread in Java: state of another key, lost output, wrong tag or timer."""
    buffer = respond(outputs, [state for state, _ in keys], [timer for _, timer in keys])
    answer = twin.ask("r", struct.pack(">i", len(keys)), blob(buffer))
    assert answer[0] == 1
    named = [bytes([i, isinstance(state, java.Log)]) for i, (state, _) in enumerate(keys)]
    expected = [part for i, (state, timer) in zip(named, keys, strict=True) for part in (i, str(timer).encode(), state)]
    expected += [part for tag, frame in outputs for part in (bytes([tag]), frame)]
    assert blobs(answer[1:]) == expected


@given(st.binary(max_size=60), st.integers(0, 3))
def test_response_of_any_bytes(twin: Twin, buffer: bytes, keys: int) -> None:
    """Bytes that are no response kill the task's JVM or are taken for one, instead of being refused."""
    answer = twin.ask("r", struct.pack(">i", keys), blob(buffer))
    if answer[0]:
        outputs, states, timers = java.parse_response(buffer)
        assert len(states) == len(timers) == keys
        assert len(buffer) >= 8 + 5 * len(outputs) + 12 * keys


def frame_in(twin: Twin, record: java.Source, times: bool = True, skew: int = 1000) -> bytes:
    """The frame that Java makes of a Kafka record."""
    head = struct.pack(">?qiqq", times, skew, record.partition, record.offset, record.timestamp)
    return twin.ask("i", head, blob(record.key), blob(record.value))


@given(
    st.integers(0, 999), st.integers(0, 2**48 - 1), st.integers(-1, 2**45),
    st.none() | RECORDS, st.none() | RECORDS,
)  # fmt: skip
def test_source_of_any_bytes(
    twin: Twin, partition: int, offset: int, timestamp: int, key: bytes | None, value: bytes | None
) -> None:
    """Some key or value throws in the deserialiser, and the job restarts for ever."""
    record = java.Source(frames.NONE, partition, offset, timestamp, key, value)
    assert frame_in(twin, record, times=False) == java.write_source(record)
    read = java.read_source(frame_in(twin, record))
    assert (read.partition, read.offset, read.timestamp, read.key, read.value) == (
        partition,
        offset,
        timestamp,
        key,
        value,
    )


@pytest.mark.parametrize(
    "value",
    [b'{"a":' * 50_000, b"[" * 2_000_000, b'{"at": "' + b"x" * 2_000_000, b"\xff\xfe\x00{", b'{"at": 1', b"",
     b'{"at": ' + b"9" * 5000 + b"}", b'{"' + b"n" * 100_000 + b'": 1, "at": 5'],
)  # fmt: skip
def test_hostile_values(twin: Twin, value: bytes) -> None:
    """Deep, long, cut or garbled JSON throws in the deserialiser or in a key selector."""
    record = java.Source(frames.NONE, 0, 1, 2, None, value)
    assert frame_in(twin, record) == java.write_source(record)
    assert twin.ask("k", blob(b"record"), blob(b"card"), blob(java.write_source(record))) == b""


def expected_time(value: Any, timestamp: int, skew: int) -> int:
    """`at` of a decoded record, as Java should see it."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        return frames.NONE
    return frames.NONE if value > timestamp + skew else value


@given(st.dictionaries(st.sampled_from(["id", "x", "at"]) | st.text(max_size=3), JSON, max_size=5), JSON | I64)
def test_event_time(twin: Twin, fields: dict[str, Any], at: Any) -> None:
    """Java reads another event time than the stage does, so that records wait too long or not at all."""
    text = json.dumps(fields | {"at": at})
    read = java.read_source(frame_in(twin, java.Source(0, 0, 0, 10**12, None, text.encode())))
    assert read.at == expected_time(at, 10**12, 1000)


def test_event_time_of_doubled_fields(twin: Twin) -> None:
    """Of two fields `at` Java believes the first and the stage the last, or an inner one counts."""
    text = b'{"at": 1, "x": {"at": 7}, "y": [{"at": 8}], "at": 2}'
    assert java.read_source(frame_in(twin, java.Source(0, 0, 0, 5, None, text))).at == 2


def as_key(value: bytes) -> bytes:
    """Bytes as the text that keys a stage: UTF-8, else Latin-1."""
    try:
        return value.decode().encode()
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()


@given(st.binary(max_size=6) | st.text(max_size=4).map(str.encode), st.text(max_size=4), st.binary(max_size=9))
def test_keys(twin: Twin, key: bytes, field: str, payload: bytes) -> None:
    """Two keys become one, or one key two, on the way from a record to its state."""
    value = json.dumps({"x": [1], "card": field}).encode()
    keyed = java.write_source(java.Source(0, 0, 0, 0, key, value))
    bare = java.write_source(java.Source(0, 0, 0, 0, None, value))
    assert twin.ask("k", blob(b"record"), blob(b"card"), blob(keyed)) == as_key(key)
    assert twin.ask("k", blob(b"record"), blob(b"card"), blob(bare)) == field.encode()
    assert twin.ask("k", blob(b"json"), blob(b"card"), blob(keyed)) == field.encode()
    assert twin.ask("k", blob(b"json"), blob(b"none"), blob(keyed)) == b""
    assert twin.ask("k", blob(b"row"), blob(b""), blob(frames.row(1, key, payload))) == as_key(key)


@given(
    st.sampled_from([(8, b"eight"), (9, b"nine")]), st.none() | RECORDS, st.none() | RECORDS,
    st.lists(st.tuples(st.text(max_size=5).map(str.encode), RECORDS), max_size=4),
)  # fmt: skip
@settings(max_examples=60)
def test_sink(
    twin: Twin,
    tag: tuple[int, bytes],
    key: bytes | None,
    value: bytes | None,
    headers: list[tuple[bytes, bytes]],
) -> None:
    """A decision or dead letter gets to the wrong topic, or loses its key, value or a header."""
    frame = bytes([tag[0]]) + frames.sink(key, value, headers)
    found = blobs(twin.ask("o", blob(frame)))
    assert found == [tag[1], key, value, *(part for header in headers for part in header)]


def test_java_is_readable() -> None:
    """A Java file grew past what a reader takes in at once."""
    for path in Path(jars.SOURCES).rglob("*.java"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 400, path
        assert all(len(line) <= 120 for line in lines), path
