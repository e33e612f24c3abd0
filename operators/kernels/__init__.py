"""Kernels of what remembers; the parts that a larger kernel is made of, and arrays whose references none counts.

numba counts the references to an array each time it is handed on, atomically: more work than most parts do.
"""

from collections.abc import Callable
from typing import Any, cast

import numba
from numba.extending import intrinsic

from models.kernels import F


def part(function: F) -> F:
    """Compile `function` into each kernel that calls it."""
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=True)(function))


def unowned(typing: Any, array: Any) -> Any:
    """The same array without its reference count; its owner, the kernel's caller, outlives the kernel."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = context.make_array(signature.args[0])(context, builder, arguments[0])
        value.meminfo = value.meminfo.type(None)
        return value._getvalue()

    return array(array), codegen


borrowed = cast(Callable[[Any], Any], intrinsic(unowned))
