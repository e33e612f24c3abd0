"""Record values ⇄ typed records: the first and the last step on the way of an event.

A batch is decoded in one call. Only when that call refuses something is every value looked at alone, so a bad
record costs the batch it is in and nothing else, and what is wrong with it is said exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.errors import PoisonEvent

R = TypeVar("R", bound=msgspec.Struct)

MAX_VALUE_BYTES = 1_048_576
"""Longest value that is decoded; Kafka's own default limit for a record."""

KINDS = (
    "null", "too-large", "encoding", "syntax", "depth", "missing-field", "wrong-type", "not-finite",
    "out-of-range", "future", "key-mismatch",
)  # fmt: skip
"""Every kind of dead letter: the bounded set that metrics are labelled with."""

_ENCODER = msgspec.json.Encoder()
encode, encode_lines = _ENCODER.encode, _ENCODER.encode_lines


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Why the record at `index` of its batch cannot be decided: a kind of `KINDS`, and a sentence."""

    index: int
    kind: str
    detail: str


class Slices(msgspec.Struct, frozen=True, eq=False):
    """Values where they lie in `buffer`, from and to `bounds` i64[k, 2] (an end of -1: null), and all as `lines`."""

    buffer: bytes
    bounds: NDArray[np.int64]
    lines: bytes

    def __len__(self) -> int:
        return len(self.bounds)

    def __getitem__(self, index: int) -> bytes | None:
        begin, end = self.bounds[index]
        return self.buffer[begin:end] if end >= 0 else None


Values = Sequence[bytes | None] | Slices
"""Record values of a batch, None for a null one."""


class Decoder(Generic[R]):
    """Decodes JSON values of one record type, batch by batch."""

    def __init__(self, type: type[R]):
        self._json = msgspec.json.Decoder(type)

    def batch(self, values: Values) -> tuple[list[R], list[int] | None, list[DeadLetter]]:
        """Decode `values`.

        Returns the records, their positions in `values` (None when all decoded), and a dead letter for each
        of the others.
        """
        records = self._together(values)
        if records is not None:
            return records, None, []
        records, positions, dead = [], [], []
        for index in range(len(values)):
            try:
                records.append(self.one(values[index]))
                positions.append(index)
            except PoisonEvent as error:
                kind, detail = error.args
                dead.append(DeadLetter(index, kind, detail))
        return records, positions, dead

    def _together(self, values: Values) -> list[R] | None:
        """All records, or None where one of `values` needs to be looked at alone.

        Values are joined by newlines, which no JSON string holds raw: a value cut in two can't be completed by
        the next one, and a value of several lines, or of none, shows in the counts.
        """
        try:
            # A null value raises TypeError, handled below.
            lines = values.lines if isinstance(values, Slices) else b"\n".join(values)  # type: ignore[arg-type]
            if lines.count(b"\n") != len(values) - 1 or (len(lines) > MAX_VALUE_BYTES and self._too_large(values)):
                return None
            if not lines.isascii():
                lines.decode()
            records = self._json.decode_lines(lines)
        except (TypeError, ValueError, RecursionError):  # msgspec's errors and UnicodeDecodeError are ValueErrors
            return None
        return records if len(records) == len(values) else None

    @staticmethod
    def _too_large(values: Values) -> bool:
        return any(len(values[index] or b"") > MAX_VALUE_BYTES for index in range(len(values)))

    def one(self, value: bytes | None) -> R:
        """Decode one value; PoisonEvent(kind, detail) says what is wrong with it."""
        if value is None:
            raise PoisonEvent("null", "found a null value, expected a JSON object")
        if len(value) > MAX_VALUE_BYTES:
            raise PoisonEvent("too-large", f"found {len(value)} bytes, expected at most {MAX_VALUE_BYTES}")
        try:
            value.decode()
            return self._json.decode(value)
        except UnicodeDecodeError as error:
            raise PoisonEvent("encoding", f"not UTF-8: {error.reason} at byte {error.start}") from error
        except RecursionError as error:
            raise PoisonEvent("depth", "nested deeper than a JSON reader goes") from error
        except msgspec.ValidationError as error:
            raise PoisonEvent(_kind(str(error)), str(error)) from error
        except msgspec.DecodeError as error:
            raise PoisonEvent("syntax", str(error)) from error


def _kind(message: str) -> str:
    """Kind of dead letter for a validation message of msgspec."""
    if "missing required field" in message:
        return "missing-field"
    if "out of range" in message:
        return "not-finite"
    if any(f" {sign} " in message for sign in (">=", "<=", ">", "<")):
        return "out-of-range"
    return "wrong-type"
