"""What came for a key since its state was last written: with the state, as good as the state that came of both.

A state has up to thousands of words, of which a record changes a few; written again and again, those of busy keys would
be most of what a checkpoint writes. A record is always folded the same way, so what came is written instead, until it
is much.
"""

import time
from collections.abc import Sequence
from zlib import crc32

import numpy as np

from operators.kernels import log
from operators.kernels.log import FIXED, I32, I64, Flags
from operators.kernels.tables import Bits, Rows
from schemas.errors import MillraceError

MOST = 32
"""Records behind a state, which are folded again when it is read."""

SHARE = 4
"""What is behind a state has at most so much less words than it."""

OLD = 600.0
"""Seconds after which a state is written whole again, so that it does not outlive what came behind it."""


class Log:
    """The log of a table's rows, each with `width` words of state and the columns `inputs` of a record."""

    def __init__(self, inputs: Sequence[str], width: int):
        self._size = FIXED + len(inputs)
        self._room = min(MOST, width // (SHARE * self._size))
        self._head = np.array([len(inputs), *(crc32(name.encode()) for name in inputs)], np.int64)
        self._words = np.empty((0, self._room * self._size), np.int64)
        self._count, self._whole, self._written = np.empty(0, np.int32), np.empty(0, np.bool_), np.empty(0)

    def resize(self, rows: int) -> None:
        """Have room for so many rows."""
        for name in ("_words", "_count", "_whole", "_written"):
            old = getattr(self, name)
            setattr(self, name, np.zeros((rows, *old.shape[1:]), old.dtype))
            getattr(self, name)[: len(old)] = old

    def begin(self, rows: I32) -> None:
        """These rows are of other keys now: when their states were written is not known."""
        self._count[rows], self._whole[rows] = 0, True

    def enter(self, rows: Rows, fresh: Flags) -> None:
        """These records were folded into their rows; those that are not `fresh` changed nothing."""
        if rows.columns.shape[1] != self._head[0]:  # the kernel would write beside its memory
            raise ValueError(f"found records of {rows.columns.shape[1]} columns, expected {self._head[0]}")
        log.enter(rows, fresh, self._words, self._words.view(np.float64), self._count, self._whole, self._room)

    def due(self, rows: I32) -> I32:
        """Those of `rows` whose state itself is to be written now."""
        return log.due(rows, self._count, self._whole, self._written, time.monotonic(), OLD)

    def write(self, rows: I32, due: I32, states: Bits, length: I32) -> tuple[I64, I32]:
        """What is handed over of `rows`: the `states` of those that are `due`, one behind the other, of `length` bytes,
        what came for the others, and the length of each as a response has it."""
        return log.write(rows, states.view(np.int64), length, due, self._words, self._count, self._head)

    def read(self, stored: bytes | memoryview, length: I32, rows: I32) -> Rows:
        """The records behind the states of `rows`, whose logs are in `stored`, of `length` i32 bytes each.

        A column that the record had no value for is NaN, one that is not read any more is left out. Raises
        MillraceError for bytes that are no log.
        """
        words, end = np.frombuffer(stored, np.int64), 0
        found, slot = [], []
        for row, size in zip(rows.tolist(), (length // 8).tolist(), strict=True):
            if not size:
                continue
            end += size
            part = words[end - size : end]
            count, columns = part[:2].tolist()
            if not 0 <= columns <= size or size != 2 + columns + count * (FIXED + columns):
                raise MillraceError(
                    f"log of a state, row {row}: found damaged bytes, expected what write() wrote; restore an earlier "
                    "checkpoint, or drop the state and replay"
                )
            found.append(self._named(part[2 : 2 + columns], part[2 + columns :].reshape(count, FIXED + columns)))
            slot.append(np.full(count, row, np.int32))
        entries = np.concatenate(found)
        floats = entries.view(np.float64)
        return Rows(
            np.concatenate(slot), entries[:, 0].astype(np.uint8), entries[:, 1], entries[:, 2], floats[:, 3],
            entries[:, 4].view(np.uint64), floats[:, FIXED:],
        )  # fmt: skip

    def _named(self, names: I64, entries: I64) -> I64:
        """Entries with the columns `names` as those that are read now."""
        if np.array_equal(names, self._head[1:]):
            return entries
        missing = np.full((len(entries), 1), np.nan).view(np.int64)
        known = names.tolist()
        places = [FIXED + known.index(name) if name in known else -1 for name in self._head[1:].tolist()]
        return np.concatenate((entries, missing), axis=1)[:, [*range(FIXED), *places]]
