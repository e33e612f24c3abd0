"""Records of the forecast workload: observations of series, and what is said about the steps to come."""

from typing import Literal

from schemas.decisions import Decision
from schemas.records import Event, Identifier


class Observation(Event, frozen=True, gc=False):
    """One value of one series; the truth about a forecast is the later observations themselves."""

    series: Identifier
    value: float


class Forecast(Decision, frozen=True, gc=False, kw_only=True):
    """Mean and interval of each of the next steps, `step` ms apart; empty, with a reason, unless `status` is ok.

    `level` is the probability of the interval, in the units of the series; `reason` is empty where all is well. What
    was said of the cells seen so far, `judged` steps ahead, was off by `mase` and `smape`, lost `pinball` (scaled as
    MASE is), and its interval held a share `coverage`.
    """

    status: Literal["ok", "warming", "cannot"]
    step: int
    level: float
    mean: tuple[float, ...] = ()
    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()
    reason: str = ""
    judged: tuple[int, ...] = ()
    mase: tuple[float, ...] = ()
    smape: tuple[float, ...] = ()
    pinball: tuple[float, ...] = ()
    coverage: tuple[float, ...] = ()
