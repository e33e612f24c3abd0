"""The labelled series that anomaly detectors are measured on: generated ones, and those of packages."""

import csv
import hashlib
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.bench.anomaly.protocol import Series

F64 = NDArray[np.float64]
STEP = 300_000
START = 1_704_067_200_000
DAY = 288
KINDS = (
    "spike", "dip", "level", "variance", "trend", "frequency", "season", "stuck", "shape", "collective",
)  # fmt: skip
BASES = ("load", "white", "autoregressive", "heavy", "counts", "pulses", "drift", "coarse")


def noise(rng: np.random.Generator, n: int, rho: float) -> F64:
    """Autoregressive noise of unit variance."""
    e, x = rng.standard_normal(n), np.empty(n)
    x[0] = e[0]
    for i in range(1, n):
        x[i] = rho * x[i - 1] + np.sqrt(1 - rho * rho) * e[i]
    return x


def daily(rng: np.random.Generator, n: int, weekly: bool) -> F64:
    """A smooth daily profile, quieter at weekends if `weekly`."""
    t = np.arange(n)
    a, b, p, q = rng.uniform(0.5, 1), rng.uniform(0.1, 0.5), rng.uniform(0, 6.28), rng.uniform(0, 6.28)
    profile = a * np.sin(2 * np.pi * t / DAY + p) + b * np.sin(4 * np.pi * t / DAY + q)
    weekend = (t // DAY) % 7 >= 5
    return profile * np.where(weekend & weekly, 0.5, 1.0) - 0.6 * (weekend & weekly)


def pulse(phase: F64) -> F64:
    """One beat a unit of phase: a small, a tall and a broad wave."""
    u = phase % 1.0
    return (
        0.2 * np.exp(-(((u - 0.2) / 0.03) ** 2))
        + np.exp(-(((u - 0.35) / 0.02) ** 2))
        - 0.25 * np.exp(-(((u - 0.4) / 0.02) ** 2))
        + 0.35 * np.exp(-(((u - 0.65) / 0.07) ** 2))
    )


def base(rng: np.random.Generator, name: str, n: int) -> tuple[F64, F64, F64, float]:
    """A quiet series of kind `name`: its regular part, the phase of that part, its noise, the noise's size."""
    t = np.arange(n, dtype=np.float64)
    if name == "load":
        regular, phase, size = daily(rng, n, True), t / DAY, rng.uniform(0.05, 0.15)
        error = noise(rng, n, 0.7)
    elif name == "white":
        regular, phase, size = np.zeros(n), t / DAY, 1.0
        error = rng.standard_normal(n)
    elif name == "autoregressive":
        regular, phase, size = np.zeros(n), t / DAY, 1.0
        error = noise(rng, n, rng.uniform(0.8, 0.97))
    elif name == "heavy":
        regular, phase, size = np.zeros(n), t / DAY, 1.0
        error = rng.standard_t(3, n)
    elif name == "counts":
        rate = np.exp(daily(rng, n, True)) * rng.uniform(3, 20)
        regular, phase, size = rate, t / DAY, float(np.sqrt(rate.mean()))
        error = (rng.poisson(rate) - rate) / size
    elif name == "pulses":
        phase = np.cumsum(1 / (rng.uniform(40, 120) * (1 + 0.01 * noise(rng, n, 0.9))))
        regular, size = pulse(phase), rng.uniform(0.01, 0.04)
        error = rng.standard_normal(n)
    elif name == "drift":
        walk = np.cumsum(rng.standard_normal(n)) * 0.01
        regular, phase, size = daily(rng, n, False) + walk, t / DAY, 0.05
        error = noise(rng, n, 0.5)
    else:
        regular, phase, size = daily(rng, n, True), t / DAY, 0.15
        error = noise(rng, n, 0.6)
    return regular, phase, error, size


def inject(rng: np.random.Generator, kind: str, parts: tuple[F64, F64, F64, float], at: int, length: int) -> F64:
    """The series with an anomaly of `kind` in [at, at + length)."""
    regular, _, error, size = parts
    regular, error = regular.copy(), error.copy()
    n, inside = len(regular), slice(at, at + length)
    span = float(np.quantile(regular + size * error, 0.99) - np.quantile(regular + size * error, 0.01))
    flat = float(np.ptp(regular)) < 1e-9
    sign = rng.choice([-1.0, 1.0])
    x = regular + size * error
    if kind in ("spike", "dip"):
        x[inside] += (1.0 if kind == "spike" else -1.0) * rng.uniform(0.6, 1.2) * span
    elif kind == "level":
        x[inside] += sign * rng.uniform(0.5, 0.8) * span
    elif kind == "variance":
        x[inside] += rng.uniform(2.0, 4.0) * size * error[inside]
    elif kind == "trend":
        x[inside] += sign * rng.uniform(0.8, 1.2) * span * np.linspace(0, 1, length)
    elif kind == "frequency":
        middle = np.arange(length, dtype=np.float64)
        if flat:
            x[inside] += 0.25 * span * np.sin(2 * np.pi * middle / rng.uniform(6, 12))
        else:
            warped = at + middle * 3.0
            x[inside] = regular[(warped % n).astype(int)] + size * error[inside]
    elif kind == "season":
        x[inside] = regular[inside].mean() + size * error[inside] if not flat else x[inside].mean()
    elif kind == "stuck":
        x[inside] = x[at]
    elif kind == "shape":
        x[inside] = (
            (2 * regular[inside].mean() - regular[inside][::-1] + size * error[inside])
            if not flat
            else (np.sort(x[inside]))
        )
    else:
        x[inside] += sign * np.where(np.arange(length) % 8 < 3, 0.45 * span, 0.0)
    return x


def generated(seed: int, each: int = 2, n: int = 6048) -> list[Series]:
    """`each` series of three weeks of five minutes for each kind of anomaly and each kind of quiet series."""
    out = []
    for i, kind in enumerate(KINDS):
        for j, name in enumerate(BASES):
            for k in range(each):
                rng = np.random.default_rng([seed, i, j, k])
                length = {"spike": 1, "dip": 2, "collective": 24, "stuck": 48}.get(kind, int(rng.uniform(72, 144)))
                at = int(rng.uniform(0.35, 0.85) * n)
                x = inject(rng, kind, base(rng, name, n), at, length)
                x = _published(rng, name, x)
                out.append(Series(f"{kind}/{name}/{k}", kind, _clock(n), x[:, None], ((at, at + length),)))
    return out


CHANGES = ("level", "variance", "slope", "walk", "mixed", "cycle")


def generated_changes(seed: int, values: bool, each: int = 6) -> list[Series]:
    """`each` short series with up to eight changes for each kind of change; of two to four values if `values`."""
    out = []
    for i, kind in enumerate(CHANGES):
        for k in range(each):
            rng = np.random.default_rng([seed, 55, i, k, values])
            lengths = rng.integers(30, 130, int(rng.integers(2, 10)))
            lengths[0] += 70
            n, c, begins = int(lengths.sum()), int(rng.integers(2, 5)) if values else 1, np.cumsum(lengths)[:-1]
            touched = rng.random((len(begins), c)) < 0.6
            touched[np.arange(len(begins)), rng.integers(0, c, len(begins))] = True
            common = noise(rng, n, 0.7)
            x = np.stack([_changing(rng, kind, begins[touched[:, j]], n, common) for j in range(c)], axis=1)
            x = x * 10 ** rng.uniform(-1, 3, c) + rng.uniform(-100, 100, c)
            out.append(Series(f"{kind}/{k}", kind, _clock(n), x, tuple((int(at), int(at) + 1) for at in begins)))
    return out


def _changing(rng: np.random.Generator, kind: str, begins: NDArray[np.int64], n: int, common: F64) -> F64:
    """A series that changes where a part begins, in level, loudness, slope or size of a cycle; or a random walk."""
    t = np.arange(n)
    part = np.searchsorted(begins, t, side="right")
    signs, count = rng.choice([-1.0, 1.0], (2, len(begins))), len(begins)
    level = np.concatenate(([0.0], np.cumsum(signs[0] * rng.uniform(2, 5, count))))[part]
    loud = np.exp(np.concatenate(([0.0], np.cumsum(signs[1] * rng.uniform(0.8, 1.6, count)))))[part]
    trend = np.cumsum((rng.standard_normal(count + 1) * rng.uniform(0.05, 0.2))[part])
    error = 0.8 * noise(rng, n, float(rng.choice([0.0, 0.4, 0.8]))) + 0.6 * common
    return {
        "level": level + error,
        "variance": loud * error,
        "slope": trend + 0.5 * error,
        "walk": np.cumsum(rng.standard_normal(n) * loud / 10) + 0.5 * level,
        "mixed": level + np.where(part % 2 == 1, 3.0, 1.0) * error,
        "cycle": (1 + 0.3 * abs(level)) * np.sin(2 * np.pi * t / rng.choice([12, 24])) + 0.2 * error + 0.3 * trend,
    }[kind]


VALUE_KINDS = ("one", "apart", "shift", "still", "loud")


def generated_values(seed: int, each: int = 4, n: int = 6048) -> list[Series]:
    """`each` series of five related values for each way in which they may go wrong."""
    out = []
    for i, kind in enumerate(VALUE_KINDS):
        for k in range(each):
            rng = np.random.default_rng([seed, 77, i, k])
            sources = np.stack([daily(rng, n, True) + noise(rng, n, 0.9), noise(rng, n, 0.95), noise(rng, n, 0.5)])
            x = rng.standard_normal((5, 3)) @ sources + 0.3 * np.stack([noise(rng, n, 0.3) for _ in range(5)])
            at, length, v = int(rng.uniform(0.35, 0.85) * n), int(rng.uniform(24, 96)), int(rng.integers(5))
            inside, deviation = slice(at, at + length), x.std(axis=1)
            if kind == "one":
                length = 1
                x[v, at] += rng.choice([-1.0, 1.0]) * rng.uniform(3, 4) * deviation[v]
            elif kind == "apart":
                x[v, inside] = x[v, at - 1000 : at - 1000 + length]
            elif kind == "shift":
                x[v, inside] += 2.0 * deviation[v]
                x[(v + 1) % 5, inside] -= 2.0 * deviation[(v + 1) % 5]
            elif kind == "still":
                x[v, inside] = x[v, at]
            else:
                x[v, inside] += rng.standard_normal(length) * deviation[v]
            x = x * 10 ** rng.uniform(-1, 3, (5, 1))
            out.append(Series(f"{kind}/{k}", kind, _clock(n), np.ascontiguousarray(x.T), ((at, at + length),)))
    return out


def quiet(seed: int, each: int = 8, n: int = 16_128) -> list[Series]:
    """Series of eight weeks without any anomaly."""
    out = []
    for j, name in enumerate(BASES):
        for k in range(each):
            rng = np.random.default_rng([seed, 99, j, k])
            regular, _, error, size = base(rng, name, n)
            out.append(
                Series(
                    f"quiet/{name}/{k}", "quiet", _clock(n), _published(rng, name, regular + size * error)[:, None], ()
                )
            )
    return out


def _clock(n: int) -> NDArray[np.int64]:
    return START + STEP * np.arange(n, dtype=np.int64)


def _published(rng: np.random.Generator, name: str, x: F64) -> F64:
    """`x` in some unit, as whole numbers where the kind of series is such."""
    if name == "counts":
        return np.maximum(np.round(x), 0.0)
    x = x * 10 ** rng.uniform(-1, 3) + rng.uniform(-100, 100)
    return np.round(x / np.ptp(x) * 100) if name == "coarse" else x


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package}: not installed; it is a dependency of the benchmark only")
    return Path(spec.submodule_search_locations[0])


