"""Compiled frames: what one side writes, the other reads back."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.kernels.texts import join, split
from schemas import frames
from streaming.kernels import read_rows, write_rows, write_sinks

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
    at = np.array(data.draw(st.lists(int64, min_size=k, max_size=k)), np.int64)
    words = np.array(data.draw(st.lists(int64, min_size=k * width, max_size=k * width)), np.int64).reshape(k, width)
    columned = data.draw(st.lists(texts, min_size=k * columns, max_size=k * columns))
    out, lengths = write_rows(at.view(np.uint8), words.reshape(-1).view(np.uint8), *join(columned))
    bounds = np.append(0, np.cumsum(lengths))
    assert bounds[-1] == len(out)
    for i, (a, b) in enumerate(pairwise(bounds)):
        others = [columned[c * k + i].encode() for c in range(1, columns)]
        sizes = np.array([*map(len, others)], np.int32).tobytes()
        payload = words[i].tobytes() + sizes + b"".join(others)
        assert bytes(out[a:b]) == frames.row(int(at[i]), columned[i].encode(), payload)
    behind = np.concatenate((np.zeros(3, np.uint8), out))
    buffer, start, end = np.frombuffer(behind.tobytes(), np.uint8), bounds[:-1] + 3, bounds[1:] + 3
    read, joined, ends = read_rows(buffer, start, end, width, columns - 1)
    np.testing.assert_array_equal(read.view(np.int64), np.column_stack((at, words)))
    assert split(joined, ends) == columned[k:]


@given(st.binary(max_size=60), st.integers(0, 3), st.integers(0, 3))
def test_what_is_no_row_is_refused(payload: bytes, width: int, count: int) -> None:
    """If this fails, a record of another version is read beyond its end."""
    frame = frames.row(1, b"key", payload)
    sizes = [int.from_bytes(payload[8 * width + 4 * c :][:4], "little", signed=True) for c in range(count)]
    where = np.frombuffer(frame, np.uint8), np.zeros(1, np.int64), np.array([len(frame)])
    if len(payload) < 8 * width + 4 * count or 8 * width + 4 * count + sum(max(n, 0) for n in sizes) != len(payload):
        with pytest.raises(ValueError, match="row frame"):
            read_rows(*where, width, count)
    else:
        assert len(read_rows(*where, width, count)[2]) == count + 1


@given(st.lists(st.tuples(texts, st.binary(max_size=9)), max_size=6))
def test_sinks_are_those_of_one_record(records: list[tuple[str, bytes]]) -> None:
    """If this fails, a decision is written under another key, or cut."""
    values = np.frombuffer(b"".join(value for _, value in records), np.uint8)
    sizes = np.array([len(value) for _, value in records], np.int32)
    out, lengths = write_sinks(*join([key for key, _ in records]), values, sizes)
    bounds = np.append(0, np.cumsum(lengths))
    found = [bytes(out[a:b]) for a, b in pairwise(bounds)]
    assert found == [frames.sink(key.encode(), value) for key, value in records]
    assert bounds[-1] == len(out)
