"""Kernels of what remembers, and the decorator of the parts that a larger kernel is made of."""

from typing import cast

import numba

from models.kernels import F


def part(function: F) -> F:
    """Compile `function` into each kernel that calls it.

    As a call of its own it would count references to every array it is given, atomically: five times its
    work.
    """
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=True)(function))
