"""States as bytes: what a resident operator hands to a checkpoint and takes back, in a format of our own.

Beside the way of an event. A state is a `msgspec.Struct` whose fields are JSON-like values and arrays, tagged
with its kind and the version of its layout (`tag="platt/1"`). Nothing is ever unpickled: bytes of another
kind or layout, or cut bytes, are refused, and an array is read by its stated dtype, shape and raw bytes.
"""

import re
from typing import TypeVar

import msgspec
import numpy as np

from schemas.errors import ModelRejected

S = TypeVar("S", bound=msgspec.Struct)

DTYPE = re.compile(r"[<>|]([biuf])\d{1,2}")


def _raw(value: object) -> object:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise NotImplementedError(f"a snapshot holds no {type(value).__name__}")
    return value.dtype.str, value.shape, value.tobytes()


def _array(_: type, stored: object) -> object:
    dtype, shape, data = msgspec.convert(stored, tuple[str, tuple[int, ...], bytes])
    if not DTYPE.fullmatch(dtype):
        raise ValueError(f"found dtype {dtype!r}, expected a number's")
    return np.frombuffer(data, dtype).reshape(shape).copy()


def pack(state: msgspec.Struct) -> bytes:
    """MessagePack of `state`; equal states give equal bytes."""
    return msgspec.msgpack.encode(state, enc_hook=_raw)


def unpack(data: bytes, kind: type[S]) -> S:
    """The state that `pack` made `data` of; raises ModelRejected where it is none of this `kind`."""
    try:
        return msgspec.msgpack.decode(data, type=kind, dec_hook=_array)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        expected = kind.__struct_config__.tag
        raise ModelRejected(f"snapshot: found {error}, expected {expected}; start without it, or replay") from error
