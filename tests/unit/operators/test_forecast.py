"""Forecasts: kernels against their naive twins, and what a series gets to hear in all its troubles."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from operators.forecast import SAID, Floats, Forecaster
from operators.kernels import forecast_pool as pool
from operators.kernels import forecast_state as state
from operators.kernels.forecast_learn import middle
from schemas.errors import DefinitionError
from tests.unit.operators import naive_forecast as naive

HOUR = 3_600_000
HOURLY = Forecaster(24, every="1h", seasons=("1d", "1w"))
FOUND = Forecaster(24)


def feed(forecaster: Forecaster, values: Floats, at: object = None, states: Floats | None = None) -> Floats:
    """Output of one series."""
    n = len(values)
    if states is None:
        states = np.empty((1, forecaster.words))
        forecaster.zero(states)
    times = np.arange(n) * HOUR if at is None else np.asarray(at, np.int64)
    out = np.full((n, len(forecaster.names)), np.nan)
    forecaster.step(
        states, np.zeros(n, np.int32), np.zeros(n, np.uint8), times, np.zeros(n), np.asarray(values, float)[:, None],
        np.ones(n, bool), out,
    )  # fmt: skip
    return out


def daily(n: int, seed: int = 0, noise: float = 2.0) -> Floats:
    """Hourly values with a day and a week in them."""
    t = np.arange(n)
    wave = 100 + 20 * np.sin(2 * np.pi * t / 24) + 15 * (t // 24 % 7 < 5)
    return np.asarray(wave + np.random.default_rng(seed).normal(0, noise, n))


def part(out: Floats, forecaster: Forecaster, of: str) -> Floats:
    """The columns `of.1` … of all rows."""
    return out[:, [name.startswith(f"{of}.") for name in forecaster.names]][:, : forecaster.horizon]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 60), st.sampled_from([1.0, 0.99, 0.9]))
def test_least_squares_are_the_ridge_solution(seed: int, k: int, n: int, keep: float) -> None:
    """If this fails, the recursion drifts from the regression that it stands for."""
    random = np.random.default_rng(seed)
    terms, values = random.normal(size=(n, k)), random.normal(size=n)
    a = np.zeros(state.rls_words(k) + 3, np.float32)
    pool.least_zero(a, 3, k, 2.0)
    room = np.zeros((3, k), np.float32)
    for x, y in zip(terms, values, strict=True):
        room[0] = x
        pool.least_learn(a, 3, k, room, y, keep)
    np.testing.assert_allclose(a[3 : 3 + k], naive.least(terms, values, keep, 2.0), rtol=2e-3, atol=2e-3)


def test_least_squares_stay_sound_on_the_same_terms_for_ever() -> None:
    """If this fails, a constant series blows the variances up, and the next change the coefficients."""
    a = np.zeros(state.rls_words(4), np.float32)
    pool.least_zero(a, 0, 4, 1.0)
    room = np.zeros((3, 4), np.float32)
    for i in range(50_000):
        room[0] = (1.0, 2.0, 2.0, 2.0) if i < 49_990 else (1.0, 5.0, 2.0, 2.0)
        pool.least_learn(a, 0, 4, room, 1.0, 0.99)
    assert np.isfinite(a).all()
    assert (a[4:8] >= 0.0).all()
    assert (a[4:8] <= pool.CEILING).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 20), min_size=1, max_size=6, unique=True), st.integers(1, 30))
def test_steps_ahead_are_those_of_the_recursion(seed: int, lags: list[int], h: int) -> None:
    """If this fails, forecasts beyond the shortest lag read a wrong past."""
    random, lags = np.random.default_rng(seed), sorted(lags)
    coefficients, past = random.normal(size=1 + len(lags)).astype(np.float32), random.normal(size=20)
    path = np.concatenate([past[20 - lags[-1] :], np.empty(h)])
    pool.least_ahead(coefficients, 0, np.array(lags), path, lags[-1], h, -3.0, 3.0)
    expected = naive.ahead(coefficients.astype(float), lags, list(past), h, -3.0, 3.0)
    np.testing.assert_allclose(path[lags[-1] :], expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 6), st.integers(0, 9), st.lists(st.booleans(), min_size=5, max_size=60))
def test_smoothing_is_its_definition(seed: int, s1: int, s2: int, there: list[bool]) -> None:
    """If this fails, levels, trends or seasons are not those of the model named."""
    shapes = [(level, 0.1, 0.9, 0.2, 0.1, 0.5, 1.0) for level in (0.3, 0.1, 0.4, 0.2)]
    twins = [naive.Smoothing(shape[:6], s1, s2) for shape in shapes]
    m, f = np.array(shapes, np.float32).T.copy(), np.zeros(4 * (state.MEMBER + s1 + s2) + 2, np.float32)
    values, none = np.random.default_rng(seed).normal(size=(len(there), 2)), np.zeros(4, np.float32)
    picks, weights = np.array([1, 3]), np.array([0.25, 0.75])
    for t, ((z, y), known) in enumerate(zip(values, there, strict=True)):
        pool.smooth_learn(f, 2, m, (s1, s2), t, z if known else np.nan, y, none)
        for k, twin in enumerate(twins):
            twin.learn(t, None if not known else z if k < 2 else y)
    out = np.zeros(12)
    pool.smooth_ahead(f, 2, m, (s1, s2), len(there), picks, weights, out)
    expected = 0.25 * np.array(twins[1].ahead(len(there), 12)) + 0.75 * np.array(twins[3].ahead(len(there), 12))
    np.testing.assert_allclose(out, expected, atol=1e-4)
    assert not none.any()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 100.0), min_size=2, max_size=2 * 36), st.sampled_from([1.0, 30.0, 1e6]))
def test_weights_are_the_posterior(errors: list[float], seen: float) -> None:
    """If this fails, a smoothing that errs more outweighs one that errs less."""
    n = state.MEMBERS
    f, picks, weights = np.ones(n * state.MEMBER, np.float32), np.zeros(n, np.int64), np.zeros(n)
    f[3 * n : 3 * n + len(errors)] = errors
    for log in range(2):
        found = np.zeros(n)
        count = pool.smooth_weights(f, 0, state.GRID, log, 12, seen, picks, weights)
        found[picks[:count]] = weights[:count]
        squares, count = f[3 * n :].astype(float), min(seen, pool.MEMORY)
        expected, fewer = (naive.posterior(squares, state.GRID, log, 12, count, 0.01 + d) for d in (-1e-6, 1e-6))
        assume(np.array_equal(expected > 0, fewer > 0))  # what is at the limit is in or out by rounding
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_errors_that_are_no_numbers_leave_one_member() -> None:
    """If this fails, a member is looked up where there is none, which crashes the task."""
    f, picks, weights = np.full(4 * state.MEMBERS, np.nan, np.float32), np.zeros(72, np.int64), np.zeros(72)
    assert pool.smooth_weights(f, 0, state.GRID, 1, 12, 50.0, picks, weights) == 1
    assert (picks[0], weights[0]) == (state.MEMBERS // 2, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=6))
def test_the_middle_of_six_is_their_median(values: list[float]) -> None:
    """If this fails, one wild expert moves the median."""
    assert middle(*values) == pytest.approx(np.median(values))


def test_figures_are_those_of_what_was_issued() -> None:
    """If this fails, the live figures flatter, or see the future."""
    x = daily(700)
    out = feed(HOURLY, x)
    shown = out[-1, -12:].reshape(3, 4)
    for k, (_, smape, _, coverage) in zip(HOURLY.judged, shown, strict=True):
        assert (smape, coverage) == pytest.approx(naive.figures(x, out, 24, k), abs=2e-3)


def test_the_future_changes_nothing() -> None:
    """If this fails, a forecast has seen what it forecasts."""
    x = daily(900)
    other = np.concatenate([x[:600], x[600:] * 3])
    np.testing.assert_array_equal(feed(HOURLY, x)[:600], feed(HOURLY, other)[:600])


def in_turns(forecaster: Forecaster, x: Floats, y: Floats, size: int) -> Floats:
    """Output of two series whose observations come in turns, `size` a batch."""
    states = np.empty((2, forecaster.words))
    forecaster.zero(states)
    rows, both = [], np.stack([x, y], axis=1).ravel()
    for begin in range(0, len(both), size):
        i = np.arange(begin, min(begin + size, len(both)))
        out = np.empty((len(i), len(forecaster.names)))
        forecaster.step(
            states, (i % 2).astype(np.int32), np.zeros(len(i), np.uint8), i // 2 * HOUR, np.zeros(len(i)),
            both[i][:, None], np.ones(len(i), bool), out,
        )  # fmt: skip
        rows.append(out)
    return np.concatenate(rows)


def test_batches_and_keys_do_not_matter() -> None:
    """If this fails, replay and cluster disagree."""
    x, y = daily(400), daily(400, seed=1)
    np.testing.assert_array_equal(in_turns(FOUND, x, y, 37)[::2], feed(FOUND, x))


PARTS = st.tuples(st.integers(1, 90), st.sampled_from((0.0, 5.0, 2e7, -999.0, 1e29)) | st.floats(-1e29, 1e29))


@pytest.mark.parametrize("forecaster", [HOURLY, FOUND, Forecaster(5, every="1h", seasons=())], ids=str)
@settings(max_examples=20, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=5), st.sampled_from((1, 37, 10_000)))
@example([(60, 0.0), (60, 2e7)], 1)
@example([(60, 0.0), (60, 1e29)], 10_000)
def test_no_series_is_lost_or_harms_another(forecaster: Forecaster, parts: list[tuple[int, float]], size: int) -> None:
    """If this fails, a meter that wakes up crashes the task, has no bounds any more, or spoils others of its batch."""
    wild = np.concatenate([x * (1 + np.arange(n) % 3 * 4) for n, x in parts])
    good = daily(len(wild))
    out = in_turns(forecaster, good, wild, size)
    np.testing.assert_array_equal(out[::2], feed(forecaster, good))
    np.testing.assert_array_equal(out[1::2], feed(forecaster, wild))
    assert np.isfinite(out).all()
    mean, lower, upper = (part(out, forecaster, of) for of in ("mean", "lower", "upper"))
    assert (lower <= mean).all()
    assert (mean <= upper).all()


def test_the_first_forecast_has_an_interval_at_each_step() -> None:
    """If this fails, steps too far ahead to have been scored are said to be certain."""
    for forecaster, values in ((FOUND, daily(49)), (Forecaster(48, every="1h", seasons=(7,)), daily(20))):
        out = feed(forecaster, values)
        assert out[-1, 1] == state.OK
        assert (part(out[-1:], forecaster, "upper") - part(out[-1:], forecaster, "lower") > 1.0).all()


def test_step_and_seasons_are_found() -> None:
    """If this fails, who declares nothing gets forecasts without the day and the week."""
    states = np.zeros((1, FOUND.words))
    out = feed(FOUND, daily(600), states=states)
    assert states[0, [state.STEP, state.S1, state.S2]].tolist() == [HOUR, 24, 168]
    assert out[-1, -12] < 0.8
    feed(FOUND, np.random.default_rng(0).normal(size=600), states=(states := np.zeros((1, FOUND.words))))
    assert states[0, state.S1] == 0


@pytest.mark.parametrize(("at", "outlier"), [(0, 1e9), (300, -999.0), (300, 1e12), (1500, 1e5)])
def test_one_outlier_is_got_over(at: int, outlier: float) -> None:
    """If this fails, one broken reading takes the day away for ever, or all that is small beside it."""
    x = daily(3000) + 1.7e9 * (at == 0)
    clean = x.copy()
    x[at] = outlier
    states = np.zeros((1, FOUND.words))
    out, expected = feed(FOUND, x, states=states), feed(FOUND, clean)
    assert states[0, [state.S1, state.S2]].tolist() == [24, 168]
    t = np.arange(2800, 2900)
    errors = [np.abs(part(rows, FOUND, "mean")[t, 0] - clean[t + 1]).mean() for rows in (out, expected)]
    assert errors[0] < 1.2 * errors[1]


@pytest.mark.parametrize("rise", [0.0, 3.0])
def test_a_meter_with_a_day_in_it_is_forecast_as_it_rises(rise: float) -> None:
    """If this fails, what only grows, as a meter does, is expected to be where it was a day ago."""
    n, h = 1200, 24
    t = np.arange(n)
    draw = np.random.default_rng(3)
    wave = np.sin(t / 24 * 2 * np.pi)
    values = rise * t + 5 * wave if rise else np.cumsum(np.maximum(0.0, 3 + 2.5 * wave + draw.normal(0, 0.3, n)))
    values += draw.normal(0, 0.5, n)
    mean = part(feed(FOUND, values), FOUND, "mean")
    origins = np.arange(300, n - h)
    error = np.abs(values[origins + h] - mean[origins, h - 1]).mean()
    risen = values[origins] + values[origins + h - 24] - values[origins - 24]
    assert error <= 1.4 * np.abs(values[origins + h] - risen).mean()


def test_what_only_rises_is_expected_to_go_on_rising() -> None:
    """If this fails, a counter is expected far below where it will be: those who repeat it are heard as much."""
    forecaster, h = Forecaster(60, every="1m"), 60
    values = np.cumsum(np.random.default_rng(3).exponential(1.0, 4000))
    mean = part(feed(forecaster, values, np.arange(4000) * 60_000), forecaster, "mean")
    origins = np.arange(1500, 4000 - h)
    error = values[origins + h] - mean[origins, h - 1]
    drift = values[origins + h] - values[origins] - (values[origins] - values[origins - 200]) / 200 * h
    assert np.abs(error).mean() < 1.3 * np.abs(drift).mean()


def test_intervals_cover_where_forecasts_are_few() -> None:
    """If this fails, intervals of a forecast a day are moved as if as many were waited for as of one an hour."""
    forecaster = Forecaster(48, level=0.9, every="1h", emit=24)
    values = np.random.default_rng(4).standard_normal((4, 6000)).cumsum(axis=1)
    hits = []
    for series in values:
        out = feed(forecaster, series)
        rows = np.flatnonzero(out[:-48, 0] == 1)[60:]
        low, high = (part(out, forecaster, of)[rows, 47] for of in ("lower", "upper"))
        hits.append((low <= series[rows + 48]) & (series[rows + 48] <= high))
    assert np.mean(hits) > 0.85


def test_a_season_is_remembered_over_a_long_horizon() -> None:
    """If this fails, the last season is charged the errors of another phase, as much later as the ring is long."""
    forecaster = Forecaster(300, seasons=(24,), every="1h")
    states = np.zeros((1, forecaster.words))
    feed(forecaster, daily(1500), states=states)
    begin = forecaster._plan["losses"][0]
    losses = states[0, begin : begin + state.EXPERTS * state.GROUPS].reshape(state.EXPERTS, state.GROUPS)
    assert (losses[state.NAIVE] < 2.0 * losses[state.SMOOTH]).all()


def test_months_are_steps_of_one_length() -> None:
    """If this fails, monthly series are put on a grid that their months miss."""
    at = (np.datetime64("2000-01", "M") + np.arange(120)).astype("datetime64[ms]").astype(np.int64)
    x = 100 + np.arange(120) + 20 * np.sin(np.arange(120) * np.pi / 6)
    out = feed(Forecaster(12), x, at)
    truth = 220 + np.arange(12) + 20 * np.sin(np.arange(12) * np.pi / 6)
    np.testing.assert_allclose(out[-1, 3:15], truth, atol=3.0)


def test_irregular_and_missing_observations() -> None:
    """If this fails, gaps or jitter shift the seasons."""
    random = np.random.default_rng(0)
    there = np.sort(random.choice(1500, 1300, replace=False))
    out = feed(HOURLY, daily(1500)[there], there * HOUR + random.integers(-600_000, 600_000, 1300))
    assert out[-1, -4] < 0.8
    assert 0.9 < out[-1, -1] < 0.99


@pytest.mark.parametrize("forecaster", [HOURLY, FOUND], ids=["declared", "found"])
def test_times_that_are_early_or_late_by_a_third_of_a_step(forecaster: Forecaster) -> None:
    """If this fails, a sensor with an unsteady clock gets a wrong step, or a grid that slips under its day."""
    at = np.arange(1200) * HOUR + np.random.default_rng(3).integers(-1_200_000, 1_200_000, 1200)
    states = np.zeros((1, forecaster.words))
    out = feed(forecaster, daily(1200), at, states)
    assert states[0, state.STEP] == HOUR
    assert 1190 <= states[0, state.COUNT] <= 1210
    assert out[-1, -4] < 0.8


def test_late_and_repeated_observations_change_nothing() -> None:
    """If this fails, a redelivered observation moves the series' clock."""
    x, at = daily(300), np.arange(300) * HOUR
    doubled, times = np.repeat(x, 2), np.repeat(at, 2)
    doubled[1::2] += 50
    np.testing.assert_array_equal(feed(HOURLY, doubled, times)[-1, 3:75], feed(HOURLY, x, at)[-1, 3:75])


