"""The anomaly detector: its kernels against naive twins, and what it promises of a sensor."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.anomaly import FLAGS, Detector
from operators.kernels import anomaly as A
from operators.kernels import anomaly_many as many
from operators.kernels import anomaly_one as one
from schemas.errors import DefinitionError
from tests.unit.operators import naive_anomaly as naive

Floats = NDArray[np.float64]

HOUR = 3_600_000
START = 1_704_067_200_000
SEEDS = st.integers(0, 2**32 - 1)


def fresh(values: int = 0) -> tuple[Floats, NDArray[np.float32]]:
    """State of one sensor, and the same memory as float32."""
    state = np.empty((1, Detector(values=values).words))
    Detector(values=values).zero(state)
    return state[0], state[0].view(np.float32)


def run(detector: Detector, states: Floats, columns: Floats, at: NDArray[np.int64], **given: object) -> Floats:
    """Rows of one sensor, or of those that slot names, through `step`."""
    k = len(at)
    arrays = {
        "slot": np.zeros(k, np.int32),
        "port": np.zeros(k, np.uint8),
        "label": np.zeros(k),
        "fresh": np.ones(k, bool),
        **given,
    }
    out = np.full((k, len(detector.names)), np.nan)
    detector.step(states, arrays["slot"], arrays["port"], at, arrays["label"], columns, arrays["fresh"], out)  # type: ignore[arg-type]
    return out


def once(values: Floats, at: NDArray[np.int64] | None = None, detector: Detector | None = None) -> dict[str, Floats]:
    """Columns told of a series of one value, hourly unless `at` is given, by a sensor never seen."""
    detector = detector or Detector()
    states = np.empty((1, detector.words))
    detector.zero(states)
    clock = START + HOUR * np.arange(len(values)) if at is None else at
    out = run(detector, states, values.reshape(len(values), -1), clock)
    return dict(zip(detector.names, out.T, strict=True))


def flagged(told: dict[str, Floats], name: str) -> list[int]:
    """Rows whose flags have `name`."""
    return np.flatnonzero(told["flags"].astype(int) >> FLAGS.index(name) & 1).tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), SEEDS, st.integers(1, 5), st.sampled_from([1000.0, 60_000.0, 300_000.0]))
def test_records_are_block_maxima(n: int, seed: int, gaps: int, cadence: float) -> None:
    """Bounds of what is usual are not those of the window."""
    draw = np.random.default_rng(seed)
    values = np.where(draw.random(n) < 0.1 * gaps, np.nan, draw.standard_normal(n).round(2))
    (s, g), room, raw = fresh(), np.zeros(8), np.full(A.SKETCHES, np.nan)
    s[A.CADENCE] = cadence
    for value in values:
        raw[3] = value
        A.keep(s, g, 0, math.nan, raw, room, A.SKETCHES)
    kept, length = naive.blocks(values.tolist(), cadence)
    assert s[A.LENGTH] == length
    bound, tail = naive.bound(kept, length)
    assert s[A.BOUND + 3] == pytest.approx(bound, nan_ok=True)
    assert tail != tail or s[A.TAIL + 3] == pytest.approx(tail, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(200, 5000), SEEDS, st.floats(0.5, 1.2))
def test_score_is_the_rank_among_block_maxima(n: int, seed: int, place: float) -> None:
    """A score is no p-value: one threshold means another rate of false alarms on each sensor."""
    scores = np.random.default_rng(seed).standard_normal(n)
    (s, g), room, raw = fresh(), np.zeros(8), np.full(A.SKETCHES, np.nan)
    s[A.CADENCE] = HOUR
    for score in scores:
        A.keep(s, g, 0, score, raw, room, A.SKETCHES)
    kept, length = naive.blocks([math.nan] * 33 + scores[33:].tolist(), HOUR)
    x = place * float(np.sort(scores)[-3])
    wanted, found = naive.p_value(kept, length, x), math.exp(-A.surprise(s, g, 0, x))
    if wanted == 1.0:
        assert found >= 0.6 / length
    elif max(kept) >= x:
        assert found == pytest.approx(wanted, rel=1e-5)
    else:
        assert found <= wanted * 1.05


@settings(max_examples=20, deadline=None)
@given(st.integers(6, 90), SEEDS)
def test_forecast_learns_by_least_squares(n: int, seed: int) -> None:
    """Forecast errors are those of other weights than the least squares of the readings before."""
    draw = np.random.default_rng(seed)
    values, expected = draw.standard_normal(n), draw.standard_normal(n)
    s, _ = fresh()
    s[one.VARIANCE] = 1.0
    inputs = np.array([[1.0, *values[i - 5 : i][::-1], expected[i]] for i in range(5, n)])
    for i in range(5, n):
        s[one.LAGS : one.LAGS + 5] = values[i - 5 : i][::-1]
        weights = naive.regression(inputs[: i - 5], values[5:i]) if i > 5 else np.zeros(7)
        error = one.forecast(s, 0, values[i], expected[i], np.zeros(7), np.zeros(7))
        assert error == pytest.approx(values[i] - inputs[i - 5] @ weights, rel=1e-6, abs=1e-7)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 800), SEEDS)
def test_half_spaces_count_the_generation_before(n: int, seed: int) -> None:
    """Trees tell crowded places from empty ones by other masses than those of the readings before."""
    points = np.random.default_rng(seed).random((n, one.SHINGLE)) ** 2
    s, _ = fresh()
    found = [one.half_spaces(s, s.view(np.uint8), 0, point) for point in points]
    assert found == pytest.approx(naive.emptiness(points), nan_ok=True)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 500), SEEDS, st.sampled_from([0, 1]))
def test_shapes_are_what_components_leave(n: int, seed: int, scale: int) -> None:
    """The distance of a sub-sequence from the usual ones is of another window or of other components."""
    values = np.random.default_rng(seed).standard_normal(n) + np.sin(np.arange(n) / 3)
    s, g = fresh()
    s[one.VARIANCE] = 4.0
    found = [one.shape(s, g, 0, scale, v, np.zeros(one.POINTS)) for v in values]
    assert found == pytest.approx(naive.shapes(values, one.SCALES[scale], 2.0), nan_ok=True, abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4 * HOUR), st.floats(-9, 9)), min_size=1, max_size=300))
def test_profiles_are_means_of_visits(steps: list[tuple[int, float]]) -> None:
    """The time of day, or of week, expects another value than it had on the days before."""
    s, g = fresh()
    at = np.cumsum([step for step, _ in steps]).tolist()
    for t, (_, value) in zip(at, steps, strict=True):
        one.learn_season(s, g, 0, float(t), value, math.nan, math.nan)
    values = [value for _, value in steps]
    for place, bins, width, rate, shift in ((one.DAY, 48, HOUR / 2, 0.3, 0), (one.WEEK, 84, 2 * HOUR, 0.4, 72)):
        wanted = naive.profile([t + shift * HOUR for t in at], values, width, bins, rate)
        found = {i: float(v) for i, v in enumerate(g[2 * place : 2 * place + bins]) if v == v}
        assert found == pytest.approx(wanted, abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 200), SEEDS, st.floats(0, 9))
def test_recent_shift_and_jump_are_those_of_the_last_readings(n: int, seed: int, change: float) -> None:
    """What a change is measured by is not what was usual of late."""
    draw = np.random.default_rng(seed)
    values = draw.standard_normal(n).round(1) + change * (np.arange(n) > n // 2)
    values[0], s = 0.0, np.zeros(4)
    found = [A.local(s, 0, float(i), v, values[i - 1] if i else math.nan) for i, v in enumerate(values.tolist())]
    assert np.array(found) == pytest.approx(np.array(naive.recent(values.tolist())), nan_ok=True)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 16), st.integers(1, 200), SEEDS)
def test_distance_is_that_of_the_covariance(n: int, k: int, seed: int) -> None:
    """Several values are told apart by a matrix that is not the inverse covariance of what was seen."""
    draw = np.random.default_rng(seed)
    rows = draw.standard_normal((k, n)) @ draw.standard_normal((n, n))
    detector, found = Detector(values=16), []
    s = detector._zero[1].copy()
    s[many.WEIGHT] = 1.0
    for row in rows:
        found.append(many.distance(s, 0, many.LEVELS, n, row.copy(), np.zeros(32)))
        s[many.SEEN] += 1.0
        s[many.WEIGHT] = many.KEEP * s[many.WEIGHT] + 1.0
    assert found == pytest.approx(naive.distances(rows), rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.lists(st.integers(0, 600), max_size=4), st.sampled_from([0, 16]))
def test_batches_and_stored_states_change_nothing(seed: int, cuts: list[int], values: int) -> None:
    """A decision depends on how a stream was cut into batches, or is lost when a state is stored."""
    draw, detector, k = np.random.default_rng(seed), Detector(values=values), 600
    columns = draw.standard_normal((k, len(detector.inputs)))
    columns[:, -1] = columns[:, -1] if not values else draw.choice([0, 3, 16], k, p=[0.5, 0.49, 0.01])
    columns[draw.random(columns.shape) < 0.01] = np.nan
    columns[:, -1] = np.nan_to_num(columns[:, -1])
    at = START + np.cumsum(draw.choice([HOUR, 0, -HOUR, 40 * HOUR], k, p=[0.94, 0.02, 0.02, 0.02]))
    slot = draw.integers(0, 3, k).astype(np.int32)
    port = (draw.random(k) < 0.02).astype(np.uint8)
    rows = {"slot": slot, "port": port, "label": (draw.random(k) < 0.5) * 1.0, "fresh": draw.random(k) < 0.98}
    states = np.empty((3, detector.words))
    detector.zero(states)
    whole = run(detector, states, columns, at, **rows)
    again = np.empty((3, detector.words))
    detector.zero(again)
    parts, edges = [], [0, *sorted(cuts), k]
    for begin, end in pairwise(edges):
        again = np.frombuffer(again.tobytes()).reshape(3, -1).copy()
        part = {name: row[begin:end] for name, row in rows.items()}
        parts.append(run(detector, again, columns[begin:end], at[begin:end], **part))
    assert np.array_equal(np.concatenate(parts), whole)
    assert states.tobytes() == again.tobytes()


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12),
    st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=5),
    st.sampled_from([0, 2]),
)
def test_any_reading_gets_a_finite_decision(values: list[float], steps: list[int], several: int) -> None:
    """Some value or time that JSON can hold makes a score that JSON can't."""
    draw = np.random.default_rng(0)
    detector = Detector(values=several)
    column = np.concatenate([draw.choice(values, 400), draw.standard_normal(100), draw.choice(values, 100)])
    columns = np.stack([column, column, column[::-1], np.full(600, 2.0)], axis=1) if several else column[:, None]
    at = np.maximum(START + np.cumsum(draw.choice(steps, 600)), 0)
    states = np.empty((1, detector.words))
    detector.zero(states)
    out = run(detector, states, np.ascontiguousarray(columns), at)
    assert np.isfinite(out).all()
    assert ((out[:, 0] >= 0) & (out[:, 0] <= 1)).all()


