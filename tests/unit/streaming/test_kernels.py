"""Compiled frames: what one side writes, the other reads back."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.kernels.texts import join, lines, split
from schemas import frames
from streaming.arrivals import Arrivals
from streaming.kernels import read_rows, write_rows, write_sinks
from tests.java import Source, build_request, write_source

texts = st.text(max_size=9) | st.sampled_from(["", "\n", "a\nb", "\n\n", "ü", "c0042"])
int64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(texts, max_size=9))
def test_texts_round_trip(many: list[str]) -> None:
    """If this fails, an id becomes another's, or two become one."""
    joined, bounds = join(many)
    assert [bytes(joined[a : b - 1]).decode() for a, b in pairwise(bounds)] == many
    assert split(joined, bounds) == many


@given(st.data(), st.integers(0, 6), st.integers(0, 3), st.integers(1, 3))
def test_rows_round_trip(data: st.DataObject, k: int, width: int, columns: int) -> None:
    """If this fails, a stage reads other numbers, ids or keys than the one before it wrote."""
    heads = np.array(data.draw(st.lists(int64, min_size=3 * k, max_size=3 * k)), np.int64).reshape(k, 3)
    words = np.array(data.draw(st.lists(int64, min_size=k * width, max_size=k * width)), np.int64).reshape(k, width)
    columned = data.draw(st.lists(texts, min_size=k * columns, max_size=k * columns))
    layout = data.draw(st.integers(0, 2**32 - 1))
    given = (part.reshape(-1).view(np.uint8) for part in (heads, words))
    out, lengths = write_rows(*given, layout, *join(columned))
    bounds = np.append(0, np.cumsum(lengths))
    assert bounds[-1] == len(out)
    for i, (a, b) in enumerate(pairwise(bounds)):
        others = [columned[c * k + i].encode() for c in range(1, columns)]
        sizes = np.array([*map(len, others)], np.int32).tobytes()
        payload = words[i].tobytes() + np.uint32(layout).tobytes() + sizes + b"".join(others)
        assert bytes(out[a:b]) == frames.row(int(heads[i, 0]), columned[i].encode(), payload, *heads[i, 1:].tolist())
    behind = np.concatenate((np.zeros(3, np.uint8), out))
    buffer, start, end = np.frombuffer(behind.tobytes(), np.uint8), bounds[:-1] + 3, bounds[1:] + 3
    read, joined, ends = read_rows(buffer, start, end, width, layout, columns - 1)
    np.testing.assert_array_equal(read.view(np.int64), np.column_stack((heads, words)))
    assert split(joined, ends) == columned[k:]
    if k:
        with pytest.raises(ValueError, match="another definition"):
            read_rows(buffer, start, end, width, layout ^ 1 << 31, columns - 1)


@given(st.binary(max_size=60), st.integers(0, 3), st.integers(0, 3))
def test_what_is_no_row_is_refused(payload: bytes, width: int, count: int) -> None:
    """If this fails, a record of another version is read beyond its end."""
    frame, head = frames.row(1, b"key", payload), 8 * width + 4
    layout = int.from_bytes(payload[8 * width : head], "little")
    sizes = [int.from_bytes(payload[head + 4 * c :][:4], "little", signed=True) for c in range(count)]
    where = np.frombuffer(frame, np.uint8), np.zeros(1, np.int64), np.array([len(frame)])
    if len(payload) < head + 4 * count or head + 4 * count + sum(max(n, 0) for n in sizes) != len(payload):
        with pytest.raises(ValueError, match="another definition"):
            read_rows(*where, width, layout, count)
    else:
        assert len(read_rows(*where, width, layout, count)[2]) == count + 1


@given(st.lists(st.tuples(texts, st.binary(max_size=9)), max_size=6))
def test_sinks_are_those_of_one_record(records: list[tuple[str, bytes]]) -> None:
    """If this fails, a decision is written under another key, or cut."""
    values = np.frombuffer(b"".join(value + b"\n" for _, value in records), np.uint8)
    ends = np.cumsum([0, *(len(value) + 1 for _, value in records)])
    out, lengths = write_sinks(*join([key for key, _ in records]), values, ends)
    bounds = np.append(0, np.cumsum(lengths))
    found = [bytes(out[a:b]) for a, b in pairwise(bounds)]
    assert found == [frames.sink(key.encode(), value) for key, value in records]
    assert bounds[-1] == len(out)


def test_a_decision_of_two_lines_is_refused() -> None:
    """If this fails, memory of others is written where a decision holds a line feed of its own."""
    with pytest.raises(ValueError, match="more lines"):
        write_sinks(*join(["key"]), *lines(b'{"a":\n1}\n', 1))


nullable = st.none() | st.binary(max_size=9)


@given(st.lists(st.tuples(nullable, nullable, st.integers(0, 2**60)), max_size=6))
def test_arrivals_are_those_of_one_record(records: list[tuple[bytes | None, bytes | None, int]]) -> None:
    """If this fails, an event is decoded from other bytes than were sent, or decided at another time."""
    arrivals = arrive([(key, value) for key, value, _ in records], [time for _, _, time in records])
    values = [value for _, value, _ in records]
    assert [arrivals.values[i] for i in range(len(records))] == values
    assert arrivals.values.lines == b"\n".join(value or b"" for value in values)
    assert arrivals.arrived.tolist() == [time for _, _, time in records]


@given(st.lists(st.tuples(st.none() | texts, texts), min_size=1, max_size=4))
def test_a_record_stands_under_its_own_key_or_not(pairs: list[tuple[str | None, str]]) -> None:
    """If this fails, an event is folded into the state of another key."""
    arrivals = arrive([(None if key is None else key.encode(), b"") for key, _ in pairs], [0] * len(pairs))
    own, index = [own for _, own in pairs], np.arange(len(pairs))
    assert arrivals.own(own, index).tolist() == [key in (None, own) for key, own in pairs]
    for i, (key, one) in enumerate(pairs):
        assert arrivals.own([one], index[i : i + 1]).tolist() == [key in (None, one)]


def arrive(records: list[tuple[bytes | None, bytes | None]], times: list[int]) -> Arrivals:
    """A batch of source frames."""
    written = [write_source(Source(0, 0, 0, time, *record)) for record, time in zip(records, times, strict=True)]
    request = frames.parse_request(build_request([0] * len(written), [0] * len(written), written, [], []))
    return Arrivals(request, request.start, "topic")
