"""Compiled array kernels, and the one decorator that compiles them.

A kernel is a plain function over NumPy arrays and scalars. It runs without the interpreter lock, so that
operators of one TaskManager overlap, and its machine code is cached beside the source file. What costs seconds to
compile: to assign an array to a slice, which brings all that its error's text needs, and a literal integer as argument
of another kernel, which is compiled once more for it.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile `function` with numba: `nogil`, cached on disk, division as NumPy divides (x / 0 is inf or nan)."""
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