def test_new_sensor_warms_without_alarm() -> None:
    """A new sensor alarms before anything is known of it, or never begins to."""
    values = np.random.default_rng(1).standard_normal(400)
    values[[60, 300]] = 50.0
    told = once(values)
    assert told["state"].tolist() == [1.0] * 128 + [0.0] * 272
    assert not told["score"][:128].any()
    assert np.flatnonzero(told["alarm"]).tolist() == [300]


def test_what_never_changed_alarms_when_it_does() -> None:
    """A sensor that always reads the same alarms as often as the budget allows, or its first change goes unnoticed."""
    values = np.full(3000, 7.5)
    values[2500] = 7.6
    assert np.flatnonzero(once(values)["alarm"][:2501]).tolist() == [2500]


def test_repeats_after_an_alarm_are_damped() -> None:
    """An excursion of many readings makes as many alarms."""
    values = np.random.default_rng(2).standard_normal(1500)
    values[1000:1030] += 12.0
    told = once(values)
    assert told["alarm"][1000:1100].sum() <= 2
    assert told["alarm"][1000] == 1
    assert set(flagged(told, "repeat")) & set(range(1001, 1030))


def test_second_change_is_seen_soon_after_the_first() -> None:
    """The greater change hides the next, by damping or as the new norm."""
    values = np.random.default_rng(2).standard_normal(1500)
    values[1000:1030] += 12.0
    values[1100:] -= 10.0
    told = once(values)
    assert told["score"][[1000, 1100]].min() > 0.999
    assert told["alarm"][[1000, 1100]].all()


