"""The kernel of keyed features: one call folds a batch of events and labels into the rows of their keys.

An event sees this key's events with times in its window among those processed so far, itself included, and
the labels known before its own time (strictly), however early they were read: labels wait in a ring sorted by
(known, origin, id) and are folded for good only once they are older than the newest event less the lateness;
the younger ones are added to a copy for each event.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from operators.kernels import borrowed, folds, part, prefetch
from operators.kernels import rings as memory
from operators.kernels import tables as T
from operators.kernels.tables import Bits, Floats, Marks, Rows, Spec, Table
from schemas.time import DAY

FIRST, AHEAD = 256, 2
"""Words of a row that are asked for while the records so many before its own are folded: where keys are many, none is
in a cache, and waiting for memory takes a quarter of the time."""


@part
def label_fold(a: Floats, shift: int, blocks: Table, s: Floats, e: int, span: int) -> None:
    """Fold the pending label at `s[e:]` into the accumulators, which begin at `a[shift:]`."""
    of = s[e + T.OF * span]
    origin = s[e + T.ORIGIN * span]
    for k in range(blocks.shape[0]):
        g = blocks[k]
        o = shift + g.offset
        if g.kind == T.TALLY:
            a[o] += 1.0
            a[o + 1] += of
        elif g.of == of:
            if g.kind == T.LAST:
                a[o + 1] = max(a[o + 1], origin) if a[o] > 0.0 else origin
                a[o] += 1.0
            elif g.kind == T.LABEL_DECAY:
                folds.decay_add(a, o, origin, g.half)
            elif g.kind == T.LABEL_MOMENTS:
                x = s[e + g.column * span]
                if x == x:
                    folds.moments_add(a, o, x, folds.MOMENT_WORDS)


@part
def label_settle(s: Floats, b: int, rings: Table, aggregates: Table, blocks: Table, layout: Marks) -> None:
    """Fold the oldest pending label for good: into the accumulators, and a true one into the ring of frauds."""
    ring, frauds = rings[T.PENDING], rings[T.FRAUDS]
    e = memory.ring_first(s, b, ring)
    label_fold(s, b, blocks, s, e, ring.span)
    of, origin = s[e + T.OF * ring.span], s[e + T.ORIGIN * ring.span]
    memory.ring_drop(s, b, ring)
    if frauds.cap == 0:
        return
    run, legit = b + layout[T.RUN_AT], b + layout[T.LEGIT_AT]
    if of == 1.0:
        first, n = memory.ring_first(s, b, frauds), memory.ring_count(s, b, frauds)
        place = memory.ring_open(s, b, frauds, memory.count_until(s, first, n, origin))
        s[place] = origin
        if n == frauds.cap:
            oldest = s[memory.ring_first(s, b, frauds)]
            if layout[T.RUN_AT] >= 0 and (s[legit] == 0.0 or oldest > s[legit + 1]):
                s[run + 1] = min(s[run + 1], oldest) if s[run] > 0.0 else oldest
                s[run] += 1.0
            memory.retire(s, b, rings, aggregates, T.FRAUDS)
    elif layout[T.RUN_AT] >= 0 and origin >= s[b + frauds.base]:
        s[run] = s[run + 1] = 0.0


@part
def label_catch_up(s: Floats, b: int, spec: Spec) -> None:
    """Fold for good the pending labels that no event within the lateness may be too early to know."""
    ring = spec.rings[T.PENDING]
    limit = s[b] - spec.layout[T.LATENESS]
    while memory.ring_count(s, b, ring) > 0 and s[memory.ring_first(s, b, ring)] < limit:
        label_settle(s, b, spec.rings, spec.aggregates, spec.blocks, spec.layout)


@part
def label_arrives(s: Floats, bits: Bits, b: int, spec: Spec, rows: Rows, i: int) -> bool:
    """Put label i of the batch among the pending ones; False if it has been there before.

    When they are full the oldest is folded if every event to come may know it (or is late), else the label
    that becomes known last is forgotten: too little is known then, never too much.
    """
    ring = spec.rings[T.PENDING]
    if ring.cap == 0:
        return True
    if memory.seen(bits, s, b, spec.rings[T.LABEL_IDS], rows.ids[i]):
        return False
    known, origin = float(rows.at[i]), float(rows.origin[i])
    first, n, span = memory.ring_first(s, b, ring), memory.ring_count(s, b, ring), ring.span
    pos = n
    while pos > 0:
        e = first + pos - 1
        if s[e] < known or (s[e] == known and s[e + T.ORIGIN * span] < origin):
            break
        if s[e] == known and s[e + T.ORIGIN * span] == origin and bits[e + T.ID * span] < rows.ids[i]:
            break
        pos -= 1
    e = memory.ring_open(s, b, ring, pos)
    s[e + T.KNOWN * span] = known
    s[e + T.ORIGIN * span] = origin
    bits[e + T.ID * span] = rows.ids[i]
    s[e + T.OF * span] = 1.0 if rows.label[i] > 0.5 else 0.0
    for j in range(spec.label_inputs.shape[0]):
        s[e + (T.OF + 1 + j) * span] = rows.columns[i, spec.label_inputs[j]]
    if n == ring.cap:
        if s[memory.ring_first(s, b, ring)] < s[b]:
            label_settle(s, b, spec.rings, spec.aggregates, spec.blocks, spec.layout)
        else:
            s[b + ring.head + 1] -= 1.0
    return True


@part
def bound(s: Floats, b: int, rings: Table, windows: Table, t: float, marks: Marks) -> None:
    """Find where each window begins and ends in its ring, for an event at `t`: marks[2w], marks[2w + 1]."""
    for w in range(windows.shape[0]):
        g = windows[w]
        ring = rings[g.ring]
        first, n = memory.ring_first(s, b, ring), memory.ring_count(s, b, ring)
        end = t - g.delay
        if w > 0 and windows[w - 1].ring == g.ring and windows[w - 1].delay == g.delay:
            marks[2 * w + 1] = marks[2 * w - 1]
        else:
            marks[2 * w + 1] = memory.count_until(s, first, n, end)
        marks[2 * w] = memory.count_until(s, first, n, end - g.length)


@part
def aggregate(s: Floats, b: int, spec: Spec, t: float, marks: Marks, work: Floats) -> None:
    """Fold each window's ring entries into its accumulator, then the panes it overlaps, where some left the ring."""
    for a in range(spec.aggregates.shape[0]):
        g = spec.aggregates[a]
        ring = spec.rings[g.ring]
        lo, hi = marks[2 * g.window], marks[2 * g.window + 1]
        if g.kind == T.COUNT:
            work[g.acc] = hi - lo
            continue
        column = memory.ring_first(s, b, ring) + g.column * ring.span
        if g.kind == T.MOMENTS:
            if g.shared:
                for j in range(g.words):
                    work[g.acc + j] = work[g.acc - g.words + j]
                hi = marks[2 * spec.aggregates[a - 1].window]
            else:
                folds.fold_zero(work, g.acc, g.words)
            folds.moments_range(work, g.acc, s, column + lo, column + hi, g.spread)
        else:
            sketch(s, b, spec, a, t, column + lo, column + hi, work)
    for a in range(spec.aggregates.shape[0]):
        g = spec.aggregates[a]
        window = spec.windows[g.window]
        end = t - window.delay
        if g.kind <= T.MOMENTS and s[b + spec.rings[g.ring].base] > max(end - window.length, s[b] - g.reach):
            memory.panes_merge(s, b, g, end - window.length, end, work)