@pytest.mark.parametrize("forecaster", [HOURLY, FOUND], ids=["declared", "found"])
@pytest.mark.parametrize(("wrong", "warms"), [([300], False), ([300, 301], True), ([0], True)], ids=str)
def test_a_wrong_time_is_got_over(forecaster: Forecaster, wrong: list[int], warms: bool) -> None:
    """If this fails, one time far ahead silences its series until then, or nobody hears why."""
    at = np.arange(400) * HOUR
    at[wrong] += 9000 * HOUR
    out = feed(forecaster, daily(400), at)
    codes = out[:, 1].astype(int)
    assert codes[399] == state.OK
    assert out[399, 2] == HOUR
    after = (state.BEHIND if forecaster is HOURLY else state.TIMES) if warms else state.OK
    assert (codes[wrong[-1] + 1 : wrong[-1] + 16] == after).all() or wrong == [0]
    assert codes[300] == (state.AHEAD if 300 in wrong else state.OK)


@pytest.mark.parametrize(("before", "first", "then"), [(9, 1, 600), (500, 60, 21_600), (9, 1, 300), (400, 3600, 300)])
def test_another_step_is_found(before: int, first: int, then: int) -> None:
    """If this fails, a series that begins at another pace than it keeps, or changes it, has no forecasts any more."""
    at = np.cumsum(np.where(np.arange(before + 600) < before, first, then)) * 1000
    out = feed(FOUND, daily(len(at)), at)
    assert out[-1, 1] == state.OK
    assert out[-1, 2] == then * 1000
    assert (out[-100:, 1] == state.OK).all()


