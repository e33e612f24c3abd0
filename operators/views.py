"""Feature views: the latest features of each entity, written behind to Redis for people and services to read.

Place in the way of an event: beside it, never in it. Once a batch is scored, `Views.publish` takes its rows;
a thread keeps the newest of each key in `Pending` (pure: no clock, no I/O) and writes them, never going back
to an older one than Redis holds. A view is one HASH: a field a feature, and `at`, their event time in ms.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from operators.redis import Link, names_of
from schemas.errors import Unavailable

log = logging.getLogger("millrace.views")
Longs = NDArray[np.int64]
Doubles = NDArray[np.float64]
EARLIEST = np.iinfo(np.int64).min

# A hash is replaced only by one that is not older, compared where it lies: no race of writers turns it back.
# A hash with other fields than ours is from an older declaration: it is written anew.
WRITE = """
local ttl, width = tonumber(ARGV[1]), #ARGV - 3
local ats, values = string.gmatch(ARGV[2], '[^,]+'), string.gmatch(ARGV[3], '[^,]+')
local written, stale, failed = 0, 0, 0
local row = {'at', ''}
for j = 1, width do row[2 * j + 1] = ARGV[j + 3] end
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
    if ttl > 0 then redis.call('PEXPIRE', key, ttl) end
  end
