"""Many texts as one array of bytes, as kernels read and write them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel

Bytes = NDArray[np.uint8]
I64 = NDArray[np.int64]

END = 10
"""The byte behind each of many texts, a line feed: Python joins and parts texts at it as fast as it copies them."""


def join(texts: Sequence[str]) -> tuple[Bytes, I64]:
    """UTF-8 of k `texts` with a byte behind each, and where each begins, i64[k + 1]: there the last one has ended."""
    joined, bounds = lines("\n".join((*texts, "")).encode(), len(texts))
    if bounds[-1] != len(joined):  # some text has a line feed itself
        bounds[1:] = np.cumsum([len(text.encode()) + 1 for text in texts])
    return joined, bounds


def lines(joined: bytes, count: int) -> tuple[Bytes, I64]:
    """What has a line feed behind each of `count` texts, and where each begins; -1 at the end where it has more."""
    data = np.frombuffer(joined, np.uint8)
    return data, _lines(data, count)


def split(joined: Bytes, bounds: I64) -> list[str]:
    """The texts that were joined."""
    data = joined.tobytes()
    texts = data.decode().split("\n")
    if len(texts) == len(bounds):
        return texts[:-1]
    return [data[a : b - 1].decode() for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]


@kernel
def _lines(joined: Bytes, count: int) -> I64:
    bounds = np.zeros(count + 1, np.int64)
    k = 0
    for i in range(len(joined)):
        if joined[i] == END:
            k += 1
            if k <= count:
                bounds[k] = i + 1
    if k != count:
        bounds[count] = -1
    return bounds
