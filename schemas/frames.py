"""Byte layouts between the micro-batch operator (Java) and its stage (Python): one call a batch, all little-endian.

| frame | layout |
|---|---|
| source | `i64 at · i64 reach · i64 place · i64 timestamp · i32 key length · i32 value length · key · value` |
| row | `i64 at · i64 reach · i64 place · i32 key length · key · payload`: from stage to stage, keyed by `key` |
| sink | `i32 key length · i32 value length · i32 headers · headers × (i32, i32) · key · value · names and values` |
| request | `i32 n · i32 u · i32 h · i32 0 · i32 slot[n] · i32 length[n] · i32 row[u] · i32 key length[u]`, |
| | `i32 state length[u] · i32 log length[u] · i32 handed[h] · u8 port[n] · pad · states · logs · keys · records` |
| response | `i32 m · i32 h · i32 length[m] · i32 state length[h] · u8 tag[m] · pad · i64 timer[h] · states · outputs` |

`at` is an event time; where those of a partition go back, a record counts by its `reach`, the newest so far, and then
by its `place`: of a source frame the partition and, in the last OFFSET bits, the offset; LAST is behind all others.

A stage keeps a row for each key; `slot` is the row of a record's key. Ahead of the batch, `u` keys are given to `row`s
with what their states were, and after it the states of `h` rows are handed over, in the order of `handed`. A stage that
keeps nothing from call to call is given every key of its batch, in rows 0 to u - 1, and hands all of them over again.

Where a stage lets records wait, the state of a key for which only one has come is a zero byte, then its frame.

A length of -1 is null (key, value) or unchanged (state in a response); a state of length 0 is absent. One below -1, in
a response, is the length of that key's log, in place of the one before; a state that is written ends the log. `pad`
fills to a multiple of 8 bytes, and so does whoever writes a state or a log. Their twins in Java are `Frames`,
`FrameIn` and `FrameOut`.
"""

import struct
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

NONE = -(2**63)
"""Absent event time, and absent timer."""

LAST = 2**63 - 1
"""The place of a frame that is behind all others of its reach."""

OFFSET = 48
"""Bits of an offset in a place."""

WAITING = b"\0"
"""The first byte of a state that is a record which waits."""

MAIN, SIDE, TIMER = 0, 1, 2
"""Ports of a stage: its events, what it is told beside them, its keyed timers."""

ROW, DECISION, DEADLETTER, SIGNAL, EXAMPLE, PENDING, LESSON, MODEL = 0, 8, 9, 10, 11, 12, 13, 14
"""Tags of outputs; `ROW + i` goes to feature stage `i`, `PENDING` and `LESSON` to the stages of the learning loop."""

_SINK = struct.Struct("<iii")
_PAIR = struct.Struct("<ii")
_ROW = struct.Struct("<qqqi")
_TIME = struct.Struct("<q")
_HEAD = struct.Struct("<iiii")
_NOBODY = (np.empty(0, np.int32),) * 4


def row(at: int, key: bytes, payload: bytes, reach: int | None = None, place: int = LAST) -> bytes:
    """A row frame for the stage that is keyed by `key`; without `reach` it counts by `at`."""
    return _ROW.pack(at, at if reach is None else reach, place, len(key)) + key + payload


def payload(row: bytes) -> bytes:
    """What a row frame carries."""
    return row[_ROW.size + int.from_bytes(row[_ROW.size - 4 : _ROW.size], "little") :]


def time(buffer: bytes, start: int = 0) -> int:
    """Event time (ms) of the source frame, row frame or timer that begins at `start`."""
    at: int = _TIME.unpack_from(buffer, start)[0]
    return at


