"""Forecasts of each series from its own observations: what an author declares, and the arrays it works on.

A pool learns side by side in one pass: seasonal naive forecasts, as the season was and with its rise, exponential
smoothings and recursive least squares on lags, on values and on their logarithm. Each is charged the error of what it
said up to `horizon` steps before, once the truth is there; the mean of all, weighed by those losses, and their median
among them, is the forecast. Intervals follow its errors, horizon by horizon, so that they cover as often as `level`
says whatever happens.

An observation is placed on the series' grid of steps. Missing cells, up to the longest season, are filled in the
model and never judged; of observations less than half a step apart the first counts, and late ones are not
learnt. A time far ahead counts once another follows it, and where it was wrong, the series begins anew when as many
in a row as it has cells, and `PATIENCE`, are behind. A step that was found is found again then, and when for long most
observations skip cells or share one.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from operators.kernels import forecast as kernels
from operators.kernels import forecast_state as state
from schemas.errors import DefinitionError
from schemas.time import duration

Floats = NDArray[np.float64]

SAID = (
    ("warming", "too few observations yet"),
    ("ok", ""),
    ("warming", "begun anew after a gap longer than the longest season, or after wrong times"),
    ("warming", "times that do not go on: no step is known"),
    ("cannot", "the value is out of range (1e30)"),
    ("cannot", "older than what is known of the series: not learnt"),
    ("cannot", "ahead by a gap longer than the longest season: not learnt unless the next one is, too"),
)
"""Status and reason of each code in the column `status`."""

MOST = 512
LONGEST = 8192


@dataclass(frozen=True)
class Forecaster:
    """Forecasts `horizon` steps at every `emit`-th observation, with intervals of probability `level`.

    every: time between observations (the step), as "1h"; by default found from the first nine. seasons: at most two,
    as durations (with a step) or in steps, as ("1d", "1w") or (12,); by default found in the data among minute, hour,
    day, week and year, of at most `longest` steps; () for none. sided: "two" for an interval inside which a value
    lies with probability `level`, "one" where each bound alone holds with it. Raises DefinitionError.
    """

    horizon: int
    level: float = 0.95
    every: str | None = None
    seasons: tuple[str | int, ...] | None = None
    emit: int = 1
    sided: Literal["two", "one"] = "two"
    longest: int = 336

    def __post_init__(self) -> None:
        """Check what was declared."""
        where = "Forecaster"
        whole = (("horizon", self.horizon, MOST), ("emit", self.emit, 1 << 20), ("longest", self.longest, LONGEST))
        for setting, found, most in whole:
            if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= most:
                raise DefinitionError(
                    f"{where}: found {setting}={found!r}, expected a whole number from 1 to {most}; write for example"
                    f" {setting}=48"
                )
        if not isinstance(self.level, int | float) or not 0.5 <= self.level <= 0.99:
            raise DefinitionError(
                f"{where}: found level={self.level!r}, expected a probability from 0.5 to 0.99; write for example 0.95"
            )
        if self.sided not in ("two", "one"):
            raise DefinitionError(f"{where}: found sided={self.sided!r}, expected 'two' or 'one'; write one of them")
        _ = self._plan

    @property
    def names(self) -> tuple[str, ...]:
        """Columns written: emitted (0 or 1), status, step (ms), mean, lower and upper of each step, figures so far."""
        steps = [f"{of}.{k + 1}" for of in ("mean", "lower", "upper") for k in range(self.horizon)]
        figures = [f"{of}.{k}" for k in self.judged for of in ("mase", "smape", "pinball", "coverage")]
        return ("emitted", "status", "step", *steps, *figures)

    @property
    def judged(self) -> tuple[int, ...]:
        """Steps ahead whose prequential figures are written: 1, the middle, the last."""
        return state.judged(self.horizon)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Event fields that are read."""
        return ("value",)

    @property
    def words(self) -> int:
        """Float64 words of a series' state, fixed."""
        return int(self._plan["words"][0])

    @property
    def labelled(self) -> bool:
        """Whether outcomes are read: the truth is the later observations."""
        return False

    @property
    def fingerprint(self) -> str:
        """Changes whenever a stored state would be misread."""
        return hashlib.sha256(bytes(self._plan.tobytes()) + state.SETTINGS).hexdigest()[:16]

    def zero(self, states: Floats) -> None:
        """Make `states`, f64[u, words], those of series that nothing is known of."""
        states[:] = 0.0

    def step(
        self, states: Floats, slot: NDArray[np.int32], port: NDArray[np.uint8], at: NDArray[np.int64], label: Floats,
        columns: Floats, fresh: NDArray[np.bool_], out: Floats,
    ) -> None:  # fmt: skip
        """Learn k observations in order, and forecast to `out` f64[k, names] where one is due; see `track.Tracker`."""
        kernels.step(states, slot, at, columns, fresh, out, self._plan)

    @cached_property
    def _plan(self) -> NDArray[Any]:
        step = 0 if self.every is None else duration(self.every, "Forecaster every")
        seasons = None if self.seasons is None else self._steps(step)
        tail = (1.0 - self.level) / (2.0 if self.sided == "two" else 1.0)
        longest = self.longest if seasons is None else max(*seasons, 1)
        return state.plan(self.horizon, self.emit, seasons, float(step), (tail, tail), longest)

    def _steps(self, step: int) -> tuple[int, int]:
        """The declared seasons in steps, shorter first, 0 where there is none."""
        found = []
        for season in self.seasons or ():
            if isinstance(season, str) and step == 0:
                raise DefinitionError(
                    f"Forecaster: found season {season!r} but no step, expected both; add for example every='1h', or"
                    " write the season in steps"
                )
            length = duration(season, "Forecaster season") / step if isinstance(season, str) else season
            if not isinstance(length, int | float) or length != int(length) or not 2 <= length <= LONGEST:
                raise DefinitionError(
                    f"Forecaster: found season {season!r}, {length!r} steps, expected from 2 to {LONGEST} whole steps;"
                    " write for example seasons=('1d', '1w') with every='1h'"
                )
            found.append(int(length))
        if len(found) > 2 or len(set(found)) < len(found):
            raise DefinitionError(
                f"Forecaster: found seasons={self.seasons!r}, expected at most two different ones; remove one"
            )
        first, second = (*sorted(found), 0, 0)[:2]
        return first, second
