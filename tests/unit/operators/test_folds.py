"""The folds by themselves: adding one by one, in ranges, and merging parts must tell the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.kernels import folds
from operators.kernels import tables as T

VALUES = st.lists(st.floats(-1e6, 1e6), max_size=60)
OPS = (T.SUM, T.MEAN, T.VARIANCE, T.STD, T.MINIMUM, T.MAXIMUM)


def moments(values: list[float]) -> NDArray[np.float64]:
    """Moments of values added one by one."""
    a = np.zeros(folds.MOMENT_WORDS)
    for x in values:
        folds.moments_add(a, 0, x, folds.MOMENT_WORDS)
    return a


@settings(max_examples=100, deadline=None)
@given(VALUES, VALUES)
def test_moments_of_parts_are_those_of_the_whole(left: list[float], right: list[float]) -> None:
    """Panes, and windows that continue shorter ones, give wrong means and deviations."""
    merged, ranged = moments(left), np.zeros(folds.MOMENT_WORDS)
    folds.moments_merge(merged, 0, moments(right), 0, folds.MOMENT_WORDS)
    both = np.array(left + right)
    folds.moments_range(ranged, 0, both, 0, len(left), 1)
    folds.moments_range(ranged, 0, both, len(left), len(both), 1)
    spread = [both.var(ddof=1), both.std(ddof=1)] if len(both) > 1 else [0.0, 0.0]
    wanted = [both.sum(), both.mean(), *spread, both.min(), both.max()] if len(both) else [0.0] * 6
    for a in (merged, ranged, moments(left + right)):
        got = [folds.moments_value(a, 0, op) for op in OPS]
        assert got == pytest.approx(wanted, rel=1e-6, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.floats(allow_nan=False), max_size=80), st.sets(st.floats(allow_nan=False), max_size=80))
def test_registers_merge_as_the_union(left: set[float], right: set[float]) -> None:
    """Distinct values of two panes are counted twice, or lost."""
    parts = []
    for values in (left, right, left | right):
        a = np.zeros(folds.REGISTER_WORDS)
        for x in values:
            folds.registers_add(a, 0, x)
        parts.append(a)
    folds.registers_merge(parts[0], 0, parts[1], 0)
    assert parts[0][1:].tolist() == parts[2][1:].tolist()


@pytest.mark.parametrize("n", [10, 100, 1000, 100_000])
def test_registers_estimate_within_their_error(n: int) -> None:
    """The estimate of distinct values is off by more than three standard errors."""
    a = np.zeros(folds.REGISTER_WORDS)
    for x in range(n):
        folds.registers_add(a, 0, float(x))
    assert folds.registers_value(a, 0) == pytest.approx(n, rel=0.28)


@pytest.mark.parametrize("order", ["up", "down", "random"])
def test_digest_keeps_ranks(order: str) -> None:
    """A pane's quantile is off by more than an eighth in rank, whatever the order of values."""
    values = np.arange(5000.0)
    if order == "random":
        np.random.default_rng(3).shuffle(values)
    a = np.zeros(folds.DIGEST_WORDS)
    for x in values if order != "down" else values[::-1]:
        folds.digest_add(a, 0, x)
    room = np.zeros(200)
    n = folds.digest_merge(room, 0, 0, 100, 0, a)
    folds.sort_weighted(room, 0, n, 100)
    assert room[100 : 100 + n].sum() == 5000
    for q in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert folds.digest_value(room, 0, n, 100, q) == pytest.approx(5000 * q, abs=625)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.integers(1, 9)), min_size=1, max_size=99), st.floats(0, 1))
def test_sorting_carries_weights(pairs: list[tuple[float, int]], q: float) -> None:
    """Quantiles over panes mix up which centroid stands for how many values."""
    n = len(pairs)
    room = np.array([x for x, _ in pairs] + [w for _, w in pairs], np.float64)
    folds.sort_weighted(room, 0, n, n)
    assert sorted(pairs) == sorted(zip(room[:n].tolist(), room[n:].astype(int).tolist(), strict=True))
    assert room[:n].tolist() == sorted(x for x, _ in pairs)
    assert room[0] <= folds.digest_value(room, 0, n, n, q) <= room[n - 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=30))
def test_decay_does_not_mind_the_order(times: list[int]) -> None:
    """A label that is folded late moves a decayed count more or less than one in time."""
    a, b = np.zeros(3), np.zeros(3)
    for t in times:
        folds.decay_add(a, 0, float(t), 1e8)
    for t in sorted(times):
        folds.decay_add(b, 0, float(t), 1e8)
    assert a[2] == b[2] == max(times)
    assert a[1] == pytest.approx(b[1]) == pytest.approx(sum(2.0 ** (-(max(times) - t) / 1e8) for t in times))
