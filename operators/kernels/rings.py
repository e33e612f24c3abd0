"""Rings and panes: the bounded memory of a key's recent entries, and what is kept of those that left it.

A time ring is sorted by its first column, entries of equal time in arrival order, so that it always holds the
`cap` latest entries of all that ever came. An entry that leaves is folded into the panes of every aggregate
over the ring: pane e of an aggregate covers [e * pane, (e + 1) * pane) ms and lives in slot e mod count.
"""

from typing import Any

import numpy as np

from operators.kernels import part
from operators.kernels.folds import (
    decayed,
    digest_merge,
    fold_add,
    fold_zero,
    moments_merge,
    registers_merge,
)
from operators.kernels.tables import COUNT, DISTINCT, EVENTS, MOMENTS, Bits, Floats, Table


@part
def ring_count(s: Floats, b: int, ring: Any) -> int:
    """Number of entries."""
    return int(s[b + ring.head + 1])


@part
def ring_first(s: Floats, b: int, ring: Any) -> int:
    """Index in `s` of the oldest entry's first column; column j lies `j * span` further."""
    return int(b + ring.base + 1 + int(s[b + ring.head]))


@part
def count_until(s: Floats, first: int, n: int, time: float) -> int:
    """How many of the sorted `s[first:first + n]` are at or before `time`; without branches, so it vectorises."""
    count = 0
    for k in range(np.uint64(first), np.uint64(first + n)):
        if s[k] <= time:
            count += 1
    return count


@part
def ring_open(s: Floats, b: int, ring: Any, pos: int) -> int:
    """Open a gap for a new entry number `pos`; index in `s` of its first column."""
    head = b + ring.head
    start, n = int(s[head]), int(s[head + 1])
    if start + n + 1 >= ring.span:
        for j in range(ring.columns):
            first = b + ring.base + j * ring.span + 1
            for k in range(first, first + n):
                s[k] = s[k + start]
        start = 0
        s[head] = 0.0
    if pos < n:
        for j in range(ring.columns):
            first = b + ring.base + j * ring.span + 1 + start
            for k in range(first + n, first + pos, -1):
                s[k] = s[k - 1]
    s[head + 1] = n + 1.0
    return int(b + ring.base + 1 + start + pos)


@part
def ring_drop(s: Floats, b: int, ring: Any) -> None:
    """Forget the oldest entry."""
    s[b + ring.head] += 1.0
    s[b + ring.head + 1] -= 1.0


@part
def seen(bits: Bits, s: Floats, b: int, ring: Any, identity: np.uint64) -> bool:
    """Whether a ring of ids holds `identity`; if not, it does now, and its oldest may be forgotten."""
    if ring.cap == 0:
        return False
    first, n = ring_first(s, b, ring), ring_count(s, b, ring)
    hits = 0
    for k in range(np.uint64(first), np.uint64(first + n)):
        if bits[k] == identity:
            hits += 1
    if hits:
        return True
    bits[ring_open(s, b, ring, n)] = identity
    if n == ring.cap:
        ring_drop(s, b, ring)
    return False


@part
def pane_add(s: Floats, b: int, g: Any, time: float, x: float) -> None:
    """Fold an entry that left its ring into its pane, unless a later pane has taken the slot."""
    epoch = np.floor(time / g.pane)
    o = b + g.panes + int(epoch % g.count) * (1 + g.words)
    if s[o + 1] == 0.0 or s[o] < epoch:
        fold_zero(s, o + 1, g.words)
        s[o] = epoch
    if s[o] == epoch:
        fold_add(g.kind, s, o + 1, x, g.words)


@part
def pane_in(s: Floats, o: int, pane: float, begin: float, end: float) -> bool:
    """Whether the pane at `s[o:]` has entries and overlaps (begin, end]."""
    return bool(s[o + 1] > 0.0 and s[o] * pane <= end and (s[o] + 1.0) * pane > begin)


@part
def panes_merge(s: Floats, b: int, g: Any, begin: float, end: float, work: Floats) -> None:
    """Merge the panes that overlap (begin, end] into the aggregate's accumulator in the scratch."""
    for i in range(g.count):
        o = b + g.panes + i * (1 + g.words)
        if pane_in(s, o, g.pane, begin, end):
            if g.kind == COUNT:
                work[g.acc] += s[o + 1]
            elif g.kind == MOMENTS:
                moments_merge(work, g.acc, s, o + 1, g.words)
            elif g.kind == DISTINCT:
                registers_merge(work, g.acc, s, o + 1)


@part
def panes_digest(s: Floats, b: int, g: Any, begin: float, end: float, work: Floats, at: int, n: int) -> int:
    """Append the centroids of the panes that overlap (begin, end] to the n values at `work[at:]`; the new n."""
    cap = (work.shape[0] - at) // 2
    for i in range(g.count):
        o = b + g.panes + i * (1 + g.words)
        if pane_in(s, o, g.pane, begin, end):
            n = digest_merge(work, at, n, cap, o + 1, s)
    return n


@part
def expire(s: Floats, b: int, ring: Any) -> None:
    """Drop the oldest entry of a time ring, and keep it aside if it is the newest that ever left."""
    first, kept = ring_first(s, b, ring), b + ring.base
    if s[first] >= s[kept]:
        for j in range(ring.columns):
            s[kept + j * ring.span] = s[first + j * ring.span]
    ring_drop(s, b, ring)


@part
def retire(s: Floats, b: int, rings: Table, aggregates: Table, which: int) -> None:
    """Fold the oldest entry of time ring `which` into panes, and drop it."""
    ring = rings[which]
    first, kept = ring_first(s, b, ring), b + ring.base
    for a in range(aggregates.shape[0]):
        g = aggregates[a]
        if g.ring == which:
            if s[kept] <= s[b] - g.reach:
                fold_zero(s, b + g.panes, g.count * (1 + g.words))
            pane_add(s, b, g, s[first], s[first + g.column * ring.span])
    expire(s, b, ring)


@part
def insert_event(s: Floats, b: int, rings: Table, aggregates: Table, decays: Table, horizon: int, work: Floats) -> None:
    """Put the event `work[c:2c]` (time, fields, decayed sums) into the event ring; the sums are set here.

    Leaves the event before it in `work[:c]` (time -inf: none). Entries that no window can reach leave the
    ring.
    """
    ring = rings[EVENTS]
    c = ring.columns
    n, first = ring_count(s, b, ring), ring_first(s, b, ring)
    kept = b + ring.base
    t = work[c]
    pos = n
    while pos > 0 and s[first + pos - 1] > t:
        pos -= 1
    before = first + pos - 1 if pos > 0 else kept
    for j in range(c):
        work[j] = s[before + j * ring.span]
    if work[0] > t:
        work[0] = -np.inf
    for d in range(decays.shape[0]):
        g = decays[d]
        x = 1.0 if g.source < 0 else work[c + g.source]
        x = x if x == x else 0.0
        old = decayed(work[g.column], t - work[0], g.half) if work[0] > -np.inf else 0.0
        work[c + g.column] = old + x
        column = g.column * ring.span
        for k in range(pos, n):
            s[first + column + k] += decayed(x, s[first + k] - t, g.half)
        if s[kept] > t:
            s[kept + column] += decayed(x, s[kept] - t, g.half)
    place = ring_open(s, b, ring, pos)
    for j in range(c):
        s[place + j * ring.span] = work[c + j]
    if n == ring.cap:
        retire(s, b, rings, aggregates, EVENTS)
    while ring_count(s, b, ring) > 0 and s[ring_first(s, b, ring)] <= s[b] - horizon:
        expire(s, b, ring)