end
return {written, stale, failed}
"""


class Pending:
    """One row of `width` float64 for each of at most `limit` keys.

    Rows lie in one matrix and not in objects, so that a slow consumer costs `limit * width * 8` bytes and a
    merge is a few array operations. A key keeps its place in the queue when a newer row replaces its row.
    """

    def __init__(self, width: int, limit: int) -> None:
        self._limit = limit
        self._slot: dict[str, int] = {}
        self._queue: deque[str] = deque()
        self._free = list(range(limit))
        self._at: Longs = np.zeros(limit, np.int64)
        self._values: Doubles = np.empty((limit, width))

    def __len__(self) -> int:
        return len(self._slot)

    def merge(self, keys: Sequence[str], at: Longs, values: Doubles) -> tuple[int, int]:
        """Take in k <= limit rows (at: i64[k] ms, values: f64[k, width]); of equal times the later row wins.

        Returns (rows that shared a place with another of their key, keys dropped to make room).
        """
        slot = self._slot
        fresh = [key for key in dict.fromkeys(keys) if key not in slot]
        dropped = self._make_room(len(fresh), keys)
        places = [self._free.pop() for _ in fresh]
        slot.update(zip(fresh, places, strict=True))
        self._at[places] = EARLIEST
        self._queue.extend(fresh)
        order = np.argsort(at, kind="stable")
        rows = np.fromiter(map(slot.__getitem__, keys), np.int64, len(keys))[order]
        at, values = at[order], values[order]
        newer = at >= self._at[rows]
        rows = rows[newer]
        self._at[rows] = at[newer]  # the last one assigned to a repeated row stays, and `at` ascends
        self._values[rows] = values[newer]
        return len(keys) - len(fresh), dropped

    def head(self, count: int) -> tuple[list[str], Longs, Doubles]:
        """Keys, times and rows of the `count` keys that have waited longest; they stay until `discard`."""
        keys = list(islice(self._queue, count))
        rows = [self._slot[key] for key in keys]
        return keys, self._at[rows], self._values[rows]

    def discard(self, count: int) -> None:
        """Forget the `count` keys that have waited longest."""
        keys = [self._queue.popleft() for _ in range(min(count, len(self._queue)))]
        self._free.extend(map(self._slot.pop, keys))

    def _make_room(self, fresh: int, keys: Sequence[str]) -> int:
        excess = max(0, len(self._slot) + fresh - self._limit)
        coming = frozenset(keys) if excess else frozenset()
        lost: list[str] = []
        while len(lost) < excess:
            key = self._queue.popleft()
            # One that is about to be the newest is not the one to lose.
            (self._queue if key in coming else lost).append(key)
        self._free.extend(map(self._slot.pop, lost))
        return excess


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


class Batch(NamedTuple):
    """Rows as they were handed over: k keys, at i64[k] in ms, values f64[k, f]."""

    entity: str
    keys: tuple[str, ...]
    at: Longs
    names: tuple[str, ...]
    values: Doubles


class Views:
    """The latest features of each entity, written behind by a thread that is bounded in work and in memory.

    Every `interval` seconds it writes at most `rate * interval` keys: the newest row of each, the key that
    waited longest first. At most `max_pending` keys of an entity wait, and as many rows not looked at yet;
    beyond that the oldest are dropped. A hash expires `ttl` seconds after its last write (None: never). An
    entity has one publisher. `timeout` (seconds) delays nobody but the thread.
    """

    MERGED = 512  # rows merged, and
    SENT = 128  # keys sent, before the interpreter lock is given up: fractions of a millisecond

    def __init__(
        self,
        url: str,
        prefix: str,
        max_pending: int = 50_000,
        interval: float = 0.05,
        rate: int = 2_000,
        ttl: float | None = None,
        timeout: float = 0.1,
    ) -> None:
        self._prefix, self._limit, self._interval = prefix, max_pending, interval
        self._budget, self._ttl = max(1, int(rate * interval)), int((ttl or 0) * 1000)
        self._link = Link(url, WRITE, timeout)
        self._inbox: deque[Batch] = deque()
        self._inbox_rows = self._spilled = 0
        self._lock = threading.Lock()
        self._tables: dict[tuple[str, tuple[str, ...]], Pending] = {}
        self._written = self._stale = self._coalesced = self._dropped = self._failed = 0
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="millrace-views", daemon=True)
        self._thread.start()

    def publish(
        self, entity: str, keys: Sequence[str], at: Longs, names: tuple[str, ...], values: Doubles
    ) -> None:
        """Hand over k rows (at: i64[k] ms, values: f64[k, f] of `names`): a copy and an append, no I/O."""
        batch = Batch(entity, tuple(keys), np.array(at, np.int64), names, np.array(values, np.float64))
        with self._lock:
            if self._closing.is_set():
                self._spilled += len(batch.keys)
                return
            self._inbox.append(batch)
            self._inbox_rows += len(batch.keys)
            while self._inbox_rows > self._limit:
                lost = len(self._inbox.popleft().keys)
                self._inbox_rows -= lost
                self._spilled += lost

    def counts(self) -> ViewCounts:
        """What became of the rows so far; exact once the thread is at rest."""
        waiting = self._inbox_rows + sum(map(len, tuple(self._tables.values())))
        dropped = self._dropped + self._spilled
        return ViewCounts(
            self._written, self._stale, self._coalesced, dropped, self._failed, waiting, self._link.up
        )

    def close(self, timeout: float = 1.0) -> None:
        """Write what waits, for at most `timeout` seconds; what is left then is dropped, and counted."""
        with self._lock:
            self._deadline = time.monotonic() + timeout
            self._closing.set()
        self._thread.join(timeout + 1.0)

    def _run(self) -> None:
        while not self._closing.wait(self._interval):
            self._round(16 * self._budget, self._budget)
        while (waiting := self.counts().waiting) and time.monotonic() < self._deadline:
            self._round(self._limit, waiting)
            if not self._link.up:  # one answer that is late must not cost what there is still time to write
                time.sleep(0.01)
        with self._lock:
            self._spilled += self._inbox_rows
            self._inbox.clear()
            self._inbox_rows = 0
        self._dropped += sum(map(len, self._tables.values()))
        self._tables.clear()
        self._link.close()

    def _round(self, rows: int, keys: int) -> None:
        try:
            self._merge(rows)
            self._send(keys)
        except Exception:  # a fault of ours: it must neither end the publishing nor come back every round
            log.exception("feature views: what waited is given up")
            self._failed += sum(map(len, self._tables.values()))
            self._tables.clear()

    def _merge(self, rows: int) -> None:
        """Move about `rows` rows, and at least one batch, from the inbox to the tables."""
        while rows > 0 and (batches := self._next()):
            entity, names = batches[0].entity, batches[0].names
            keys = [key for batch in batches for key in batch.keys]
            at = np.concatenate([batch.at for batch in batches])
            values = np.concatenate([batch.values for batch in batches])
            table = self._tables.get((entity, names))
            if table is None:
                table = self._tables[entity, names] = Pending(len(names), self._limit)
            rows -= len(keys)
            for i in range(0, len(keys), step := min(self.MERGED, self._limit)):
                part = slice(i, i + step)
                coalesced, dropped = table.merge(keys[part], at[part], values[part])
                self._coalesced += coalesced
                self._dropped += dropped
                time.sleep(5e-5)  # lets the hot path have the interpreter

    def _next(self) -> list[Batch]:
        """The batches of one kind that have waited longest, together `MERGED` rows or more where there are: one merge
        of many costs little more than one of a few."""
        found: list[Batch] = []
        size = 0
        with self._lock:
            while self._inbox and size < self.MERGED:
                batch = self._inbox[0]
                if found and (batch.entity, batch.names) != (found[0].entity, found[0].names):
                    break
                self._inbox.popleft()
                rows, width = len(batch.keys), len(batch.names)
                self._inbox_rows -= rows
                size += rows
                if batch.at.shape == (rows,) and batch.values.shape == (rows, width):
                    found.append(batch)
                    continue
                shapes = batch.at.shape, batch.values.shape
                log.error("views of %s: found shapes %s, expected %s", batch.entity, shapes, (rows, width))
                self._failed += rows
        return found

    def _send(self, budget: int) -> None:
        """Write up to `budget` keys, an even share for each entity, then whoever has more."""
        if self._link.due:
            self._link.connect()
        share = max(1, min(self.SENT, budget // max(1, len(self._tables))))
        while self._link.up and budget > 0 and time.monotonic() < self._deadline:
            sent = 0
            for (entity, names), table in self._tables.items():
                if (count := min(share, budget, len(table))) and self._link.up:
                    self._write(entity, names, table, count)
                    budget, sent = budget - count, sent + count
            if not sent:
                break

    def _write(self, entity: str, names: tuple[str, ...], table: Pending, count: int) -> None:
        keys, at, values = table.head(count)
        arguments: list[str | int] = [self._ttl, ",".join(map(str, at.tolist())), decimals(values), *names]
        try:
            written, stale, failed = self._link.call(names_of(self._prefix, entity, keys), arguments)
        except Unavailable:
            return  # they keep waiting: should Redis have taken them, to write them twice is harmless
        table.discard(count)
        self._written += written
        self._stale += stale
        self._failed += failed


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
