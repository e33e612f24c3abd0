"""Feature views: the latest features of each entity, written behind to Redis for people and services to read.

Place in the way of an event: beside it, never in it. Once a batch is scored, `Views.publish` keeps the newest row of
each key in `Pending` (pure: no clock, no I/O), and a thread writes them, never going back to an older one than Redis
holds. A view is one HASH: a field a feature, and `at`, their event time in ms.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from operators.kernels import pending
from operators.redis import Link, names_of
from schemas.errors import Unavailable

log = logging.getLogger("millrace.views")
I32 = NDArray[np.int32]
Longs = NDArray[np.int64]
Doubles = NDArray[np.float64]

Keys = Sequence[str] | Mapping[int, str]
"""The keys of a stage by their rows."""

# A hash is replaced only by one that is not older, compared where it lies: no race of writers turns it back.
# A hash with other fields than ours is from an older declaration: it is written anew.
WRITE = """
local width = #ARGV - 2
local ats, values = string.gmatch(ARGV[1], '[^,]+'), string.gmatch(ARGV[2], '[^,]+')
local written, stale, failed = 0, 0, 0
local row = {'at', ''}
for j = 1, width do row[2 * j + 1] = ARGV[j + 2] end
for _, key in ipairs(KEYS) do
  row[2] = ats()
  for j = 1, width do row[2 * j + 2] = values() end
  local held = redis.pcall('HGET', key, 'at')
  if type(held) == 'table' then
    failed = failed + 1
  elseif held and (tonumber(held) or -math.huge) > tonumber(row[2]) then
    stale = stale + 1
  else
    local done = redis.pcall('HSET', key, unpack(row))
    if type(done) == 'number' and redis.call('HLEN', key) ~= width + 1 then
      redis.call('DEL', key)
      done = redis.pcall('HSET', key, unpack(row))
    end
    if type(done) == 'table' then failed = failed + 1 else written = written + 1 end
  end
