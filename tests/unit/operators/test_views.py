"""Which rows wait to be published, against a naive twin; no services."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.views import Pending, decimals

ROW = st.tuples(st.sampled_from("abcdefg"), st.integers(-3, 3))
STEP = st.one_of(st.lists(ROW, min_size=1, max_size=4), st.integers(0, 3))


class Naive:
    """The same by the book: an ordered dict, one row at a time."""

    def __init__(self, limit: int) -> None:
        self.limit, self.rows = limit, dict[str, tuple[int, float]]()

    def merge(self, batch: list[tuple[str, int, float]]) -> tuple[int, int]:
        """Take in a batch."""
        coming = {key for key, _, _ in batch}
        before = len(self.rows)
        excess = max(0, len(coming | set(self.rows)) - self.limit)
        while excess:
            oldest = next(iter(self.rows))
            row = self.rows.pop(oldest)
            if oldest in coming:
                self.rows[oldest] = row
            else:
                excess -= 1
        dropped = before - len(self.rows)
        fresh = len(coming - set(self.rows))
        for key, at, value in batch:
            if key not in self.rows or at >= self.rows[key][0]:
                self.rows[key] = at, value
        return len(batch) - fresh, dropped


@given(st.lists(STEP, max_size=30), st.integers(4, 7))
def test_pending_is_the_naive_twin(steps: list[list[tuple[str, int]] | int], limit: int) -> None:
    """If this fails, a view is published that is not its key's newest, or out of turn, or lost in silence."""
    pending, naive, serial = Pending(2, limit), Naive(limit), 0.0
    published = coalesced = dropped = taken = 0
    for step in steps:
        if isinstance(step, int):
            taken += min(step, len(pending))
            pending.discard(step)
            for key in list(naive.rows)[:step]:
                del naive.rows[key]
        else:
            batch = [(key, at, serial := serial + 1) for key, at in step]
            at = np.array([t for _, t, _ in batch], np.int64)
            values = np.array([(v, -v) for _, _, v in batch])
            counts = pending.merge([key for key, _, _ in batch], at, values)
            assert counts == naive.merge(batch)
            published, coalesced, dropped = published + len(batch), coalesced + counts[0], dropped + counts[1]
        keys, times, rows = pending.head(limit)
        assert keys == list(naive.rows)
        assert list(zip(times.tolist(), rows[:, 0].tolist(), strict=True)) == list(naive.rows.values())
        assert rows[:, 1].tolist() == [-v for _, v in naive.rows.values()]
        assert published == coalesced + dropped + taken + len(pending)


@given(st.lists(st.floats(), max_size=20))
def test_decimals_come_back_as_the_same_doubles(values: list[float]) -> None:
    """If this fails a reader of Redis sees another number than the one that was scored."""
    text = decimals(np.array(values, np.float64))
    back = [float(token) for token in text.split(",")] if values else []
    np.testing.assert_array_equal(np.array(back), np.array(values))