@part
def sketch(s: Floats, b: int, spec: Spec, a: int, t: float, lo: int, hi: int, work: Floats) -> None:
    """Distinct values or a quantile of `s[lo:hi]` and the panes of aggregate `a`, exact where there are none."""
    g = spec.aggregates[a]
    window = spec.windows[g.window]
    end = t - window.delay
    begin = end - window.length
    left = s[b + spec.rings[g.ring].base] > max(begin, s[b] - g.reach)
    if g.kind == T.DISTINCT and left:
        folds.fold_zero(work, g.acc, g.words)
        for k in range(lo, hi):
            if s[k] == s[k]:
                folds.registers_add(work, g.acc, s[k])
        memory.panes_merge(s, b, g, begin, end, work)
        work[g.acc] = folds.registers_value(work, g.acc)
        return
    at, cap = spec.layout[T.SORT], spec.layout[T.SORT_CAP]
    n = 0
    for k in range(lo, hi):
        if s[k] == s[k]:
            work[at + n] = s[k]
            work[at + cap + n] = 1.0
            n += 1
    if left:
        n = memory.panes_digest(s, b, g, begin, end, work, at, n)
    folds.sort_weighted(work, at, n, cap)
    if g.kind == T.QUANTILE:
        work[g.acc] = folds.digest_value(work, at, n, cap, g.x)
        return
    count = min(n, 1)
    for k in range(1, n):
        if work[at + k] != work[at + k - 1]:
            count += 1
    work[g.acc] = count


@part
def label_as_of(s: Floats, b: int, spec: Spec, t: float, work: Floats, shift: int) -> None:
    """Copy the label accumulators to the scratch and add the pending labels known before `t`."""
    for j in range(spec.layout[T.LABEL_WORDS]):
        work[shift + spec.layout[T.LABEL_BASE] + j] = s[b + spec.layout[T.LABEL_BASE] + j]
    ring = spec.rings[T.PENDING]
    first, n = memory.ring_first(s, b, ring), memory.ring_count(s, b, ring)
    visible = 0
    while visible < n and s[first + visible] < t:
        e = first + visible
        label_fold(work, shift, spec.blocks, s, e, ring.span)
        if s[e + T.OF * ring.span] == 1.0:
            origin = s[e + T.ORIGIN * ring.span]
            for a in range(spec.aggregates.shape[0]):
                g = spec.aggregates[a]
                if g.ring == T.FRAUDS:
                    window = spec.windows[g.window]
                    end = t - window.delay
                    if end - window.length < origin <= end:
                        work[g.acc] += 1.0
        visible += 1
    if spec.layout[T.RUN_AT] >= 0:
        run_as_of(s, b, spec.rings, visible, work, shift + spec.layout[T.RUN_AT], shift + spec.layout[T.LEGIT_AT])


