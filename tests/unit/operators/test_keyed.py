"""The keyed feature engine against its naive twin, and what its stored state promises."""

import dataclasses
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.features import (
    Keyed,
    by,
    count,
    decayed_count,
    decayed_sum,
    distinct,
    label_decay,
    label_max,
    label_mean,
    label_rate,
    label_run,
    label_run_age,
    label_since,
    label_smoothed,
    label_std,
    max_,
    mean,
    min_,
    previous,
    quantile,
    since,
    std,
    sum_,
    var,
)
from operators.kernels import keyed as kernels
from operators.kernels import state
from operators.kernels.tables import Rows
from operators.keyed import EntityFeatures, compile_features
from schemas.errors import MillraceError
from schemas.time import DAY, duration
from tests.unit.operators.naive import Event, Twin, window

HOUR = 3_600_000
START = 1_500_000_000_000


def everything(**bounds: Any) -> Keyed:
    """Every fold there is."""
    bounds = {"ids": 64} | bounds
    return by(
        "card",
        count("6h", "1d", "7d"),
        label_rate("1d", "7d", delay="2d"),
        sum_("amount", "1d"),
        mean("amount", "1d", "7d", delay="1d"),
        std("amount", "6h", "7d"),
        var("amount", "1d"),
        min_("amount", "7d"),
        max_("amount", "6h", "7d"),
        distinct("place", "1d", "7d"),
        quantile("amount", 0.9, "7d"),
        quantile("amount", 0.25, "1d"),
        decayed_count("2d"),
        decayed_sum("amount", "12h", "3d"),
        since(),
        previous("amount"),
        label_mean("amount"),
        label_std("amount"),
        label_max("place", of=True),
        label_since(),
        label_since(of=False, never="3d"),
        label_run(),
        label_run_age(),
        label_decay("14d"),
        label_smoothed(0.01, 5.0),
        lateness="2d",
        **bounds,
    )


@st.composite
def streams(draw: st.DrawFn, size: int = 40, late: int = 2) -> list[Event]:
    """Events that are late by up to `late` days or duplicates, and labels, read at any time, some twice."""
    out: list[Event] = []
    newest = START
    amounts = st.one_of(st.integers(1, 9).map(float), st.floats(0.01, 1e4), st.just(math.nan))
    for i in range(draw(st.integers(1, size))):
        key = draw(st.integers(0, 1))
        newest += draw(st.sampled_from([0, 1, HOUR, 5 * HOUR, int(DAY), 3 * int(DAY)]))
        at = newest - draw(st.sampled_from([0, 0, 0, 1, HOUR, late * int(DAY)]))
        e = Event(key, i, at, {"amount": draw(amounts), "place": float(draw(st.integers(0, 3)))})
        out.append(e)
        if draw(st.booleans()):
            known = at + draw(st.sampled_from([0, HOUR, int(DAY), 7 * int(DAY)]))
            label = dataclasses.replace(e, known=known, of=draw(st.booleans()))
            out.insert(draw(st.integers(0, len(out))), label)
        if draw(st.integers(0, 9)) == 0:
            out.append(dataclasses.replace(draw(st.sampled_from(out)), values=e.values))
    return out


def rows(features: EntityFeatures, stream: list[Event]) -> Rows:
    """A stream as the kernel takes it."""
    return Rows(
        np.array([e.key for e in stream], np.int32),
        np.array([e.known is not None for e in stream], np.uint8),
        np.array([e.at if e.known is None else e.known for e in stream], np.int64),
        np.array([e.at for e in stream], np.int64),
        np.array([e.of for e in stream], np.float64),
        np.array([e.id for e in stream], np.uint64),
        np.array([[e.values[f] for f in features.inputs] for e in stream]).reshape(len(stream), -1),
    )


def run(
    features: EntityFeatures, stream: list[Event], cuts: list[int] | None = None
) -> tuple[list[list[float] | None], bytes]:
    """Features of each record (None: not fresh, or a label) and the final states, stored between batches."""
    stored, lengths = b"", np.zeros(2, np.int32)
    out: list[list[float] | None] = []
    edges = sorted({0, len(stream), *(c for c in cuts or [] if c <= len(stream))})
    for begin, end in pairwise(edges):
        part = stream[begin:end]
        states = np.full((2, features.width), 7.7e77)  # what is not filled is found
        words = np.frombuffer(stored, np.uint64)
        words.flags.writeable = False
        fixed = features.width, features.spec.rings, features.sections, features.magic
        assert state.unpack(words, lengths, states.reshape(-1), *fixed)[0] < 0
        table = np.full((len(part), len(features.names)), np.nan)
        fresh = features.update(states, rows(features, part), table)
        words, lengths = features.pack(states)
        stored = words.tobytes()
        for e, ok, row in zip(part, fresh.tolist(), table.tolist(), strict=True):
            out.append(row if ok and e.known is None else None)
    return out, stored