end
return {written, stale, failed}
"""


class Taken(NamedTuple):
    """The newest rows of k keys that are being written: at i64[k] ms, values f64[k, width]."""

    keys: list[str]
    at: Longs
    values: Doubles


NOTHING = Taken([], np.empty(0, np.int64), np.empty((0, 0)))


class Pending:
    """The newest row of `width` float64 of each of at most `limit` keys.

    A key is known by the row that it has in the state of its stage: whether it waits already is one look, without the
    interpreter lock. It keeps its place in the queue when a newer row replaces its row.
    """

    def __init__(self, width: int, limit: int) -> None:
        self._keys = [""] * limit
        self._row, self._at = np.full(limit, -1, np.int32), np.empty(limit, np.int64)
        self._values: Doubles = np.empty((limit, width))
        self._place: I32 = np.empty(0, np.int32)
        self._ends = np.zeros(2, np.int64)

    def __len__(self) -> int:
        return int(self._ends[1])

    def forget(self, rows: I32) -> None:
        """These rows are of other keys from now on."""
        pending.forget(self._known(rows), self._place, self._row)

    def merge(self, rows: I32, keys: Keys, at: Longs, values: Doubles) -> tuple[int, int]:
        """Take in k rows of a stage (at: i64[k] ms, values: f64[k, width]); of equal times the later one wins.

        Returns (rows that shared a place with another of their key, keys dropped to make room).
        """
        rows = self._known(rows)
        ring = self._place, self._row, self._at, self._values, self._ends
        fresh, places, dropped = pending.merge(rows, at, np.ascontiguousarray(values), *ring)
        for row, place in zip(rows[fresh].tolist(), places.tolist(), strict=True):
            self._keys[place] = keys[row]
        return len(rows) - len(fresh), dropped

    def _known(self, rows: I32) -> I32:
        """Have places for `rows`."""
        if len(rows) and (more := int(rows.max()) + 1 - len(self._place)) > 0:
            self._place = np.append(self._place, np.full(more + len(self._place), -1, np.int32))
        return np.array(rows)  # that are read from a request are not writeable, which would be another kernel

    def take(self, count: int) -> Taken:
        """The `count` keys that have waited longest, which wait no longer."""
        places = (self._ends[0] + np.arange(min(count, len(self)))) % len(self._row)
        taken = Taken([self._keys[place] for place in places.tolist()], self._at[places], self._values[places])
        pending.remove(len(places), self._place, self._row, self._ends)
        return taken


class ViewCounts(NamedTuple):
    """What became of the published rows; every row is in one of the first five or still waits.

    `stale`: Redis held a newer one. `coalesced`: shared a place with another row of its key; one was sent.
    `dropped`: lost to the bound, or at the close. `failed`: refused by Redis (wrong type of key, no memory).
    """

    written: int
    stale: int
    coalesced: int
    dropped: int
    failed: int
    waiting: int
    up: bool


class Views:
    """The latest features `names` of each key of an `entity`, written behind by a thread that is bounded in work.

    Every `interval` seconds it writes at most `rate * interval` keys: the newest row of each, the key that waited
    longest first. At most `max_pending` keys wait; beyond that the oldest are dropped. `timeout` (seconds) delays
    nobody but the thread.
    """

    SENT = 128
    """Keys sent at once; nobody publishes while their rows are copied, for a fraction of a millisecond."""

    def __init__(
        self, url: str, prefix: str, entity: str, names: tuple[str, ...], *, max_pending: int = 50_000,
        interval: float = 0.05, rate: int = 2_000, timeout: float = 0.1,
    ) -> None:  # fmt: skip
        self._prefix, self._entity, self._names, self._interval = prefix, entity, names, interval
        self._budget = max(1, int(rate * interval))
        self._link = Link(url, WRITE, timeout)
        self._pending, self._sending = Pending(len(names), max_pending), NOTHING
        self._lock = threading.Lock()
        self._written = self._stale = self._coalesced = self._dropped = self._failed = 0
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="millrace-views", daemon=True)
        self._thread.start()

    def forget(self, rows: I32) -> None:
        """These rows of the stage are of other keys from now on; what waits of those before stays."""
        with self._lock:
            self._pending.forget(rows)

    def publish(self, rows: I32, keys: Keys, at: Longs, values: Doubles) -> None:
        """Hand over k rows i32[k] of the stage, of those `keys` (at: i64[k] ms, values: f64[k, names]): a copy."""
        with self._lock:
            if self._closing.is_set():
                self._dropped += len(rows)
                return
            coalesced, dropped = self._pending.merge(rows, keys, at, values)
            self._coalesced += coalesced
            self._dropped += dropped

    def counts(self) -> ViewCounts:
        """What became of the rows so far; exact once the thread is at rest."""
        with self._lock:
            waiting = len(self._pending) + len(self._sending.keys)
        return ViewCounts(
            self._written, self._stale, self._coalesced, self._dropped, self._failed, waiting, self._link.up
        )

    def close(self, timeout: float = 1.0) -> None:
        """Write what waits, for at most `timeout` seconds; what is left then is dropped, and counted."""
        with self._lock:
            self._deadline = time.monotonic() + timeout
            self._closing.set()
        self._thread.join(timeout + 1.0)

    def _run(self) -> None:
        while not self._closing.wait(self._interval):
            self._round(self._budget)
        while (waiting := self.counts().waiting) and time.monotonic() < self._deadline:
            self._round(waiting)
            if not self._link.up:  # one answer that is late must not cost what there is still time to write
                time.sleep(0.01)
        left = self.counts().waiting
        with self._lock:
            self._dropped += left
            self._pending, self._sending = Pending(len(self._names), 1), NOTHING
        self._link.close()

    def _round(self, budget: int) -> None:
        """Write up to `budget` keys."""
        try:
            if self._link.due:
                self._link.connect()
            while self._link.up and budget > 0 and time.monotonic() < self._deadline:
                if not self._sending.keys:
                    with self._lock:
                        self._sending = self._pending.take(min(self.SENT, budget))
                if not self._sending.keys:
                    break
                budget -= len(self._sending.keys)
                self._write(*self._sending)
        except Exception:  # a fault of ours: it must neither end the publishing nor come back every round
            log.exception("feature views: what was being written is given up")
            self._failed += len(self._sending.keys)
            self._sending = NOTHING

    def _write(self, keys: list[str], at: Longs, values: Doubles) -> None:
        arguments = [",".join(map(str, at.tolist())), decimals(values), *self._names]
        try:
            written, stale, failed = self._link.call(names_of(self._prefix, self._entity, keys), arguments)
        except Unavailable:
            return  # they keep waiting: should Redis have taken them, to write them twice is harmless
        self._written += written
        self._stale += stale
        self._failed += failed
        self._sending = NOTHING


def decimals(values: Doubles) -> str:
    """Values in row order, comma between, each the shortest decimal that parses to the same float64."""
    flat = values.ravel()
    text = msgspec.json.encode(flat.tolist()).decode()[1:-1]
    if (odd := np.flatnonzero(~np.isfinite(flat))).size:  # JSON has no nan and no inf
        parts = text.split(",")
        for i in odd.tolist():
            parts[i] = repr(float(flat[i]))
        text = ",".join(parts)
    return text