def sink(key: bytes | None, value: bytes | None, headers: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """A sink frame: one Kafka record."""
    parts = [_SINK.pack(-1 if key is None else len(key), -1 if value is None else len(value), len(headers))]
    parts += [_PAIR.pack(len(name), len(content)) for name, content in headers]
    parts += [key or b"", value or b""]
    for header in headers:
        parts += header
    return b"".join(parts)


class Request(msgspec.Struct, frozen=True, eq=False):
    """One micro-batch: `n` records, `u` keys that come in, `h` whose states are handed over.

    slot i32[n] (record → row of its key), port u8[n], start and end i64[n] (bounds of each record in `buffer`);
    rows i32[u] and keys of those that come in, state_offset: where their states begin in `buffer`, one behind the
    other, state_length i32[u], and then their logs, log_length i32[u]; handed i32[h].
    """

    buffer: bytes
    slot: NDArray[np.int32]
    port: NDArray[np.uint8]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    rows: NDArray[np.int32]
    keys: list[bytes]
    state_offset: int
    state_length: NDArray[np.int32]
    log_length: NDArray[np.int32]
    handed: NDArray[np.int32]

    def records(self) -> list[bytes]:
        """Every record, in order."""
        buffer = self.buffer
        return [buffer[a:b] for a, b in zip(self.start.tolist(), self.end.tolist(), strict=True)]

    def states(self) -> list[bytes]:
        """The state of every key, `b""` where it has none."""
        starts, lengths = self.state_start().tolist(), self.state_length.tolist()
        return [self.buffer[a : a + length] for a, length in zip(starts, lengths, strict=True)]

    def state_start(self) -> NDArray[np.int64]:
        """Where each state begins in `buffer`, i64[u]."""
        start: NDArray[np.int64] = np.cumsum(self.state_length, dtype=np.int64) - self.state_length
        start += self.state_offset
        return start

    def state_bytes(self) -> memoryview:
        """All states, one behind the other."""
        return memoryview(self.buffer)[self.state_offset : self.state_offset + int(self.state_length.sum())]

    def log_bytes(self) -> memoryview:
        """All logs, one behind the other."""
        start = self.state_offset + int(self.state_length.sum())
        return memoryview(self.buffer)[start : start + int(self.log_length.sum())]


def _pad(size: int) -> int:
    return -size % 8


def parse_request(buffer: bytes) -> Request:
    """The request that Java sent."""
    n, u, h, _ = _HEAD.unpack_from(buffer)
    head = np.frombuffer(buffer, np.int32, 2 * n + 4 * u + h, _HEAD.size)
    length = head[n : 2 * n]
    rows, key_length, state_length, log_length = head[2 * n : 2 * n + 4 * u].reshape(4, u) if u else _NOBODY
    offset = _HEAD.size + 4 * len(head)
    port = np.frombuffer(buffer, np.uint8, n, offset)
    offset += n + _pad(offset + n)
    keys: list[bytes] = []
    first = offset
    if u:
        first += int(state_length.sum()) + int(log_length.sum())
        for size in key_length.tolist():
            keys.append(buffer[first : first + size])
            first += size
    end = length.cumsum(dtype=np.int64)
    end += first
    return Request(
        buffer, head[:n], port, end - length, end, rows, keys, offset, state_length, log_length, head[2 * n + 4 * u :]
    )  # fmt: skip


def build_response(
    outputs: Sequence[bytes | memoryview],
    tags: bytes,
    state_length: NDArray[np.int32],
    states: bytes | memoryview,
    timer: NDArray[np.int64] | None,
    lengths: NDArray[np.int32] | None = None,
) -> bytes:
    """The response to a request.

    outputs m frames, tags m bytes, state_length i32[h], states in the order of `handed`, timer i64[h] in event
    time or None where the stage sets none; lengths i32[m] of the frames where one of `outputs` has several.
    """
    if lengths is None:
        lengths = np.fromiter(map(len, outputs), np.int32, len(outputs))
    m, u = len(lengths), len(state_length)
    timers = np.full(u, NONE, np.int64) if timer is None else timer
    head = (_PAIR.pack(m, u), lengths.tobytes(), state_length.tobytes(), tags, bytes(_pad(8 + 5 * m + 4 * u)))
    return b"".join((*head, timers.tobytes(), states, *outputs))
