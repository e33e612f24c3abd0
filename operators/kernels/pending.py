"""Kernels of the rows that wait to be published: a ring of places, the one that waits longest first."""

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from operators.kernels.tables import Floats

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]


@kernel
def merge(
    rows: I32, at: I64, values: Floats, place: I32, row: I32, ats: I64, waiting: Floats, ends: I64
) -> tuple[I64, I32, int]:
    """Put k rows of a stage into the ring: into the `place` i32[r] of theirs if they are not older, else at its end.

    rows i32[k]; at i64[k] ms; values f64[k, f]; of each place in the ring its `row` i32[n], `ats` i64[n] and `waiting`
    f64[n, f]; `ends` i64[2]: the first place, and how many wait. Where all are taken the first is given up. Returns
    which of the k began to wait, their places, and how many were given up.
    """
    room, dropped, n = len(row), 0, 0
    fresh, places = np.empty(len(rows), np.int64), np.empty(len(rows), np.int32)
    for i in range(len(rows)):
        p = place[rows[i]]
        if p < 0:
            if ends[1] == room:
                remove(1, place, row, ends)
                dropped += 1
            p = (ends[0] + ends[1]) % room
            ends[1] += 1
            place[rows[i]], row[p], ats[p] = p, rows[i], at[i]
            fresh[n], places[n] = i, p
            n += 1
        if at[i] >= ats[p]:
            ats[p] = at[i]
            for j in range(values.shape[1]):
                waiting[p, j] = values[i, j]
    return fresh[:n], places[:n], dropped


@kernel
def remove(count: int, place: I32, row: I32, ends: I64) -> None:
    """The first `count` places are free again."""
    for _ in range(count):
        if row[ends[0]] >= 0:
            place[row[ends[0]]] = -1
        ends[0] = (ends[0] + 1) % len(row)
        ends[1] -= 1


@kernel
def forget(rows: I32, place: I32, row: I32) -> None:
    """These rows are of other keys from now on; what waits of those before stays."""
    for r in rows:
        if place[r] >= 0:
            row[place[r]] = -1
            place[r] = -1