def agree(names: tuple[str, ...], got: list[Any], wanted: list[Any]) -> None:
    """Fail with the name of the first feature that differs."""
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        assert (a is None) == (b is None), f"record {i}: suppressed by one only"
        for name, x, y in zip(names if a else (), a or (), b or (), strict=True):
            assert x == pytest.approx(y, rel=1e-8, abs=1e-8), f"record {i}: {name}"


ALL = compile_features(everything())


@settings(max_examples=150, deadline=None)
@given(streams())
def test_every_fold_equals_its_naive_twin(stream: list[Event]) -> None:
    """A feature that counts an event or label too many or too few, late, repeated or out of order, fails here."""
    twin = Twin(everything())
    agree(ALL.names, run(ALL, stream)[0], [twin.put(e) for e in stream])


@settings(max_examples=60, deadline=None)
@given(streams(late=9), st.lists(st.integers(0, 90), max_size=8))
def test_batches_do_not_matter(stream: list[Event], cuts: list[int]) -> None:
    """A feature or state that depends on where a batch ended would differ after a crash and replay."""
    for features in (ALL, compile_features(everything(ring=5, labels=3, ids=4))):
        whole, split = run(features, stream), run(features, stream, cuts)
        assert repr(whole) == repr(split)


@settings(max_examples=60, deadline=None)
@given(streams(), st.randoms(use_true_random=False))
def test_order_of_labels_does_not_matter(stream: list[Event], random: Any) -> None:
    """Features that depend on how far ahead outcomes were read would differ between a backfill and live."""
    events = [e for e in stream if e.known is None]
    labels = list({e.id: e for e in stream if e.known is not None}.values())
    results = []
    for _ in range(2):
        order = events.copy()
        for label in random.sample(labels, len(labels)):
            assert label.known is not None
            later = [i for i, e in enumerate(order) if e.known is None and e.at > label.known]
            order.insert(random.randint(0, min(later, default=len(order))), label)
        results.append(repr([row for row in run(ALL, order)[0] if row]))
    assert results[0] == results[1]


@settings(max_examples=40, deadline=None)
@given(streams(late=1))
def test_no_event_knows_a_label_of_its_own_time_or_later(stream: list[Event]) -> None:
    """A label read ahead of its time that moves a feature is a leak."""
    events = [e for e in stream if e.known is None]
    end = max((e.at for e in events), default=START)
    labels = [dataclasses.replace(e, known=end, of=True) for e in events]
    small = compile_features(everything(labels=2))
    for features in (ALL, small):
        assert repr([r for r in run(features, labels + events)[0] if r]) == repr(
            [r for r in run(features, events)[0] if r]
        )


@settings(max_examples=80, deadline=None)
@given(streams(size=60, late=1))
def test_overflow_counts_whole_panes(stream: list[Event]) -> None:
    """Where the ring is too small a window may be wider by a pane at each end, never narrower, never more."""
    declared = by(
        "card", count("6h", "1d", "7d"), count("2d", delay="1d"), max_("amount", "7d"), ring=4, ids=64, lateness="1d"
    )  # all ids: a repeat that is no longer known as one would be later than the declared lateness
    features = compile_features(declared)
    kept: dict[int, list[Event]] = {0: [], 1: []}
    events = [e for e in stream if e.known is None]
    for e, row in zip(events, run(features, events)[0], strict=True):
        if row is None:
            continue
        kept[e.key].append(e)
        latest = sorted(kept[e.key], key=lambda o: o.at)[-4:]
        left = max((o.at for o in kept[e.key] if o not in latest), default=-math.inf)
        spans = [(a, span) for a in declared.aggregates[:2] for span in a.spans]
        for (a, span), value in zip(spans, row, strict=False):
            length = duration(span)
            pane = max(length / 12, (length + a.delay + DAY) / 60)
            least = len(window(kept[e.key], a, span, e.at))
            most = len(window(kept[e.key], a, span, e.at, pane))
            assert least <= value <= most
            if left <= e.at - a.delay - length:
                assert value == least


