"""The join of a served decision with its outcome, by event id: examples come of it, each once.

Behind the policy and before the teacher. A decision waits in keyed state; its outcome may come before it, twice,
corrected, or never. An example is due when the event time of the job has reached the time since which its label was
known: in a backfill, too, nothing is learned before it could have been. At the horizon a label is presumed, or the
decision is dropped. What has become an example is remembered as such, so that nothing is learned twice.
"""

import struct
from dataclasses import dataclass

WAITING, EARLY, DUE, DONE = b"W", b"E", b"D", b"L"
_TRUTH = struct.Struct("<q?H")
_AT = struct.Struct("<q")


@dataclass(frozen=True)
class Due:
    """An example: what was `served`, and its label, known since `known` ms."""

    served: bytes
    known: int
    label: bool
    presumed: bool
    source: str


class ExampleJoin:
    """Joins decisions with outcomes. Each method takes the state of an event id and returns the new one, beside when
    (ms of event time) to look at it again, and what happened, for a counter."""

    def __init__(self, horizon: int, presume: bool | None):
        self._horizon, self._presume = horizon, presume

    def decision(self, state: bytes, at: int, served: bytes) -> tuple[bytes, int | None, str]:
        """A decision about an event of `at`."""
        if not state:
            return WAITING + _AT.pack(at) + served, at + self._horizon, "waiting"
        if state[:1] != EARLY:
            return state, None, "repeated"
        known, label, length = _TRUTH.unpack_from(state, 1)
        head = 1 + _TRUTH.size
        known = max(known, at)
        return DUE + _TRUTH.pack(known, label, length) + state[head : head + length] + served, known, "early"

    def outcome(self, state: bytes, at: int, label: bool, source: str) -> tuple[bytes, int | None, str]:
        """An outcome that is known since `at`. The last one wins until it has become an example."""
        text = source.encode()[:1000]
        truth = _TRUTH.pack(at, label, len(text)) + text
        kind = state[:1]
        if kind in (b"", EARLY):
            return EARLY + truth, None, "unmatched" if not kind else "corrected"
        if kind == DONE:
            return state, None, "repeated" if bool(state[1]) == label else "too-late"
        if kind == DUE:
            _, _, length = _TRUTH.unpack_from(state, 1)
            return DUE + truth + state[1 + _TRUTH.size + length :], at, "corrected"
        (origin,) = _AT.unpack_from(state, 1)
        at = max(at, origin)
        return DUE + _TRUTH.pack(at, label, len(text)) + text + state[1 + _AT.size :], at, "joined"

    def due(self, state: bytes, now: int) -> tuple[bytes, Due | None, str]:
        """The time that was asked for has come."""
        kind = state[:1]
        if kind == DUE:
            known, label, length = _TRUTH.unpack_from(state, 1)
            if known > now:
                return state, None, ""
            head = 1 + _TRUTH.size
            source = state[head : head + length].decode(errors="replace")
            return DONE + bytes([label]), Due(state[head + length :], known, label, False, source), "examples"
        if kind != WAITING:
            return state, None, ""
        (at,) = _AT.unpack_from(state, 1)
        if at + self._horizon > now:
            return state, None, ""
        if self._presume is None:
            return DONE + b"\x02", None, "dropped"
        served = state[1 + _AT.size :]
        return DONE + bytes([self._presume]), Due(served, at + self._horizon, self._presume, True, ""), "presumed"
