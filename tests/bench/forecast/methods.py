"""Forecasters under one protocol: ours, and those it is measured against, refitted as their users would.

Each takes the series of one data set and the origins of its forecasts (index of the first value not known) and answers
mean, lower and upper for each, f64[origins, horizon]; NaN where it gives no interval. statsforecast 2.1.1 is
used here only.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.forecast import Forecaster
from tests.bench.forecast.series import Series

Floats = NDArray[np.float64]
Answer = tuple[Floats, Floats, Floats]
Method = Callable[[list[Series], list[Floats]], list[Answer]]
LEVEL = 0.95
HOUR = 3_600_000


def filled(values: Floats, season: int) -> Floats:
    """Missing values as a season before; methods that know no missing values are given these."""
    filled = values.copy()
    for i in np.flatnonzero(np.isnan(values)):
        filled[i] = filled[i - season] if i >= season else filled[i - 1]
    return filled


def ours(found: list[Series], origins: list[Floats], level: float = LEVEL) -> list[Answer]:
    """Every observation before the last origin once, all series in one call, with a forecast at each."""
    forecaster = Forecaster(found[0].horizon, level, every="1h", seasons=tuple(n for n in found[0].seasons if n))
    there = [np.flatnonzero(~np.isnan(s.values[: last[-1]])) for s, last in zip(found, origins, strict=True)]
    slot = np.repeat(np.arange(len(found), dtype=np.int32), [len(t) for t in there])
    values = np.concatenate([s.values[t] for s, t in zip(found, there, strict=True)])
    n, h = len(slot), found[0].horizon
    states, out = np.zeros((len(found), forecaster.words)), np.empty((n, len(forecaster.names)))
    forecaster.step(
        states, slot, np.zeros(n, np.uint8), np.concatenate(there) * HOUR, np.zeros(n), values[:, None],
        np.ones(n, bool), out,
    )  # fmt: skip
    answers, begin = [], 0
    for t, last in zip(there, origins, strict=True):
        rows = out[begin + np.searchsorted(t, last) - 1, 3 : 3 + 3 * h].reshape(len(last), 3, h)
        answers.append((rows[:, 0], rows[:, 1], rows[:, 2]))
        begin += len(t)
    return answers


def each(one: Callable[[Series, Floats], Answer]) -> Method:
    """A method that takes one series at a time, for many."""
    return lambda found, origins: [one(s, o) for s, o in zip(found, origins, strict=True)]


def naive(which: int) -> Method:
    """The season before."""

    def forecast(s: Series, origins: Floats) -> Answer:
        season, q = s.seasons[which] or s.seasons[0], np.arange(s.horizon)
        mean = filled(s.values, s.seasons[0])[origins[:, None] + q - season * (q // season + 1)]
        return mean, mean * np.nan, mean * np.nan

    return each(forecast)


def batch(make: Callable[[Series], Any], history: int) -> Method:
    """Fitted to the last `history` rounds of the longer season, again each round; between fits, run forward."""

    def forecast(s: Series, origins: Floats) -> Answer:
        values = filled(s.values, s.seasons[0])
        answers, fitted = [], -np.inf
        span = history * (s.seasons[1] or len(values))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for origin in origins:
                past = values[max(0, origin - span) : origin]
                if origin - fitted >= (s.seasons[1] or np.inf) or fitted < 0:
                    model, fitted = make(s).fit(past), origin
                    said = model.predict(h=s.horizon, level=[95])
                else:
                    said = model.forward(y=past, h=s.horizon, level=[95])
                answers.append([np.asarray(said[k], float) for k in ("mean", "lo-95", "hi-95")])
        rows = np.array(answers)
        return rows[:, 0], rows[:, 1], rows[:, 2]

    return each(forecast)


def one_by_one(make: Callable[[Series], Any]) -> Method:
    """River's: learn each value, forecast at the origins."""

    def forecast(s: Series, origins: Floats) -> Answer:
        model, wanted, answers = make(s), set(origins.tolist()), []
        for i, x in enumerate(filled(s.values, s.seasons[0])):
            if i in wanted:
                answers.append(model.forecast(horizon=s.horizon))
            model.learn_one(x)
        mean = np.array(answers)
        return mean, mean * np.nan, mean * np.nan

    return each(forecast)


def methods(long: bool) -> dict[str, Method]:
    """Those compared on long series with two seasons, or on short ones with one."""
    from river import linear_model, optim, preprocessing, time_series
    from statsforecast.models import MSTL, AutoARIMA, AutoETS, AutoTheta

    small = {"max_p": 2, "max_q": 2, "max_P": 1, "max_Q": 1, "nmodels": 12}

    def snarimax(s: Series) -> Any:
        regressor = preprocessing.StandardScaler() | linear_model.LinearRegression(
            optimizer=optim.SGD(0.01), intercept_lr=0.1
        )
        return time_series.SNARIMAX(p=2, d=0, q=1, m=s.seasons[0], sp=2, sq=0, regressor=regressor)

    def arima(s: Series) -> Any:
        if not long:
            return AutoARIMA(season_length=s.seasons[0])
        return AutoARIMA(season_length=s.seasons[0], approximation=True, **small)

    river = {
        "SNARIMAX": one_by_one(snarimax),
        "HoltWinters": one_by_one(lambda s: time_series.HoltWinters(0.3, 0.1, 0.6, seasonality=s.seasons[0])),
    }
    found = {"ours": ours, "seasonal naive": naive(0)}
    if not long:
        return {
            **found,
            "ETS": batch(lambda s: AutoETS(s.seasons[0]), 1),
            "Theta": batch(lambda s: AutoTheta(s.seasons[0]), 1),
            "ARIMA": batch(arima, 1),
        }
    return {
        **found,
        "weekly naive": naive(1),
        "ETS": batch(lambda s: AutoETS(s.seasons[0]), 8),
        "ARIMA": batch(arima, 4),
        "STL + ETS": batch(lambda s: MSTL(list(s.seasons), trend_forecaster=AutoETS(model="ZZN")), 8),
        "STL + ARIMA": batch(
            lambda s: MSTL(list(s.seasons), trend_forecaster=AutoARIMA(approximation=True, **small)), 4
        ),
        **river,
    }
