"""Source frames of a micro-batch: where records enter a stage, and where dead letters get their coordinates."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from operators.kernels.texts import join
from schemas import frames
from schemas.codec import DeadLetter, Slices
from schemas.frames import Request
from streaming.kernels import read_heads, under_own_keys

I64 = NDArray[np.int64]

HEAD = np.dtype(
    [("at", "<i8"), ("reach", "<i8"), ("place", "<i8"), ("timestamp", "<i8"), ("key", "<i4"), ("value", "<i4")]
)
"""The fixed part of a source frame."""


class Arrivals:
    """Source frames of a batch: their values, arrived i64[k] ms, `order` i64[k, 2], their reach and place, and
    coordinates for dead letters."""

    def __init__(self, request: Request, start: I64, topic: str):
        """Of the frames that begin at `start` i64[k] in the buffer of `request`, and were read from `topic`."""
        bounds = np.empty((len(start), 2), np.int64)
        self._bytes = np.frombuffer(request.buffer, np.uint8)
        heads, lines = read_heads(self._bytes, start, HEAD.itemsize, bounds)
        self._head = heads.view(HEAD)[:, 0]
        self.order: I64 = heads[:, 8:24].view("<i8")
        self._topic, self._start = topic, start + HEAD.itemsize
        self.values = Slices(request.buffer, bounds, lines.tobytes())
        self.arrived: I64 = self._head["timestamp"]

    def own(self, keys: Sequence[str], index: I64) -> NDArray[np.bool_]:
        """Which of the records at `index` i64[k], of values that are not null, stand under their own key in `keys`, or
        under none."""
        if under_own_keys(self._bytes, self._start[index], self.values.bounds[index, 0], *join(keys)):
            return np.ones(len(index), np.bool_)
        own = [self.key(i) in (None, key.encode()) for i, key in zip(index.tolist(), keys, strict=True)]
        return np.array(own, np.bool_)

    def key(self, index: int) -> bytes | None:
        """The key of a record."""
        start, length = int(self._start[index]), int(self._head[index]["key"])
        return self.values.buffer[start : start + length] if length >= 0 else None

    def deadletter(self, workload: str, letter: DeadLetter) -> bytes:
        """The record that `letter` is about, as it came, with reason and coordinates as headers."""
        head, key = self._head[letter.index], self.key(letter.index)
        place = int(head["place"])
        headers = {
            "workload": workload, "reason": letter.kind, "detail": letter.detail, "topic": self._topic,
            "partition": place >> frames.OFFSET, "offset": place & (1 << frames.OFFSET) - 1,
            "timestamp": head["timestamp"],
        }  # fmt: skip
        pairs = [(name.encode(), str(value).encode()) for name, value in headers.items()]
        return frames.sink(key, self.values[letter.index], pairs)
