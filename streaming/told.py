"""Labels on their way from the join to the stages that keep features of outcomes: row frames.

A label may wait for the next event, and that may be one of another definition: its numbers are of a stated layout.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.join import Label
from operators.kernels.ids import hash_ids
from schemas import frames
from schemas.frames import Request
from streaming.engine import Labels, no_labels
from streaming.layouts import Layouts
from streaming.plan import Stage

I64 = NDArray[np.int64]

Late = dict[str, tuple[int, int]]
"""Reach and place of events whose time went back, by id."""

HEAD = 4
"""Words of a label before its numbers: when its event was, the label, the hash of its id, the layout."""


def write(labels: Sequence[Label], stage: Stage, text: int, layout: int, late: Late) -> list[bytes]:
    """Row frames of labels for `stage`, whose key is text number `text` of a label; their numbers are of `layout`. One
    that was known before a `late` event of its own came stands between that and the next."""
    if not labels:
        return []
    words = np.empty((len(labels), HEAD + len(stage.columns)))
    words[:, 0] = np.fromiter((label.origin for label in labels), np.int64, len(labels)).view(np.float64)
    words[:, 1] = [label.label for label in labels]
    words[:, 2] = hash_ids([label.id for label in labels]).view(np.float64)
    words[:, 3] = layout
    words[:, HEAD:] = [[label.numbers[c] for c in stage.columns] for label in labels]
    blob, size = words.tobytes(), words.shape[1] * 8
    made = []
    for i, label in enumerate(labels):
        reach, place = late.get(label.id, (label.at, frames.LAST))
        order = (reach, place) if reach > label.at else (label.at, frames.LAST)
        made.append(frames.row(label.at, label.texts[text], blob[i * size : (i + 1) * size], *order))
    return made


def read(request: Request, rows: I64, stage: Stage, layouts: Layouts) -> Labels:
    """The labels in the `rows` of a batch, with the columns of `stage`, whose inputs `layouts` knows."""
    if not len(rows):
        return no_labels(len(stage.columns))
    buffer, start = np.frombuffer(request.buffer, np.uint8), request.start[rows]
    words = start + 28 + _words(buffer, start + 24, 1, np.int32)[:, 0]
    width, head = (request.end[rows] - words) // 8 - HEAD, _words(buffer, words, HEAD, np.float64)
    numbers = np.empty((len(rows), len(stage.columns)))
    for layout in np.unique(head[:, 3]).tolist():
        mine = np.flatnonzero(head[:, 3] == layout)
        known = _words(buffer, words[mine] + 8 * HEAD, int(width[mine[0]]), np.float64)
        numbers[mine] = layouts.today(int(layout), known)
    origin, label, hash = (np.ascontiguousarray(head[:, i]) for i in range(3))
    at = _words(buffer, start, 1, np.int64)[:, 0]
    return Labels(at, origin.view(np.int64), label, hash.view(np.uint64), numbers)


def _words(buffer: NDArray[np.uint8], where: I64, count: int, kind: type[np.generic]) -> NDArray[Any]:
    """`count` numbers of a `kind` at each of the places i64[k], [k, count]."""
    size = count * np.dtype(kind).itemsize
    return buffer[where[:, None] + np.arange(size)].view(kind).reshape(len(where), count)
