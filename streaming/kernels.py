"""Compiled readers and writers of frames: many records of one batch to columns, and back."""

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from operators.kernels import part
from operators.kernels.state import copy
from operators.kernels.texts import END

Bytes = NDArray[np.uint8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

LARGEST = 1e100
"""Largest number of an event: sums of cubes of such are finite."""


@part
def get32(buffer: Bytes, a: int) -> np.int64:
    """A signed integer of four bytes."""
    bits = (
        np.int64(buffer[a]) | np.int64(buffer[a + 1]) << 8
        | np.int64(buffer[a + 2]) << 16 | np.int64(buffer[a + 3]) << 24
    )  # fmt: skip
    return bits - (bits >> 31 << 32)


@part
def put32(buffer: Bytes, a: int, value: int) -> int:
    """Write an integer of four bytes; returns where it ends."""
    for j in range(4):
        buffer[a + j] = (value >> 8 * j) & 255
    return a + 4


@kernel
def write_rows(heads: Bytes, words: Bytes, layout: int, joined: Bytes, bounds: I64) -> tuple[Bytes, I32]:
    """Row frames, one behind the other, and the length of each, i32[k].

    heads u8[24 k] of i64[k, 3], at, reach and place; words u8[8 w k] of f64[k, w]; `joined` the k keys, then k texts
    for each of t columns, which begin at `bounds` i64[k (1 + t) + 1]. Payload: the words, u32 `layout`, i32[t] lengths
    of the texts, the texts.
    """
    k = len(heads) // 24
    columns, width = (len(bounds) - 1) // max(k, 1), len(words) // max(k, 1)
    out = np.empty(k * (28 + width + 4 * columns) + len(joined) - k * columns, np.uint8)
    lengths = np.empty(k, np.int32)
    p = 0
    for i in range(k):
        begin, key = p, bounds[i + 1] - bounds[i] - 1
        copy(out, p, heads, 24 * i, 24)
        p = put32(out, p + 24, key)
        copy(out, p, joined, bounds[i], key)
        copy(out, p + key, words, width * i, width)
        p = put32(out, p + key + width, layout)
        for c in range(1, columns):
            p = put32(out, p, bounds[c * k + i + 1] - bounds[c * k + i] - 1)
        for c in range(1, columns):
            n = c * k + i
            copy(out, p, joined, bounds[n], bounds[n + 1] - bounds[n] - 1)
            p += bounds[n + 1] - bounds[n] - 1
        lengths[i] = p - begin
    return out, lengths


@kernel
def read_rows(
    buffer: Bytes, start: I64, end: I64, count: int, layout: int, texts: int
) -> tuple[Bytes, Bytes, I64]:
    """What `write_rows` wrote from `start` to `end` i64[k]: head and `count` words of each, u8[k, 24 + 8 count], and
    the texts of `texts` columns, column by column, each with a byte behind it, which begin at i64[k texts + 1].

    ValueError where a frame is of another layout.
    """
    k, width = len(start), 24 + 8 * count
    out, bounds = np.empty(k * width, np.uint8), np.zeros(k * texts + 1, np.int64)
    for i in range(k):
        first = start[i] + 28 + get32(buffer, start[i] + 24)
        stop = first + 8 * count + 4 * texts + 4
        known = stop <= end[i] and (get32(buffer, first + 8 * count) - layout) & 0xFFFFFFFF == 0
        for c in range(texts if known else 0):
            length = max(int(get32(buffer, first + 8 * count + 4 * c + 4)), 0)
            bounds[c * k + i + 1] = length + 1
            stop += length
        if not known or stop != end[i]:
            raise ValueError(
                "found a row that another definition had put between two stages; deploy that one once more, or --fresh"
            )
        copy(out, width * i, buffer, start[i], 24)
        copy(out, width * i + 24, buffer, first, 8 * count)
    for n in range(len(bounds) - 1):
        bounds[n + 1] += bounds[n]
    joined = np.empty(bounds[-1], np.uint8)
    for i in range(k):
        p = start[i] + 28 + get32(buffer, start[i] + 24) + 8 * count + 4 * texts + 4
        for c in range(texts):
            a, b = bounds[c * k + i], bounds[c * k + i + 1] - 1
            copy(joined, a, buffer, p, b - a)
            joined[b] = END
            p += b - a
    return out.reshape(k, width), joined, bounds


@kernel
def write_sinks(keys: Bytes, key: I64, values: Bytes, value: I64) -> tuple[Bytes, I32]:
    """Sink frames without headers, one behind the other, and the length of each, i32[k]: of k texts in `keys` and in
    `values`, which begin at `key` and `value` i64[k + 1], each with a byte behind it. ValueError for more."""
    k = len(key) - 1
    if key[k] != len(keys) or value[k] != len(values):
        raise ValueError("sink frames: found more lines than records")
    out, lengths = np.empty(10 * k + len(keys) + len(values), np.uint8), np.empty(k, np.int32)
    p = 0
    for i in range(k):
        n, size = key[i + 1] - key[i] - 1, value[i + 1] - value[i] - 1
        put32(out, put32(out, put32(out, p, n), size), 0)
        copy(out, p + 12, keys, key[i], n)
        copy(out, p + 12 + n, values, value[i], size)
        lengths[i] = 12 + n + size
        p += lengths[i]
    return out, lengths


@kernel
def read_heads(buffer: Bytes, start: I64, size: int, bounds: I64) -> tuple[Bytes, Bytes]:
    """The first `size` bytes of each source frame at `start` i64[k], u8[k, size]; the last eight are its lengths. And
    all values, joined by line feeds.

    `bounds` i64[k, 2] gets where the value of each begins and ends; (0, -1) where it is null.
    """
    out = np.empty((len(start), size), np.uint8)
    lengths, total = np.empty(2, np.int64), 0
    for i in range(len(start)):
        for j in range(size):
            out[i, j] = buffer[start[i] + j]
        for w in range(2):
            lengths[w] = get32(buffer, start[i] + size - 8 + 4 * w)
        bounds[i, 0] = start[i] + size + max(lengths[0], 0)
        bounds[i, 1] = bounds[i, 0] + lengths[1]
        if lengths[1] < 0:
            bounds[i, 0], bounds[i, 1] = 0, -1
        total += max(lengths[1], 0) + 1
    lines = np.empty(max(total - 1, 0), np.uint8)
    p = 0
    for i in range(len(start)):
        if i > 0:
            lines[p] = END
            p += 1
        length = max(bounds[i, 1] - bounds[i, 0], 0)
        copy(lines, p, buffer, bounds[i, 0], length)
        p += length
    return out, lines


@kernel
def under_own_keys(buffer: Bytes, key: I64, end: I64, joined: Bytes, bounds: I64) -> bool:
    """Whether what stands in `buffer` from `key` to `end` i64[k] are the k texts in `joined`, which begin at `bounds`
    i64[k + 1], each with a byte behind it."""
    for i in range(len(key)):
        if end[i] - key[i] != bounds[i + 1] - bounds[i] - 1:
            return False
        for j in range(end[i] - key[i]):
            if buffer[key[i] + j] != joined[bounds[i] + j]:
                return False
    return True


@kernel
def tally(edges: NDArray[np.float64], values: NDArray[np.float64], counts: I64) -> float:
    """Count `values` f64[n] into the bins that `edges` f64[b] part, i64[b + 1]: each falls below the first edge that is
    not less. Returns their sum."""
    total = 0.0
    for value in values:
        counts[np.searchsorted(edges, value)] += 1
        total += value
    return total


@kernel
def believable(at: I64, latest: I64, numbers: NDArray[np.float64], required: NDArray[np.bool_]) -> bool:
    """Whether no time is later than its latest, i64[k] each, and every one of `numbers` f64[k, c] is at most LARGEST
    either way or, where its column is not `required` bool[c], missing."""
    for i in range(len(at)):
        if at[i] > latest[i]:
            return False
        for j in range(numbers.shape[1]):
            if not abs(numbers[i, j]) <= LARGEST and (required[j] or not np.isnan(numbers[i, j])):
                return False
    return True


@kernel
def keep_finite(columns: NDArray[np.float64], column: int) -> None:
    """What is no finite number in one of `columns` f64[k, c] becomes 0, in place."""
    for i in range(len(columns)):
        if not np.isfinite(columns[i, column]):
            columns[i, column] = 0.0