def test_a_step_is_kept_where_much_is_missing_or_doubled() -> None:
    """If this fails, gaps, or several observations of one time, make a series begin anew."""
    there = np.flatnonzero(np.random.default_rng(1).random(3000) < 0.4)
    assert (feed(FOUND, daily(3000)[there], there * HOUR)[300:, 1] == state.OK).all()
    at = np.repeat(np.arange(400), 3) * HOUR + np.tile([0, 60_000, 120_000], 400)
    assert (feed(FOUND, np.repeat(daily(400), 3), at)[300:, 2] > 0).all()


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (np.full(400, 5.0), 5.0, 5.0),
        (np.zeros(400), 0.0, 0.0),
        (np.random.default_rng(0).poisson(0.2, 400), 0.0, 2.0),
        (-daily(400), -160.0, -60.0),
        (daily(400) + 1e9, 1e9, 1e9 + 200),
        (daily(400) * 1e-12, 0.0, 2e-10),
        (np.arange(400) % 100, -30.0, 130.0),
        (np.concatenate([np.full(200, 5.0), daily(200)]), 0.0, 200.0),
        (np.concatenate([daily(200), daily(200) * 1e5]), 0.0, 2e7),
        (np.concatenate([daily(300), np.zeros(100)]), 0.0, 160.0),
        (np.concatenate([daily(300), -daily(100)]), -230.0, 230.0),
    ],
    ids=["constant", "zero", "counts", "negative", "far", "tiny", "resets", "wakes", "scale", "dies", "turns"],
)
def test_odd_series_get_sensible_forecasts(values: Floats, low: float, high: float) -> None:
    """If this fails, a series that is not a smooth wave gets nonsense."""
    for forecaster in (HOURLY, FOUND):
        out = feed(forecaster, values)
        assert np.isfinite(out).all()
        mean, lower, upper = (part(out[-1:], forecaster, of) for of in ("mean", "lower", "upper"))
        assert (lower <= mean).all()
        assert (mean <= upper).all()
        assert low - 1e-6 * abs(low) <= mean.min()
        assert mean.max() <= high + 1e-6 * abs(high)


