"""The join of a served decision with its outcome, by event id: examples come of it, each once.

Behind the policy and before the teacher. A decision waits in keyed state; its outcome may come before it, twice,
corrected, or never. An example is due when the event time of the job has reached the time since which its label was
known: in a backfill, too, nothing is learned before it could have been. Of several outcomes that one counts which was
known first, as it is learned then; where they were known before the event, the newest. At the horizon a label is
presumed, or the decision is dropped. What has become an example is remembered as such: nothing is learned twice.
"""

import struct
from dataclasses import dataclass

WAITING, EARLY, DUE, DONE = b"W", b"E", b"D", b"L"
_TRUTH = struct.Struct("<q?H")
_AT = struct.Struct("<q")

MOST = 8
"""Outcomes that are kept of an event that has not come: the first, and the newest of the others."""


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
            return state, self.ends(state), "repeated"
        known, label, source = min(reversed(_truths(state[1:])), key=lambda truth: rank(truth[0], at))
        if known > at + self._horizon:
            return WAITING + _AT.pack(at) + served, at + self._horizon, "too-late"
        return DUE + _AT.pack(at) + _told(known, label, source) + served, max(known, at), "early"

    def outcome(self, state: bytes, at: int, label: bool, source: str) -> tuple[bytes, int | None, str]:
        """An outcome that is known since `at`. One that is known only after another, or after the horizon, does not
        count, whenever it comes."""
        text, kind = source.encode()[:1000], state[:1]
        if kind in (b"", EARLY):
            truths = sorted([*_truths(state[1:]), (at, label, text)], key=lambda truth: truth[0])
            del truths[1 : max(1, len(truths) - MOST + 1)]
            told = b"".join(_told(*truth) for truth in truths)
            return EARLY + told, None, "corrected" if kind else "unmatched"
        if kind == DONE:
            return state, None, "repeated" if state[1] == label else "too-late"
        (origin,) = _AT.unpack_from(state, 1)
        if at > origin + self._horizon:
            return state, self.ends(state), "too-late"
        served = 1 + _AT.size
        if kind == DUE:
            known, before, length = _TRUTH.unpack_from(state, served)
            if rank(at, origin) > rank(known, origin):
                return state, max(known, origin), "repeated" if before == label else "too-late"
            served += _TRUTH.size + length
        state = DUE + _AT.pack(origin) + _told(at, label, text) + state[served:]
        return state, max(at, origin), "corrected" if kind == DUE else "joined"

    def ends(self, state: bytes) -> int | None:
        """When a decision that waits is not waited for any longer: who calls may have forgotten that it was asked."""
        return _AT.unpack_from(state, 1)[0] + self._horizon if state[:1] == WAITING else None

    def due(self, state: bytes, now: int) -> tuple[bytes, Due | None, str]:
        """The time that was asked for has come."""
        kind = state[:1]
        if kind == DUE:
            known, label, length = _TRUTH.unpack_from(state, 1 + _AT.size)
            known = max(known, *_AT.unpack_from(state, 1))
            if known > now:
                return state, None, ""
            head = 1 + _AT.size + _TRUTH.size
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


def rank(at: int, origin: int) -> tuple[int, int]:
    """Which outcome of an event of `origin` counts: the least."""
    return max(at, origin), -at


def _told(at: int, label: bool, source: bytes) -> bytes:
    return _TRUTH.pack(at, label, len(source)) + source


def _truths(told: bytes) -> list[tuple[int, bool, bytes]]:
    """What outcomes say, which lie one behind the other."""
    truths, place = [], 0
    while place < len(told):
        at, label, length = _TRUTH.unpack_from(told, place)
        place += _TRUTH.size + length
        truths.append((at, label, told[place - length : place]))
    return truths
