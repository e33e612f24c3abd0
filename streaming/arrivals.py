"""Source frames of a micro-batch: where records enter a stage, and where dead letters get their coordinates."""

import numpy as np
from numpy.typing import NDArray

from schemas import frames
from schemas.codec import DeadLetter
from schemas.frames import Request
from streaming.kernels import read_heads

I64 = NDArray[np.int64]

HEAD = np.dtype(
    [("at", "<i8"), ("partition", "<i4"), ("offset", "<i8"), ("timestamp", "<i8"), ("key", "<i4"), ("value", "<i4")]
)
"""The fixed part of a source frame."""


class Arrivals:
    """Source frames of a batch: values i.e. bytes or None, arrived i64[k] ms, and coordinates for dead letters."""

    def __init__(self, request: Request, start: I64, topic: str):
        """Of the frames that begin at `start` i64[k] in the buffer of `request`, and were read from `topic`."""
        bounds = np.empty((len(start), 2), np.int64)
        self._head = read_heads(np.frombuffer(request.buffer, np.uint8), start, HEAD.itemsize, bounds).view(HEAD)[:, 0]
        self._topic = topic
        self._buffer = request.buffer
        self._start = start + HEAD.itemsize
        data = request.buffer
        self.values: list[bytes | None] = [data[a:b] if b >= 0 else None for a, b in bounds.tolist()]
        self.arrived: I64 = self._head["timestamp"]

    def deadletter(self, workload: str, letter: DeadLetter) -> bytes:
        """The record that `letter` is about, as it came, with reason and coordinates as headers."""
        head = self._head[letter.index]
        start = int(self._start[letter.index])
        key = self._buffer[start : start + int(head["key"])] if head["key"] >= 0 else None
        headers = {
            "workload": workload, "reason": letter.kind, "detail": letter.detail, "topic": self._topic,
            "partition": head["partition"], "offset": head["offset"], "timestamp": head["timestamp"],
        }  # fmt: skip
        pairs = [(name.encode(), str(value).encode()) for name, value in headers.items()]
        return frames.sink(key, self.values[letter.index], pairs)
