"""Hashes of event ids: the same on every machine and in every run, unlike Python's own."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from operators.kernels.texts import join


def hash_ids(ids: Sequence[str]) -> NDArray[np.uint64]:
    """64-bit hash of each id, u64[k]: FNV-1a with the finaliser of SplitMix64, so that every bit depends on every byte.

    Two of ten million different ids share a hash with a probability of 3e-6.
    """
    return _fnv(*join(ids))


@kernel
def _fnv(text: NDArray[np.uint8], bounds: NDArray[np.int64]) -> NDArray[np.uint64]:
    out = np.empty(len(bounds) - 1, np.uint64)
    for i in range(len(out)):
        h = np.uint64(14695981039346656037)
        for j in range(bounds[i], bounds[i + 1] - 1):
            h = (h ^ np.uint64(text[j])) * np.uint64(1099511628211)
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[i] = h ^ (h >> np.uint64(31))
    return out