def test_what_cannot_be_forecast_says_so() -> None:
    """If this fails, silence or numbers stand where a reason belongs."""
    out = feed(HOURLY, daily(60))
    assert SAID[int(out[0, 1])][0] == "warming"
    assert not out[0, 3:75].any()
    assert SAID[int(out[-1, 1])] == ("ok", "")
    spoilt = daily(60)
    spoilt[59] = 1e40
    assert SAID[int(feed(HOURLY, spoilt)[-1, 1])][0] == "cannot"
    gap = np.arange(120) * HOUR
    gap[60:] += 1000 * HOUR
    out = feed(HOURLY, daily(120), gap)
    assert [SAID[int(out[i, 1])][0] for i in (59, 60, 61, 119)] == ["ok", "cannot", "warming", "ok"]
    assert "gap" in SAID[int(out[60, 1])][1]
    assert "gap" in SAID[int(out[61, 1])][1]
    assert "do not go on" in SAID[int(feed(FOUND, daily(20), np.zeros(20))[-1, 1])][1]


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize("shift", [0.0, 200.0])
def test_intervals_cover_what_they_say(level: float, shift: float) -> None:
    """If this fails, coverage leaves its level by more than 2 points over 1,000 steps, or stays away after a shift.

    The k forecasts made k steps ahead just before a shift of a hundred deviations cannot know it: they are left out.
    """
    forecaster = Forecaster(24, level=level, every="1h", seasons=("1d", "1w"))
    x = daily(2500)
    x[1200:] += shift
    out = feed(forecaster, x)
    for k in (1, 4, 24):
        t = np.arange(1200, 2500 - k)
        inside = (out[t, 26 + k] <= x[t + k]) & (x[t + k] <= out[t, 50 + k])
        rolling = np.convolve(inside, np.ones(1000) / 1000, "valid")
        assert np.abs(rolling - level).max() <= 0.02 + (0.001 * k if shift else 0.0)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_one_sided_bounds_hold_each(level: float) -> None:
    """If this fails, a one-sided bound has the width of a two-sided one, or is lost by a shift of level."""
    forecaster = Forecaster(12, level=level, sided="one", every="1h", seasons=("1d",))
    x = daily(3000)
    x[1500:] += 100.0
    out = feed(forecaster, x)
    t = np.arange(1300, 2988)
    for k in (1, 12):
        for inside in (x[t + k] <= out[t, 26 + k], x[t + k] >= out[t, 14 + k]):
            rolling = np.convolve(inside, np.ones(1000) / 1000, "valid")
            assert np.abs(rolling - level).max() <= 0.02 + 0.001 * k