def usual(n: int) -> tuple[Floats, NDArray[np.int64]]:
    """A day's wave with noise, every five minutes, and its clock."""
    values = 20 + 5 * np.sin(np.arange(n) / 288 * 2 * np.pi) + np.random.default_rng(2).normal(0, 0.3, n)
    return values, START + HOUR // 12 * np.arange(n)


@pytest.mark.parametrize("after", [5, 20, 40, 60])
@pytest.mark.parametrize("failure", ["dead", "step", "stuck"])
def test_what_fails_soon_after_an_alarm_is_told_of(after: int, failure: str) -> None:
    """A sensor that dies, or hangs, within hours of a lesser alarm is never reported, however long it lasts."""
    values, at = usual(4000)
    values[3300] += 4.0
    values[3300 + after :] = {"dead": 0.0, "step": values[3300 + after :] + 500, "stuck": values[3300 + after]}[failure]
    alarms = np.flatnonzero(once(values, at)["alarm"][3300:])
    assert 0 in alarms
    first = alarms[alarms >= after][0]
    assert first <= (160 if failure == "stuck" else after)
    assert len(alarms) <= 4


def test_a_calm_values_jump_is_not_hidden_by_a_wild_one() -> None:
    """What is usual of the wildest value is taken to be usual of all."""
    draw, n = np.random.default_rng(5), 1500
    wild, calm = draw.standard_normal(n), 10.0 + 0.01 * draw.standard_normal(n)
    wild[::20] += 40.0 * draw.standard_normal(n // 20)
    calm[1207] += 0.25
    columns = np.stack([np.full(n, math.nan), wild, calm, np.full(n, 2.0)], axis=1)
    detector, state = Detector(values=2), np.empty((1, Detector(values=2).words))
    detector.zero(state)
    out = run(detector, state, columns, START + HOUR * np.arange(n))[1207]
    told = dict(zip(detector.names, out.tolist(), strict=True))
    assert told["jump"] > 0.0
    assert told["value_1"] > told["value_0"]


@pytest.mark.parametrize("beside", [0, 600])
def test_a_set_point_hides_no_value_that_is_stuck(beside: int) -> None:
    """A value that never changes, or seldom, beside the others makes it usual that one hangs."""
    noise = np.random.default_rng(4).standard_normal(2500).tolist()
    rows = [{0: v, 1: float(i // beside if beside else 5)} for i, v in enumerate(noise)]
    for row in rows[2000:]:
        row[0] = rows[2000][0]
    told, _ = named(rows)
    assert set(flagged(told, "stuck")) >= set(range(2005, 2100))
    assert told["alarm"][2000:2100].any()


def test_what_is_wrong_with_a_reading_is_named() -> None:
    """Gaps, duplicates, late, missing and stuck readings go unnoticed, or stop the sensor."""
    values = np.random.default_rng(3).standard_normal(1000)
    at = START + HOUR * np.arange(1000)
    at[500:] += 30 * HOUR
    at[600], at[700] = at[599], at[600] - 50 * HOUR
    values[800], values[900:950] = np.nan, values[900]
    told = once(values, at)
    assert flagged(told, "gap") == [500]
    assert flagged(told, "duplicate") == [600]
    assert flagged(told, "late") == [700]
    assert flagged(told, "missing") == [800]
    assert told["state"][800] == 2
    assert set(flagged(told, "stuck")) >= set(range(920, 950))
    assert told["alarm"][900:950].any()


def test_one_time_far_ahead_is_survived() -> None:
    """One wrong clock disables a sensor until time has caught up; or a few late readings turn its clock back."""
    values, at = usual(4000)
    at[1000] += 30 * 24 * HOUR
    at[3000:3015] -= 10 * HOUR
    values[3500] += 10.0
    told = once(values, at)
    assert flagged(told, "late") == [*range(1001, 1016), *range(3000, 3015)]
    assert flagged(told, "gap") == [1000, 1016, 3015]
    assert told["alarm"][3500]


def test_change_of_unit_is_named_and_learned_anew() -> None:
    """A sensor that begins to publish in another unit alarms for ever, or is compared with the old."""
    values = 20.0 + np.random.default_rng(4).standard_normal(2000)
    values[1000:] *= 1000.0
    told = once(values)
    assert told["alarm"][1000] == 1
    assert 1000 < flagged(told, "scale")[0] < 1050
    assert told["alarm"][1001:].sum() <= 8
    assert told["state"][-1] == 0


@pytest.mark.parametrize("alarms", ["1/7d", "1/2d"])
def test_budget_of_alarms_is_kept_on_quiet_sensors(alarms: str) -> None:
    """Quiet sensors alarm a fifth more, or less, often than declared."""
    draw, sensors, k = np.random.default_rng(5), 60, 3000
    noise = np.concatenate([draw.standard_normal((30, k)), draw.standard_t(3, (30, k))])
    at = START + HOUR // 3 * np.arange(k)
    count = sum(once(row, at, Detector(alarms=alarms))["alarm"].sum() for row in noise)
    days = sensors * (k - 128) / 72
    assert count / days == pytest.approx(1 / int(alarms[2]), rel=0.2)


@pytest.mark.parametrize("kind", ["office", "nightly", "uptime", "noise"])
def test_budget_of_alarms_is_kept_where_readings_are_many(kind: str) -> None:
    """What comes every day, or a counter that only rises, alarms each time on a sensor that reads often."""
    seconds, weeks = {"nightly": 20, "noise": 30}.get(kind, 60), 4
    i = np.arange(weeks * 7 * 86_400 // seconds)
    hours = i * seconds / 3600 % 168
    open_, runs = (hours < 120) & (hours % 24 >= 8) & (hours % 24 < 18), hours % 24 // (1 / 6) == 18
    noise = np.random.default_rng(8).standard_normal(len(i))
    values = {"office": 100.0 * open_ + noise, "nightly": 60.0 * runs + noise, "uptime": 1.0 * seconds * i}
    values["noise"] = np.where(open_, noise, 0.2 * noise)
    told = once(values[kind], START + 1000 * seconds * i)
    assert len(flagged(told, "scale")) <= (kind == "noise")
    assert told["alarm"].sum() <= weeks + 4


def test_a_sensor_that_reads_less_often_remembers_no_longer_for_it() -> None:
    """A sensor that once read every second knows of the years since as one block."""
    draw, states = np.random.default_rng(8), np.empty((1, Detector().words))
    Detector().zero(states)
    at = START + np.cumsum(np.repeat([1000, HOUR], [40_000, 600]))
    run(Detector(), states, draw.standard_normal((len(at), 1)), at)
    assert states[0, A.LENGTH] == A.LONGEST


def test_verdicts_move_the_threshold() -> None:
    """What people say of alarms changes nothing, or the wrong way."""
    values = np.random.default_rng(6).standard_normal((300, 1))
    thresholds = []
    for label in (0.0, None, 1.0):
        states = np.empty((1, Detector().words))
        Detector().zero(states)
        run(Detector(), states, values, START + HOUR * np.arange(300))
        verdict = {"port": np.ones(1, np.uint8), "label": np.full(1, label)} if label is not None else {}
        late = START + HOUR * np.arange(300, 301)
        run(Detector(), states, values[:1], late, **verdict)
        thresholds.append(run(Detector(), states, values[1:2], late + HOUR)[0, 4])
    assert thresholds[0] > thresholds[1] > thresholds[2]


def named(rows: list[dict[int, float]]) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """What is told of readings of values by name, and of the same where names come as places, as in `once`."""
    detector, n = Detector(values=3), len(rows)
    columns = np.zeros((n, 8))
    columns[:, :4] = math.nan
    for out, row in zip(columns, rows, strict=True):
        m = min(len(row), 3)
        out[1 : 1 + m], out[5 : 5 + m], out[4] = list(row.values())[:3], list(row)[:3], len(row)
    return once(columns, detector=detector), once(np.ascontiguousarray(columns[:, :5]), detector=detector)


def test_values_are_known_by_name() -> None:
    """One absent value restarts its sensor, or the others are taken for it; other values are not told from them."""
    draw = np.random.default_rng(8)
    rows = [{7: v, 3: 100.0 + w} for v, w in draw.standard_normal((1500, 2)).tolist()]
    whole = named(rows)
    assert all(np.array_equal(whole[0][name], whole[1][name]) for name in whole[0])
    for i in range(50, 1500, 50):
        rows[i] = {3: rows[i][3]}
    rows[1225] = {3: 130.0, 7: 0.0}
    told, _ = named(rows)
    assert flagged(told, "missing") == list(range(50, 1500, 50))
    assert not flagged(told, "renamed")
    assert np.count_nonzero(told["state"]) == 128
    assert not told["alarm"][50::50].any()
    assert told["alarm"].sum() <= 10  # 57 days, one a week
    assert told["alarm"][1225] == 1
    assert told["value_0"][1225] > 1.0 > told["value_1"][1225]


def test_other_values_begin_anew() -> None:
    """Other names are scored by what was usual of the old; names that come apart restart their sensor for ever."""
    draw = np.random.default_rng(9)
    values = draw.standard_normal((900, 2)).tolist()
    told, _ = named([{1: v, 2: w} if i < 500 else {1: v, 9: w} for i, (v, w) in enumerate(values)])
    assert flagged(told, "renamed") == [500]
    assert np.flatnonzero(told["state"]).tolist() == [*range(128), *range(500, 628)]
    told, _ = named([{1: v} if i % 2 else {2: w} for i, (v, w) in enumerate(values)])
    assert flagged(told, "renamed") == [1]
    assert told["state"][200:].max() == 0
    told, _ = named([{1: v, 2: w, 3: v, 4: w} for v, w in values])
    assert flagged(told, "ignored") == list(range(900))
    assert not flagged(told, "renamed")


@pytest.mark.parametrize("wave", ["toggle", "sine"])
def test_what_is_foreseen_ever_better_is_no_change_of_unit(wave: str) -> None:
    """A sensor whose readings repeat exactly begins anew again and again, and is never scored for long."""
    i = np.arange(8000)
    told = once(np.sin(i / 50) if wave == "sine" else np.array([0.0, 0.0, 1.0, 1.0])[i % 4])
    assert not flagged(told, "scale")


def test_broken_relation_of_values_is_found_and_named() -> None:
    """Values that each look right but no longer fit one another pass, or the wrong one is blamed."""
    draw, detector = np.random.default_rng(7), Detector(values=4)
    common = np.sin(np.arange(1500) / 9) + draw.standard_normal(1500) * 0.3
    values = common[:, None] * [1.0, -3.0, 20.0] + draw.standard_normal((1500, 3)) * [0.05, 0.15, 1.0]
    values[1200:1240, 1] *= -1.0
    columns = np.column_stack([np.full(1500, np.nan), values, np.full(1500, np.nan), np.full(1500, 3.0)])
    told = once(columns, detector=detector)
    assert told["alarm"][1200:1240].any()
    row = 1200 + int(np.argmax(told["distance"][1200:1240]))
    assert np.argmax([told[f"value_{i}"][row] for i in range(4)]) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"alarms": "often"}, "alarms"), ({"alarms": "1/week"}, "alarms"), ({"values": 17}, "values"),
     ({"warming": 3}, "warming"), ({"damping": 1.5}, "damping")],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict[str, object], said: str) -> None:
    """A mistake in a declaration is found when readings come, not when it is written."""
    with pytest.raises(DefinitionError, match=said):
        Detector(**wrong)  # type: ignore[arg-type]
