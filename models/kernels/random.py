"""Python's random numbers (MT19937) inside kernels: the draws of `random.Random`, from a state that can be kept.

A state is uint32[625], as `random.Random(seed).getstate()[1]` gives it. Matsumoto and Nishimura, ACM TOMACS 1998.
"""

import math

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel

U32 = NDArray[np.uint32]

_N, _M = 624, 397


@kernel
def _bits(state: U32) -> int:
    """The next 32 random bits."""
    at = int(state[_N])
    if at >= _N:
        for i in range(_N):
            y = (int(state[i]) & 0x80000000) | (int(state[(i + 1) % _N]) & 0x7FFFFFFF)
            state[i] = int(state[(i + _M) % _N]) ^ (y >> 1) ^ (0x9908B0DF if y & 1 else 0)
        at = 0
    y = int(state[at])
    state[_N] = at + 1
    y ^= y >> 11
    y ^= (y << 7) & 0x9D2C5680
    y ^= (y << 15) & 0xEFC60000
    return y ^ (y >> 18)


@kernel
def uniform(state: U32) -> float:
    """A number from [0, 1), as random() gives it."""
    a, b = _bits(state) >> 5, _bits(state) >> 6
    return (a * 67108864.0 + b) / 9007199254740992.0


@kernel
def below(state: U32, n: int) -> int:
    """An integer from 0 to n - 1, as randrange(n) gives it."""
    bits = 0
    while (n >> bits) > 0:
        bits += 1
    r = _bits(state) >> (32 - bits)
    while r >= n:
        r = _bits(state) >> (32 - bits)
    return r


@kernel
def poisson(state: U32, rate: float) -> int:
    """A Poisson number, as River draws it (Knuth); in parts where `rate` is too large for one exp."""
    k = 0
    while rate > 0:
        part = min(rate, 500.0)
        rate -= part
        limit, p = math.exp(-part), uniform(state)
        while p > limit:
            k += 1
            p *= uniform(state)
    return k