def test_sketches_hold_their_errors_when_the_ring_overflows() -> None:
    """Distinct and quantile of a busy key drift away if panes are merged wrongly."""
    declared = by("card", distinct("place", "7d"), quantile("amount", 0.9, "7d"), std("amount", "7d"), ring=8)
    rng = np.random.default_rng(5)
    amounts = rng.lognormal(3, 1, 3000)
    stream = [Event(0, i, START + i * 120_000, {"amount": amounts[i], "place": float(i % 500)}) for i in range(3000)]
    row = run(compile_features(declared), stream)[0][-1]
    assert row is not None
    assert row[0] == pytest.approx(500, rel=0.25)
    assert (amounts < row[1]).mean() == pytest.approx(0.9, abs=0.03)
    assert row[2] == pytest.approx(amounts.std(ddof=1), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(streams(), streams())
def test_stored_state_survives_a_change_of_features(first: list[Event], second: list[Event]) -> None:
    """State that is misread after a feature was added or removed gives wrong features for a month."""
    old = compile_features(by("card", count("1d"), mean("amount", "7d"), label_since(), lateness="2d"))
    both = by(
        "card",
        count("1d", "7d"),
        label_smoothed(),
        mean("amount", "7d"),
        since(),
        label_since(),
        lateness="2d",
    )
    new = compile_features(both)
    always = compile_features(by("card", mean("amount", "7d"), label_since(), since(), lateness="2d"))
    later = [dataclasses.replace(e, id=e.id + 1000) for e in second]
    states = old.zero(2)
    old.update(states, rows(old, first), np.empty((len(first), len(old.names))))
    words, lengths = old.pack(states)
    moved = new.unpack(words.tobytes(), lengths)
    got = np.zeros((len(later), len(new.names)))
    new.update(moved, rows(new, later), got)
    wanted = np.zeros((len(later), len(always.names)))
    kept = always.zero(2)
    always.update(kept, rows(always, first), np.empty((len(first), len(always.names))))
    always.update(kept, rows(always, later), wanted)
    for name in always.names:
        assert got[:, new.names.index(name)].tolist() == wanted[:, always.names.index(name)].tolist(), name
    words, lengths = new.pack(moved)
    again = new.pack(new.unpack(words.tobytes(), lengths))
    assert again[0].tobytes() == words.tobytes()


def test_a_smaller_ring_keeps_the_latest_events() -> None:
    """A ring declared smaller must not write over its neighbours."""
    big, small = (compile_features(by("card", count("30d"), since(), ring=n)) for n in (64, 4))
    stream = [Event(0, i, START + i * HOUR, {}) for i in range(20)]
    states = big.zero(2)
    big.update(states, rows(big, stream), np.empty((20, 2)))
    words, lengths = big.pack(states)
    moved = small.unpack(words.tobytes(), lengths)
    out = np.empty((1, 2))
    small.update(moved, rows(small, [Event(0, 99, START + 20 * HOUR, {})]), out)
    assert out.tolist() == [[5.0, pytest.approx(1 / 24)]]


@settings(max_examples=100, deadline=None)
@given(streams(size=8), st.data())
def test_damaged_and_foreign_states_are_refused(stream: list[Event], data: st.DataObject) -> None:
    """Bytes that are no state of this entity must stop the job with a message, not become features."""
    states = ALL.zero(2)
    ALL.update(states, rows(ALL, stream), np.empty((len(stream), len(ALL.names))))
    words, lengths = ALL.pack(states)
    stored = bytearray(words.tobytes())
    place = data.draw(st.integers(0, len(stored) - 1))
    stored[place] ^= data.draw(st.integers(1, 255))
    inside_layout = place % int(lengths[0]) < 4 or int(lengths[0]) <= place < int(lengths[0]) + 4
    if not inside_layout:
        with pytest.raises(MillraceError, match="state of card"):
            ALL.unpack(bytes(stored), lengths)
    other = compile_features(by("terminal", count("1d")))
    with pytest.raises(MillraceError, match="state of something else"):
        other.unpack(words.tobytes(), lengths)
    with pytest.raises(MillraceError, match="damaged"):
        ALL.unpack(words.tobytes()[:-8], lengths)


def test_one_compiled_kernel_serves_every_declaration() -> None:
    """A second compilation would cost each operator ten seconds at its start."""
    plain = compile_features(by("card", count("1d")), dedupe=False)
    for features in (ALL, plain):
        stream = [Event(0, 1, START, {"amount": 1.0, "place": 0.0})]
        arrays: tuple[NDArray[Any], ...] = rows(features, stream)
        frozen = Rows(*(np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for a in arrays))
        states = features.zero(1)
        out = np.empty((1, len(features.names)))
        assert features.update(states, frozen, out).tolist() == [True]
        assert features.update(states, frozen, out).tolist() == [features is plain]
        words, lengths = features.pack(states)
        features.unpack(memoryview(words.tobytes()), lengths)
    for kernel in (kernels.update, state.pack, state.unpack):
        assert len(getattr(kernel, "signatures")) == 1  # noqa: B009
