"""The tables that drive the kernels of keyed features: one compiled kernel serves every workload.

`operators.keyed` fills them from the author's declarations; the kernels walk them for each event. All offsets
count float64 words: those of rings, panes and blocks from the start of a key's row, those of outputs from the
start of the kernel's scratch.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bits = NDArray[np.uint64]
Marks = NDArray[np.int64]
Table = NDArray[Any]

# Rings of a row. A ring holds `columns` columns of `span` words: one word for the newest entry that left
# (time -inf: none has), then at most `cap` entries, oldest first, with room to move. `head`: start, count.
IDS, LABEL_IDS, EVENTS, PENDING, FRAUDS = range(5)
RING = np.dtype([(n, np.int64) for n in ("head", "base", "cap", "span", "columns")])

# Columns of the pending labels, before the numeric fields.
KNOWN, ORIGIN, ID, OF, FIELDS = range(5)

# One sliding window over the times of a ring: (t - delay - length, t - delay], milliseconds.
WINDOW = np.dtype([("ring", np.int64), ("length", np.float64), ("delay", np.float64)])

# One fold over one column of one window. `acc`: its accumulator in the scratch; `panes` and `count`: where
# the entries that left the ring are folded, by panes of `pane` ms; `shared`: continues the fold before it.
# Once the newest entry that left is `reach` ms older than the key's newest event, the panes are as good as
# empty.
COUNT, MOMENTS, DISTINCT, QUANTILE = range(4)
AGGREGATE = np.dtype(
    [(n, np.int64) for n in ("kind", "ring", "column", "window", "acc", "words", "panes", "count")]
    + [(n, np.int64) for n in ("shared", "spread")]
    + [(n, np.float64) for n in ("pane", "reach", "x")]
)

# One decayed sum: a column of the event ring that holds, for each event, the sum up to it.
DECAYED = np.dtype([("column", np.int64), ("source", np.int64), ("half", np.float64)])

# One accumulator over all known labels.
TALLY, LAST, LABEL_MOMENTS, LABEL_DECAY, RUN = range(5)
BLOCK = np.dtype([(n, np.int64) for n in ("kind", "offset", "column", "of")] + [("half", np.float64)])

# One output column.
VALUE, MEAN, VARIANCE, STD, MINIMUM, MAXIMUM, SUM, RATE, SINCE, FINITE = range(10)
LABEL_SINCE, DECAYED_LABELS, SMOOTHED, RUN_AGE = range(10, 14)
OUTPUT = np.dtype([(n, np.int64) for n in ("op", "acc", "other")] + [("x", np.float64), ("y", np.float64)])

# One section of a stored state: a block of `words`, one column of a ring, or panes (kept once their ring
# overflowed).
PLAIN, COLUMN, WORDS, PANES = range(4)
SECTION = np.dtype(
    [*((n, np.int64) for n in ("id", "kind", "offset", "words", "ring", "column")), ("fill", np.float64)]
)

# Entries of `Spec.layout`.
WIDTH, LABEL_BASE, LABEL_WORDS, RUN_AT, LEGIT_AT, SORT, SORT_CAP, LATENESS, HORIZON = range(9)


class Spec(NamedTuple):
    """What the kernels know of one entity's features."""

    rings: Table
    windows: Table
    aggregates: Table
    decayed: Table
    blocks: Table
    outputs: Table
    event_inputs: Marks
    label_inputs: Marks
    layout: Marks


class Rows(NamedTuple):
    """A batch of k records in arrival order, as `EntityFeatures.update` takes it.

    `slot` i32[k]: the row of `states` of the record's key. `port` u8[k]: 0 event, 1 label. `at` i64[k], ms:
    the event's time, or when its label became known. `origin` i64[k], ms: a label's event's time. `label`
    f64[k]: above 0.5 is true. `ids` u64[k]: hash of the event's id. `columns` f64[k, inputs], NaN where
    missing. `origin` and `label` may be empty when no record is a label.
    """

    slot: NDArray[np.int32]
    port: NDArray[np.uint8]
    at: NDArray[np.int64]
    origin: NDArray[np.int64]
    label: Floats
    ids: Bits
    columns: Floats
