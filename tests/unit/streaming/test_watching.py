"""The watch over what a champion sees."""

import numpy as np
import pytest

from models.rules import drift
from streaming.watching import Watching

DAY = 86_400_000


@pytest.mark.parametrize("settle", [0, 30])
def test_labels_that_are_known_sooner_are_no_drift(settle: int) -> None:
    """Where frauds are known in days and the rest is presumed after a month, a stream that never changes drifts."""
    draw, days, n = np.random.default_rng(0), 70, 350_000
    at = np.sort(draw.integers(0, days * DAY, n))
    x = draw.normal(0, 1, n)
    score = 1 / (1 + np.exp(3.0 - 1.5 * x))
    labels = draw.random(n) < score
    known = np.where(labels, at + draw.integers(DAY, 5 * DAY, n), at + 30 * DAY)
    watching, found = Watching(drift(), ("x",), settle * DAY), []
    order = np.argsort(known, kind="stable")
    for rows in np.array_split(order[known[order] < days * DAY], 1000):
        ids = [str(row) for row in rows]
        found += watching.add(ids, x[rows, None], score[rows], labels[rows], at[rows], known[rows])
    assert bool(found) == (settle == 0)
