"""Safety of the feedback loop: what is declined is never seen to have been right, and outcomes can be forged.

Beside policy, which declines: a declared share of what it would decline is decided by chance instead, so that
its outcome comes; metrics over all events then weigh these by one over the share. Before the join of outcomes: one
source of outcomes counts so often a day. Both depend on ids and event time alone: a replay does the same.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.snapshot import pack, unpack
from schemas.errors import DefinitionError
from schemas.time import MILLISECONDS

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Flags = NDArray[np.bool_]

DAY = MILLISECONDS["d"]
SOURCES = 65_536  # that are counted apart in a day; later ones of that day share one count


def by_chance(ids: Sequence[str], share: float, salt: str) -> Flags:
    """Whether each id is among the chosen `share`, bool[k]: the same for an id on every machine and in every run.

    Nobody who does not know `salt` can tell which; another salt chooses independently. Costs a hash an id: 0.6 µs.
    """
    key = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    hashes = b"".join([hashlib.blake2b(id.encode(), digest_size=8, key=key).digest() for id in ids])
    return np.asarray((np.frombuffer(hashes, "<u8") >> np.uint64(11)) < share * 2.0**53)  # 53 bits are exact


@dataclass(frozen=True)
class Exploration:
    """What `exploration` declares."""

    share: float
    action: str
    salt: str

    def chosen(self, ids: Sequence[str], declined: Flags) -> Flags:
        """Which of the declined are decided by chance, bool[k]: they get `action`, and a mark."""
        out = np.zeros(len(ids), np.bool_)
        rows = np.flatnonzero(declined)
        out[rows] = by_chance([ids[i] for i in rows.tolist()], self.share, self.salt)
        return out

    def weight(self, declined: Flags, chosen: Flags) -> F64:
        """Weights f64[k] by which sums over the events stand for all: 1 / share where chosen, 0 where declined.

        Horvitz and Thompson (1952): each is one over the chance that the outcome is seen, so that weighted sums are
        unbiased; what was declined for good has an outcome, if any, that says nothing, and counts nothing.
        """
        return np.where(declined, np.where(chosen, 1 / self.share, 0.0), 1.0)


def exploration(*, share: float, action: str = "approve", salt: str) -> Exploration:
    """`exploration(share=0.01, action="approve", salt=...)`: one declined event in a hundred is approved, by chance."""
    if not 0 < share <= 1:
        raise DefinitionError(f"exploration(share={share!r}): expected a share above 0 and at most 1, such as 0.01")
    if not action or not salt:
        raise DefinitionError(f"exploration(action={action!r}, salt={salt!r}): expected neither to be empty")
    return Exploration(share, action, salt)


class _Cap(msgspec.Struct, tag="cap/1"):
    most: int
    days: int
    counts: dict[int, dict[bytes, int]] = {}
    refused: int = 0


class Cap:
    """At most `most` outcomes of one source and day of event time; the first ones count.

    Counts of the newest `days` days are kept; an outcome of an older day is refused.
    """

    def __init__(self, most: int, days: int = 40, state: bytes | None = None):
        if most < 1 or days < 1:
            raise DefinitionError(f"Cap(most={most!r}, days={days!r}): expected whole numbers, 1 or more")
        self._s = unpack(state, _Cap) if state else _Cap(most, days)
        self._s.most, self._s.days = most, days

    def add(self, sources: Sequence[str], at: I64) -> Flags:
        """Which of `k` outcomes count, bool[k], in order: by their sources and times i64[k] ms."""
        s = self._s
        out = np.zeros(len(sources), np.bool_)
        newest = max(s.counts, default=0)
        for i, (source, day) in enumerate(zip(sources, (at // DAY).tolist(), strict=True)):
            if day > newest:
                newest = day
                s.counts = {d: counts for d, counts in s.counts.items() if d > day - s.days}
            if day > newest - s.days:
                counts = s.counts.setdefault(day, {})
                name = hashlib.blake2b(source.encode(), digest_size=8).digest()
                name = name if name in counts or len(counts) < SOURCES else b""
                count = counts.get(name, 0)
                out[i] = count < s.most
                counts[name] = min(count + 1, s.most)
            s.refused += not out[i]
        return out

    @property
    def refused(self) -> int:
        """Outcomes that did not count."""
        return self._s.refused

    def snapshot(self) -> bytes:
        """The state; `Cap(most, days, snapshot)` goes on from it."""
        return pack(self._s)
