"""Kernels of what remembers; the parts that a larger kernel is made of, and arrays whose references none counts.

numba counts the references to an array each time it is handed on, atomically: more work than most parts do. Where
states are many, most of the time is waiting for memory, so what is wanted next is fetched ahead.
"""

from collections.abc import Callable
from typing import Any, cast

import numba
from numba.core import cgutils, types
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


def ahead(typing: Any, array: Any, index: Any) -> Any:
    """Ask the processor for the cache line of array[index] before it is wanted; nothing is read."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        low: Any = cgutils
        byte, number = low.ir.IntType(8).as_pointer(), low.ir.IntType(32)
        kind = low.ir.FunctionType(low.ir.VoidType(), (byte, number, number, number))
        call = low.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(call, (place, number(1), number(3), number(1)))
        return context.get_dummy_value()

    return types.void(array, index), codegen


prefetch = cast(Callable[[Any, int], None], intrinsic(ahead))
