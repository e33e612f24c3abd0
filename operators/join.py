"""The join of outcomes with their events, by event id: it turns the truth about an event into labels for its entities.

Either side may come first; the first of each id counts. A label is handed out once both are there, and once only.
The state of an id is one small byte string:

| first byte | then | means |
|---|---|---|
| 1 | `i64 at · f64 number…`, entity texts, each behind its `i32` length | the event waits for its outcome |
| 2 | `i64 at · u8 label` | the outcome waits for its event |
| 3 | | both have met |
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

WAITING, EARLY, MET = b"\x01", b"\x02", b"\x03"
_OUTCOME = struct.Struct("<qB")
_LENGTH = struct.Struct("<i")


class Label(NamedTuple):
    """An outcome with the event that it is about.

    at: when the outcome was known and its event had happened, origin: when that was (both ms); numbers and texts: the
    fields of the event that label features read, in the order of the join.
    """

    id: str
    at: int
    origin: int
    label: bool
    numbers: tuple[float, ...]
    texts: tuple[bytes, ...]


class Join:
    """Joins events of `numbers` numeric and `texts` text fields with their outcomes."""

    def __init__(self, numbers: int):
        self._fixed = struct.Struct(f"<q{numbers}d")

    def event(
        self, state: bytes, id: str, at: int, numbers: Sequence[float], texts: Sequence[str]
    ) -> tuple[bytes, Label | None]:
        """New state of `id` after its event; a label where the outcome was there already."""
        if not state:
            parts = [WAITING, self._fixed.pack(at, *numbers)]
            for text in texts:
                encoded = text.encode()
                parts += (_LENGTH.pack(len(encoded)), encoded)
            return b"".join(parts), None
        if state[:1] != EARLY:
            return state, None
        known, label = _OUTCOME.unpack_from(state, 1)
        encoded_texts = tuple(text.encode() for text in texts)
        return MET, Label(id, max(known, at), at, bool(label), tuple(numbers), encoded_texts)

    def outcome(self, state: bytes, id: str, at: int, label: bool) -> tuple[bytes, Label | None]:
        """New state of `id` after its outcome; a label where the event was there already."""
        if not state:
            return EARLY + _OUTCOME.pack(at, label), None
        if state[:1] != WAITING:
            return state, None
        origin, *numbers = self._fixed.unpack_from(state, 1)
        texts, offset = [], 1 + self._fixed.size
        while offset < len(state):
            (length,) = _LENGTH.unpack_from(state, offset)
            offset += _LENGTH.size
            texts.append(state[offset : offset + length])
            offset += length
        return MET, Label(id, max(at, origin), origin, label, tuple(numbers), tuple(texts))
