"""Byte layouts: what one side writes, the other reads back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas import frames
from tests import java

texts = st.binary(max_size=20)
maybe = st.none() | texts
int64 = st.integers(-(2**63), 2**63 - 1)


@given(int64, st.integers(0, 2**15 - 1), st.integers(0, 2**48 - 1), int64, maybe, maybe)
def test_source_frames_round_trip(
    at: int, partition: int, offset: int, time: int, key: bytes | None, value: bytes | None
) -> None:
    """If this fails, records lose their coordinates, or null turns into empty."""
    record = java.Source(at, partition, offset, time, key, value)
    assert java.read_source(java.write_source(record)) == record


@given(maybe, maybe, st.lists(st.tuples(texts, texts), max_size=4))
def test_sink_frames_round_trip(key: bytes | None, value: bytes | None, headers: list[tuple[bytes, bytes]]) -> None:
    """If this fails, a dead letter loses its bytes or its reason."""
    assert java.sink_parts(frames.sink(key, value, headers)) == (key, value, headers)


@given(st.lists(texts, max_size=5), st.data())
def test_requests_round_trip(keys: list[bytes], data: st.DataObject) -> None:
    """If this fails, a record is handled with the state of another key."""
    u = len(keys)
    slots = data.draw(st.lists(st.integers(0, u - 1), max_size=8)) if u else []
    ports = data.draw(st.lists(st.integers(0, 2), min_size=len(slots), max_size=len(slots)))
    records = data.draw(st.lists(texts, min_size=len(slots), max_size=len(slots)))
    states = data.draw(st.lists(texts, min_size=u, max_size=u))
    rows, handed = (data.draw(st.lists(st.integers(0, 99), min_size=u, max_size=u)) for _ in range(2))
    request = frames.parse_request(java.build_request(slots, ports, records, keys, states, rows, handed))
    assert (request.rows.tolist(), request.handed.tolist()) == (rows, handed)
    assert request.slot.tolist() == slots
    assert request.port.tolist() == ports
    assert (request.records(), request.keys, request.states()) == (records, keys, states)


@given(st.lists(st.tuples(st.integers(0, 12), texts), max_size=8), st.lists(maybe, max_size=5), st.data())
def test_responses_round_trip(
    outputs: list[tuple[int, bytes]], states: list[bytes | None], data: st.DataObject
) -> None:
    """If this fails, outputs change their topic or states their key."""
    timer = data.draw(st.none() | st.lists(int64, min_size=len(states), max_size=len(states)))
    response = frames.build_response(
        [frame for _, frame in outputs],
        bytes(tag for tag, _ in outputs),
        np.array([-1 if state is None else len(state) for state in states], np.int32),
        b"".join(state or b"" for state in states),
        None if timer is None else np.array(timer, np.int64),
    )
    assert java.parse_response(response) == (outputs, states, timer or [frames.NONE] * len(states))