@part
def run_as_of(s: Floats, b: int, rings: Table, visible: int, work: Floats, run: int, legit: int) -> None:
    """Length and beginning of the run of known frauds later than the last event known as legitimate."""
    ring, frauds = rings[T.PENDING], rings[T.FRAUDS]
    last = work[legit + 1] if work[legit] > 0.0 else -np.inf
    count, begin = 0.0, np.inf
    if work[run] > 0.0 and s[b + frauds.base] > last:
        count, begin = work[run], work[run + 1]
    first, n = memory.ring_first(s, b, frauds), memory.ring_count(s, b, frauds)
    before = memory.count_until(s, first, n, last)
    if before < n:
        count += n - before
        begin = min(begin, s[first + before])
    first = memory.ring_first(s, b, ring)
    for e in range(first, first + visible):
        origin = s[e + T.ORIGIN * ring.span]
        if s[e + T.OF * ring.span] == 1.0 and origin > last:
            count += 1.0
            begin = min(begin, origin)
    work[run] = count
    work[run + 1] = begin


@part
def value(g: Any, t: float, work: Floats) -> float:
    """One output column from the scratch."""
    if g.op == T.VALUE:
        return float(work[g.acc])
    if g.op < T.RATE:
        return float(folds.moments_value(work, g.acc, g.op))
    if g.op == T.RATE:
        return float(min(work[g.acc] / work[g.other], 1.0)) if work[g.other] > 0.0 else 0.0
    if g.op == T.SINCE:
        return float(min((t - work[g.acc]) / DAY, g.x))
    if g.op == T.FINITE:
        return float(work[g.acc]) if work[g.other] > -np.inf and work[g.acc] == work[g.acc] else 0.0
    if g.op == T.LABEL_SINCE:
        return float(min((t - work[g.acc + 1]) / DAY, g.x)) if work[g.acc] > 0.0 else float(g.x)
    if g.op == T.DECAYED_LABELS:
        return float(folds.decayed(work[g.acc + 1], max(t - work[g.acc + 2], 0.0), g.x))
    if g.op == T.SMOOTHED:
        return float((work[g.acc + 1] + g.x * g.y) / (work[g.acc] + g.x))
    return float((t - work[g.acc + 1]) / DAY) if work[g.acc] > 0.0 else 0.0


@kernel
def update(spec: Spec, s: Floats, rows: Rows, out: Floats, fresh: NDArray[np.bool_], scratch: int) -> None:
    """Fold a batch into the key rows `s` (flat), in order; write a feature row for each event that is fresh.

    `out` f64[k, outputs]: rows of labels are left as they are, of duplicates are zero. `fresh` bool[k]: False
    for the duplicate of an event or label, which changes nothing. `scratch`: words of scratch to work in.
    """
    spec = Spec(
        borrowed(spec.rings), borrowed(spec.windows), borrowed(spec.aggregates), borrowed(spec.decayed),
        borrowed(spec.blocks), borrowed(spec.outputs), borrowed(spec.event_inputs), borrowed(spec.label_inputs),
        borrowed(spec.layout),
    )  # fmt: skip
    s, out = borrowed(s), borrowed(out)
    bits = s.view(np.uint64)
    work = np.empty(scratch, np.float64)
    marks = np.empty(2 * spec.windows.shape[0], np.int64)
    ring, labels = spec.rings[T.EVENTS], spec.rings[T.PENDING]
    shift = 2 * ring.columns - spec.layout[T.LABEL_BASE]
    for i in range(rows.slot.shape[0]):
        if i + AHEAD < rows.slot.shape[0]:
            later = rows.slot[i + AHEAD] * spec.layout[T.WIDTH]
            for word in range(later, later + min(FIRST, spec.layout[T.WIDTH]), 8):
                prefetch(s, word)
        b = rows.slot[i] * spec.layout[T.WIDTH]
        if rows.port[i] == 1:
            fresh[i] = label_arrives(s, bits, b, spec, rows, i)
            continue
        fresh[i] = not memory.seen(bits, s, b, spec.rings[T.IDS], rows.ids[i])
        if not fresh[i]:
            out[i, :] = 0.0
            continue
        t = float(rows.at[i])
        s[b] = max(s[b], t)
        if labels.cap > 0:
            label_catch_up(s, b, spec)
        if ring.cap > 0:
            work[ring.columns] = t
            for j in range(spec.event_inputs.shape[0]):
                work[ring.columns + 1 + j] = rows.columns[i, spec.event_inputs[j]]
            memory.insert_event(s, b, spec.rings, spec.aggregates, spec.decayed, spec.layout[T.HORIZON], work)
            bound(s, b, spec.rings, spec.windows, t, marks)
            aggregate(s, b, spec, t, marks, work)
        if labels.cap > 0:
            label_as_of(s, b, spec, t, work, shift)
        for j in range(spec.outputs.shape[0]):
            out[i, j] = value(spec.outputs[j], t, work)
