"""Compiled trackers: what `operators.keyed` is to `by`, this is to `track`."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from operators.kernels.tables import Bits, Floats, Rows
from operators.keyed import conform_rows
from operators.track import Tracked
from schemas.errors import MillraceError

IDS = 32
"""Ids of events that are remembered for each key, so that a duplicate changes nothing."""

HEADER = 2 + IDS


class TrackedFeatures:
    """A compiled `Tracked`: what `EntityFeatures` is of a `by`."""

    def __init__(self, declared: Tracked, dedupe: bool):
        tracker = declared.tracker
        self.entity, self.names, self.inputs = declared.entity, declared.names, declared.fields
        self.labelled, self.fingerprint = declared.labelled, tracker.fingerprint
        self.named: str = getattr(tracker, "named", "")
        self.width = tracker.words + HEADER
        self._tracker, self._dedupe = tracker, dedupe
        digest = hashlib.sha256(f"{tracker.fingerprint};{self.width}".encode()).digest()
        self._magic = np.frombuffer(digest[:6] + b"\x00\x00", np.uint64).view(np.float64)[0]

    def update(self, states: Floats, rows: Rows, out: Floats) -> NDArray[np.bool_]:
        """Take k records into `states` f64[u, width] in place; columns to `out` f64[k, f]. Returns fresh bool[k]."""
        fresh = np.ones(len(rows.slot), np.bool_)
        rows = conform_rows(rows)
        if self._dedupe:
            _fresh(states.view(np.uint64), rows.slot, rows.port, rows.ids, fresh)
        label = rows.label if len(rows.label) else np.zeros(len(rows.slot))
        self._tracker.step(states, rows.slot, rows.port, rows.at, label, rows.columns, fresh, out)
        return fresh

    def zero(self, keys: int) -> Floats:
        """Rows of keys of which nothing is known yet, f64[keys, width]."""
        states = np.zeros((keys, self.width))
        self._tracker.zero(states)
        states[:, -1] = self._magic
        return states

    def pack(self, states: Floats) -> tuple[Bits, NDArray[np.int32]]:
        """Stored form of rows f64[u, width], one after the other, u64 words; bytes of each, i32[u]."""
        packed = np.ascontiguousarray(states).view(np.uint64).reshape(-1)
        return packed, np.full(len(states), self.width * 8, np.int32)

    def unpack(self, stored: bytes | memoryview, lengths: NDArray[np.int32]) -> Floats:
        """Rows f64[u, width] of stored states of `lengths` i32[u] bytes (0: nothing yet).

        What another declaration stored says nothing to this one: such a key starts anew.
        """
        states = self.zero(len(lengths))
        offset = 0
        for row, length in enumerate(lengths.tolist()):
            if length % 8:
                raise MillraceError(
                    f"state of {self.entity}, number {row} of {len(lengths)}: found {length} bytes, expected what "
                    "pack() wrote; restore an earlier checkpoint, or drop the state and replay"
                )
            if length == self.width * 8:
                found = np.frombuffer(stored, np.float64, self.width, offset)
                if found[-1] == self._magic:
                    states[row] = found
            offset += length
        return states


@kernel
def _fresh(states: Bits, slot: NDArray[np.int32], port: NDArray[np.uint8], ids: Bits, fresh: NDArray[np.bool_]) -> None:
    """Clear `fresh` of events whose id the ring of their key holds, and enter the others; the ring's head comes last
    but one in a row, the ring before it."""
    end = states.shape[1] - 2
    for i in range(len(slot)):
        if port[i] != 0:
            continue
        row = states[slot[i]]
        id = ids[i] | np.uint64(1)  # an empty place is 0
        for j in range(end - IDS, end):
            if row[j] == id:
                fresh[i] = False
        if fresh[i]:
            row[end - IDS + np.int64(row[end])] = id
            row[end] = (row[end] + np.uint64(1)) % np.uint64(IDS)
