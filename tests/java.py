"""Frames as Java writes and reads them, for tests that have no Java; `schemas.frames` says the layouts."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas import frames

SOURCE = struct.Struct("<qqqqii")
_SINK = struct.Struct("<iii")
_PAIR = struct.Struct("<ii")


def _pad(size: int) -> int:
    return -size % 8


@dataclass(frozen=True, slots=True)
class Source:
    """A record as a source read it; `timestamp` in ms, as the broker or producer stamped it."""

    at: int
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


def read_source(frame: bytes) -> Source:
    """The record in a source frame."""
    at, _, place, timestamp, key, value = SOURCE.unpack_from(frame)
    split = SOURCE.size + max(key, 0)
    return Source(
        at, place >> frames.OFFSET, place & (1 << frames.OFFSET) - 1, timestamp,
        frame[SOURCE.size : split] if key >= 0 else None,
        frame[split : split + value] if value >= 0 else None,
    )  # fmt: skip


def write_source(record: Source) -> bytes:
    """The source frame of `record`."""
    key, value = record.key, record.value
    return SOURCE.pack(
        record.at, record.at, record.partition << frames.OFFSET | record.offset, record.timestamp,
        -1 if key is None else len(key), -1 if value is None else len(value),
    ) + (key or b"") + (value or b"")  # fmt: skip


def build_request(
    slot: Sequence[int],
    port: Sequence[int],
    records: Sequence[bytes],
    keys: Sequence[bytes],
    states: Sequence[bytes],
    rows: Sequence[int] | None = None,
    handed: Sequence[int] | None = None,
    logs: Sequence[bytes] = (),
) -> bytes:
    """The request of a batch."""
    n, u = len(records), len(keys)
    logs = logs or [b""] * u
    rows, handed = range(u) if rows is None else rows, range(u) if handed is None else handed
    lengths = [*map(len, records), *rows, *map(len, keys), *map(len, states), *map(len, logs), *handed]
    head = struct.pack(f"<{4 + n + len(lengths)}i", n, u, len(handed), 0, *slot, *lengths) + bytes(port)
    return b"".join((head, bytes(_pad(len(head))), *states, *logs, *keys, *records))


class Log(bytes):
    """What came for a key since its state was written, in a response."""


def parse_response(
    buffer: bytes,
) -> tuple[list[tuple[int, bytes]], list[bytes | None], list[int]]:
    """Outputs as (tag, frame), states (None: unchanged, or a `Log`) and timers of a response, as Java reads it."""
    m, u = _PAIR.unpack_from(buffer)
    lengths = np.frombuffer(buffer, np.int32, m + u, 8).tolist()
    tags = buffer[8 + 4 * (m + u) : 8 + 4 * (m + u) + m]
    offset = 8 + 5 * m + 4 * u
    offset += _pad(offset)
    timers = np.frombuffer(buffer, np.int64, u, offset).tolist()
    offset += 8 * u
    states: list[bytes | None] = []
    for length in lengths[m:]:
        size = -length if length < -1 else max(length, 0)
        found = buffer[offset : offset + size]
        states.append(None if length == -1 else Log(found) if length < 0 else found)
        offset += size
    outputs = []
    for tag, length in zip(tags, lengths[:m], strict=True):
        outputs.append((tag, buffer[offset : offset + length]))
        offset += length
    return outputs, states, timers


def sink_parts(frame: bytes) -> tuple[bytes | None, bytes | None, list[tuple[bytes, bytes]]]:
    """Key, value and headers in a sink frame."""
    key, value, count = _SINK.unpack_from(frame)
    sizes = [_PAIR.unpack_from(frame, _SINK.size + 8 * i) for i in range(count)]
    offset = _SINK.size + 8 * count

    def take(length: int) -> bytes:
        nonlocal offset
        offset += max(length, 0)
        return frame[offset - max(length, 0) : offset]

    parts = (take(key) if key >= 0 else None, take(value) if value >= 0 else None)
    return *parts, [(take(a), take(b)) for a, b in sizes]
