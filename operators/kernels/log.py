"""Kernels of the log of a table's rows: what was folded into each since its state was last written.

An entry is 64-bit words: port, at, origin, label, id, then the columns. A row has room for `room` of them, and
`count`; `whole`: more came, or it is another key's now, and the state itself is to be written.
"""

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from operators.kernels.state import copy
from operators.kernels.tables import Floats, Rows

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
Flags = NDArray[np.bool_]

FIXED = 5
"""Words of an entry ahead of its columns."""


@kernel
def enter(rows: Rows, fresh: Flags, words: I64, floats: Floats, count: I32, whole: Flags, room: int) -> None:
    """Put the records that changed something behind the others of their rows, in `words` i64[r, room x size]; `floats`
    is the same memory as f64."""
    columns = rows.columns.shape[1]
    for i in range(len(rows.slot)):
        r = rows.slot[i]
        if whole[r] or not fresh[i]:
            continue
        if count[r] == room:
            whole[r] = True
            continue
        e = count[r] * (FIXED + columns)
        words[r, e] = rows.port[i]
        words[r, e + 1] = rows.at[i]
        words[r, e + 2] = rows.origin[i] if len(rows.origin) else rows.at[i]
        floats[r, e + 3] = rows.label[i] if len(rows.label) else 0.0
        words[r, e + 4] = np.int64(rows.ids[i])
        for j in range(columns):
            floats[r, e + FIXED + j] = rows.columns[i, j]
        count[r] += 1


@kernel
def due(rows: I32, count: I32, whole: Flags, written: Floats, now: float, old: float) -> I32:
    """Those of `rows` whose state is to be written, also because that was more than `old` s ago; from now on their log
    is empty."""
    found = np.empty(len(rows), np.int32)
    n = 0
    for r in rows:
        if whole[r] or written[r] < now - old:
            found[n] = r
            n += 1
            count[r], whole[r], written[r] = 0, False, now
    return found[:n]


@kernel
def write(rows: I32, states: I64, length: I32, whole: I32, words: I64, count: I32, head: I64) -> tuple[I64, I32]:
    """What is handed over of `rows`, one behind the other, and how many bytes of each: of a log, as a negative number
    (-1: nothing came).

    `states` are those of the rows `whole`, in their order, `length` i32 the bytes of each; `head`: what the columns of
    an entry are.
    """
    size = FIXED + head[0]
    total, w = len(states), 0
    for r in rows:
        if w < len(whole) and whole[w] == r:
            w += 1
        elif count[r]:
            total += 1 + len(head) + count[r] * size
    out, lengths = np.empty(total, np.int64), np.empty(len(rows), np.int32)
    p, s, w = 0, 0, 0
    for i, r in enumerate(rows):
        begin = p
        if w < len(whole) and whole[w] == r:
            lengths[i] = length[w]
            p += length[w] // 8
            copy(out, begin, states, s, p - begin)
            s += p - begin
            w += 1
        elif count[r]:
            p += 1 + len(head) + count[r] * size
            out[begin] = count[r]
            copy(out, begin + 1, head, 0, len(head))
            copy(out, begin + 1 + len(head), words[r], 0, count[r] * size)
            lengths[i] = -8 * (p - begin)
        else:
            lengths[i] = -1
    return out, lengths
