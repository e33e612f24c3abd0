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
def read_heads(buffer: Bytes, start: I64, size: int) -> NDArray[np.uint8]:
    """The first `size` bytes of each frame at `start` i64[k], u8[k, size]."""
    out = np.empty((len(start), size), np.uint8)
    for i in range(len(start)):
        for j in range(size):
            out[i, j] = buffer[start[i] + j]
    return out
