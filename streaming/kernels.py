"""Compiled readers of frames: many records of one batch → columns."""

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel

Bytes = NDArray[np.uint8]
I64 = NDArray[np.int64]


@kernel
def read_words(buffer: Bytes, start: I64, count: int) -> NDArray[np.uint8]:
    """The first `count` 8-byte words of the payload of each row frame at `start` i64[k], u8[k, 8 + 8 · count].

    The first word of a result is the `at` of the frame.
    """
    out = np.empty((len(start), 8 + 8 * count), np.uint8)
    for i in range(len(start)):
        a = start[i]
        key = (
            np.int64(buffer[a + 8]) | np.int64(buffer[a + 9]) << 8
            | np.int64(buffer[a + 10]) << 16 | np.int64(buffer[a + 11]) << 24
        )  # fmt: skip
        for j in range(8):
            out[i, j] = buffer[a + j]
        for j in range(8 * count):
            out[i, 8 + j] = buffer[a + 12 + key + j]
    return out


@kernel
def read_heads(buffer: Bytes, start: I64, size: int, bounds: I64) -> NDArray[np.uint8]:
    """The first `size` bytes of each source frame at `start` i64[k], u8[k, size]; the last eight are its lengths.

    `bounds` i64[k, 2] gets where the value of each begins and ends; (0, -1) where it is null.
    """
    out = np.empty((len(start), size), np.uint8)
    lengths = np.empty(2, np.int64)
    for i in range(len(start)):
        for j in range(size):
            out[i, j] = buffer[start[i] + j]
        for w in range(2):
            a = start[i] + size - 8 + 4 * w
            bits = (
                np.int64(buffer[a]) | np.int64(buffer[a + 1]) << 8
                | np.int64(buffer[a + 2]) << 16 | np.int64(buffer[a + 3]) << 24
            )  # fmt: skip
            lengths[w] = bits - (bits >> 31 << 32)
        bounds[i, 0] = start[i] + size + max(lengths[0], 0)
        bounds[i, 1] = bounds[i, 0] + lengths[1]
        if lengths[1] < 0:
            bounds[i, 0], bounds[i, 1] = 0, -1
    return out


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
    """Whether no time is later than its latest, i64[k] each, and every one of `numbers` f64[k, c] is finite or, where
    its column is not `required` bool[c], missing."""
    for i in range(len(at)):
        if at[i] > latest[i]:
            return False
        for j in range(numbers.shape[1]):
            if not np.isfinite(numbers[i, j]) and (required[j] or not np.isnan(numbers[i, j])):
                return False
    return True
