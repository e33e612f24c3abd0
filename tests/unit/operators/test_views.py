"""Which rows wait to be published, against a naive twin; no services."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.views import Pending, decimals

ROW = st.tuples(st.integers(0, 6), st.integers(-3, 3))
TAKE, FORGET = (st.tuples(st.just(what), st.integers(0, 6)) for what in ("take", "forget"))
STEP = st.one_of(st.lists(ROW, min_size=1, max_size=9), TAKE, FORGET)


class Naive:
    """The same by the book: an ordered dict of keys, one row at a time."""

    def __init__(self, limit: int) -> None:
        self.limit, self.rows = limit, dict[str, tuple[int, float]]()

    def merge(self, batch: list[tuple[str, int, float]]) -> tuple[int, int]:
        """Take in a batch."""
        coalesced = dropped = 0
        for key, at, value in batch:
            if key in self.rows:
                coalesced += 1
            elif len(self.rows) == self.limit:
                del self.rows[next(iter(self.rows))]
                dropped += 1
            if key not in self.rows or at >= self.rows[key][0]:
                self.rows[key] = at, value
        return coalesced, dropped

    def take(self, count: int) -> list[tuple[str, int, float]]:
        """The first few."""
        return [(key, *self.rows.pop(key)) for key in list(self.rows)[:count]]


@given(st.lists(STEP, max_size=30), st.integers(1, 7))
def test_pending_is_the_naive_twin(steps: list[list[tuple[int, int]] | tuple[str, int]], limit: int) -> None:
    """If this fails, a view is published that is not its key's newest, or another key's, or out of turn, or lost."""
    pending, naive, serial = Pending(2, limit), Naive(limit), 0.0
    published = coalesced = dropped = taken = 0
    owners = dict.fromkeys(range(7), 0)
    for step in [*steps, ("take", limit)]:
        if isinstance(step, list):
            batch = [(f"{row}-{owners[row]}", at, serial := serial + 1) for row, at in step]
            rows, at = np.array([row for row, _ in step], np.int32), np.array([t for _, t, _ in batch], np.int64)
            values = np.array([(v, -v) for _, _, v in batch])
            counts = pending.merge(rows, {row: f"{row}-{owner}" for row, owner in owners.items()}, at, values)
            assert counts == naive.merge(batch)
            published, coalesced, dropped = published + len(batch), coalesced + counts[0], dropped + counts[1]
        elif step[0] == "take":
            keys, times, found = pending.take(step[1])
            assert list(zip(keys, times.tolist(), found[:, 0].tolist(), strict=True)) == naive.take(step[1])
            assert (found[:, 1] == -found[:, 0]).all()
            taken += len(keys)
        else:
            owners[step[1]] += 1
            pending.forget(np.array([step[1]], np.int32))
        assert published == coalesced + dropped + taken + len(pending)


@given(st.lists(st.floats(), max_size=20))
def test_decimals_come_back_as_the_same_doubles(values: list[float]) -> None:
    """If this fails a reader of Redis sees another number than the one that was scored."""
    text = decimals(np.array(values, np.float64))
    back = [float(token) for token in text.split(",")] if values else []
    np.testing.assert_array_equal(np.array(back), np.array(values))
