"""What a ledger keeps of a record, and how such rows are compared, in NumPy."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from schemas.frames import OFFSET

I64 = NDArray[np.int64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.void]

ROW = np.dtype([("id", "S16"), ("where", "i8"), ("what", "S8"), ("at", "i8"), ("known", "i8"), ("how", "u1"),
                ("waits", "i8")])  # fmt: skip
"""One record: `where` is partition and offset, a place as in `schemas.frames`; without an `id`, what has none that can
be read; `how`: bits that the ledger sets; `waits`: for a decision how long it waits for its outcome (ms, 0: not at
all), for an outcome how long an event without an alert would."""

ID = 10
"""Bytes of an `id` that are of the id alone."""


def fresh(rows: Rows) -> Flags:
    """Which rows are the first of their id, of rows by id."""
    return np.append(True, rows["id"][1:] != rows["id"][:-1])[: len(rows)]


def by_id(rows: Rows) -> Rows:
    """The first row of each id, whatever the key, of rows by id."""
    rows = rows.copy()
    rows["id"] = rows["id"].astype(f"S{ID}")
    return rows[fresh(rows)]


def before(where: I64, offsets: Mapping[int, int]) -> Flags:
    """Which of these places lie before `offsets`, by partition."""
    partition = where >> OFFSET
    bounds = np.array([offsets.get(p, 0) for p in range(int(partition.max(initial=0)) + 1)], np.int64)
    before: Flags = where & ((1 << OFFSET) - 1) < bounds[partition]
    return before


def find(rows: Rows, among: Rows) -> tuple[Rows, Flags]:
    """For each of `rows` the row of its id `among` (rows by id, each id once), and whether there is one."""
    if not len(among):
        return np.zeros(len(rows), ROW), np.zeros(len(rows), np.bool_)
    at = np.minimum(np.searchsorted(among["id"], rows["id"]), len(among) - 1)
    return among[at], among["id"][at] == rows["id"]