def test_emits_every_so_many_and_skips_what_is_not_fresh() -> None:
    """If this fails, `emit` or the dedupe of ids is not heard."""
    forecaster = Forecaster(6, emit=4, every="1h", seasons=())
    assert feed(forecaster, daily(100))[:, 0].nonzero()[0].tolist() == list(range(3, 100, 4))
    states, n = np.zeros((1, forecaster.words)), 50
    out = np.ones((n, len(forecaster.names)))
    forecaster.step(
        states, np.zeros(n, np.int32), np.zeros(n, np.uint8), np.arange(n), np.zeros(n), np.ones((n, 1)),
        np.zeros(n, bool), out,
    )  # fmt: skip
    assert not states.any()
    assert not out.any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"horizon": 0},
        {"horizon": 1000},
        {"level": 1.5},
        {"emit": 0},
        {"sided": "three"},
        {"every": "soon"},
        {"seasons": ("1d",)},
        {"every": "1h", "seasons": ("90m",)},
        {"seasons": (12, 24, 48)},
        {"seasons": (12, 12)},
    ],
    ids=str,
)
def test_definitions_are_checked(wrong: dict[str, object]) -> None:
    """If this fails, a mistake is found in production instead of on its line."""
    with pytest.raises(DefinitionError, match="expected"):
        Forecaster(**{"horizon": 48, **wrong})  # type: ignore[arg-type]


def test_state_is_bounded_and_its_layout_named() -> None:
    """If this fails, a series' state outgrows what is stated, or is misread after a change."""
    assert 8 * Forecaster(48, every="1h", seasons=("1d", "1w")).words <= 13_500
    assert 8 * Forecaster(48).words <= 22_000
    assert len({f.fingerprint for f in (HOURLY, FOUND, Forecaster(24, level=0.9), Forecaster(25))}) == 4