def _column(path: Path, *names: str) -> F64:
    with path.open(newline="") as file:
        return np.array([[float(row[name]) for name in names] for row in csv.DictReader(file)])


def _runs(label: F64) -> tuple[tuple[int, int], ...]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0.0], (label > 0).astype(float), [0.0]))))
    return tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2))


def _agreed(annotations: dict[str, list[int]], margin: int = 5) -> tuple[tuple[int, int], ...]:
    """Change points that at least two people marked within `margin` of one another, the earliest mark of each."""
    marks = sorted({(place, person) for person, places in annotations.items() for place in places})
    found: list[tuple[int, int]] = []
    for place, person in marks:
        others = {p for q, p in marks if 0 <= q - place <= margin and p != person}
        if others and (not found or place > found[-1][0] + margin):
            found.append((place, place + 1))
    return tuple(found)


def held_out(one: Series) -> bool:
    """Whether a packaged series belongs to the half (by its name's hash) on which nothing was tuned."""
    return hashlib.sha256(one.name.encode()).digest()[0] % 2 == 1


def packaged() -> list[Series]:
    """One-dimensional labelled series that ship in packages."""
    data = _folder("aeon") / "datasets" / "data"
    out = []
    for name, file, value in (
        ("UCR 135", data / "KDD-TSAD_135" / "135_UCR_Anomaly_InternalBleeding16_TEST.csv", "value"),
        ("ecg test", data / "UnitTest" / "ecg-diff-count-3_TEST.csv", "value-0"),
        ("ecg train", data / "UnitTest" / "ecg-diff-count-3_TRAIN_A.csv", "value-0"),
        ("streamad", _folder("streamad") / "util" / "data" / "uniDS.csv", "value"),
    ):
        label = "label" if name == "streamad" else "is_anomaly"
        table = _column(file, value, label)
        out.append(Series(name, "packaged", _clock(len(table)), table[:, :1], _runs(table[:, 1])))
    return out + [
        _changes(*columns)
        for columns in (
            ("airline_passengers", ("Total Passengers",), 0, 1),
            ("apple", ("Close",), 0, 3),
            ("bitcoin", ("price",), 0, 1),
            ("brent_crude_oil", ("DPB",), 3200, 10),
            ("occupancy", ("V3",), 0, 1),
            ("run_log", ("Pace",), 0, 1),
        )
    ]


def packaged_values() -> list[Series]:
    """Labelled series of several values that ship in packages."""
    file = _folder("streamad") / "util" / "data" / "multiDS.csv"
    table = _column(file, "v1", "v2", "v3", "label")
    return [
        Series("streamad", "packaged", _clock(len(table)), table[:, :3], _runs(table[:, 3])),
        _changes("occupancy", ("V1", "V2", "V3", "V4"), 0, 1),
        _changes("run_log", ("Pace", "Distance"), 0, 1),
        _changes("apple", ("Close", "Volume"), 0, 3),
    ]


def _changes(name: str, columns: tuple[str, ...], begin: int, every: int) -> Series:
    """A change-point file of River, thinned as its annotators saw it."""
    from river.drift import datasets

    makers: dict[str, Callable[[], object]] = {
        "".join(re.findall(r"[a-z]", maker.lower())): getattr(datasets, maker) for maker in datasets.__all__
    }
    wanted = name.replace("_", "").replace("crudeoil", "spotprice")
    annotations = makers[wanted]().annotations  # type: ignore[attr-defined]
    values = _column(_folder("river") / "drift" / "datasets" / f"{name}.csv", *columns)[begin::every]
    return Series(name, "packaged", _clock(len(values)), values, _agreed(annotations))
