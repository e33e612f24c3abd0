"""Forecasts: what will this series be in the next steps, and within which bounds?

Every series has a pool of models of its own, which learn from each observation (`operators.forecast`); the truth
about a forecast is the later observations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from models import native
from models.policy import Batch
from operators import track
from operators.forecast import SAID, Forecaster
from schemas.decisions import Decision
from schemas.forecast import Forecast, Observation
from schemas.time import duration
from streaming.workload import Workload

Status = Literal["ok", "warming", "cannot"]

DIGITS, FINE = 7, 3
"""Significant digits of a forecast's largest number, and, where that needs more, of its narrowest interval."""


@dataclass(frozen=True)
class Intervals:
    """Says the forecast where one is due: of every `emit`-th observation."""

    horizon: int
    level: float
    judged: tuple[int, ...]
    actions = ("quiet", "ok", "warming", "cannot")

    def decide(self, batch: Batch) -> tuple[Sequence[Decision | None], Sequence[str]]:
        """A `Forecast` for each observation that one is due at, None for the others."""
        emitted = (batch.column("series_emitted") > 0.5).tolist()
        codes = batch.column("series_status").astype(int).tolist()
        steps = batch.column("series_step").astype(int).tolist()
        first, h = batch.names.index("series_mean.1"), self.horizon
        numbers = _rounded(batch.columns[:, first : first + 3 * h]).tolist()
        last, n = first + 3 * h, len(self.judged)
        scores = np.round(batch.columns[:, last : last + 4 * n], 4).tolist()
        decisions: list[Decision | None] = []
        actions: list[str] = []
        rows = zip(batch.ids, batch.at.tolist(), batch.keys, emitted, codes, steps, numbers, scores, strict=True)
        for id, at, key, due, code, step, row, score in rows:
            status, reason = SAID[code]
            actions.append(status if due else "quiet")
            if not due:
                decisions.append(None)
                continue
            ok = status == "ok"
            mean, lower, upper = (tuple(row[i * h : (i + 1) * h]) if ok else () for i in range(3))
            seen = [k for k in range(n) if ok and any(score[4 * k : 4 * k + 4])]
            mase, smape, pinball, coverage = (tuple(score[4 * k + i] for k in seen) for i in range(4))
            said = Forecast(
                id=id, workload=batch.workload, event=id, at=at, key=key, model=batch.model, degraded=False,
                status=cast(Status, status), step=step, level=self.level, mean=mean, lower=lower, upper=upper,
                reason=reason, judged=tuple(self.judged[k] for k in seen), mase=mase, smape=smape,
                pinball=pinball, coverage=coverage,
            )  # fmt: skip
            decisions.append(said)
        return decisions, actions


def _rounded(
    numbers: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Each row, means then lower and upper edges, rounded to so many digits."""
    largest = np.maximum(np.abs(numbers).max(axis=1, initial=0.0, where=np.isfinite(numbers)), 1e-300)
    _, lower, upper = np.split(numbers, 3, axis=1)
    narrowest = (upper - lower).min(axis=1, initial=np.inf, where=upper > lower)
    finest = np.maximum(np.minimum(largest, narrowest * 10.0 ** (DIGITS - FINE)), largest * 10.0 ** (DIGITS - 15))
    unit = 10.0 ** (np.floor(np.log10(finest)) + 1 - DIGITS)[:, None]
    whole = np.round(numbers / unit)
    return np.where(unit < 1, whole / np.maximum(np.round(1 / unit), 1.0), whole * unit)


def forecast(horizon: int = 24, level: float = 0.95, every: str = "", seasons: str = "", emit: int = 1) -> Workload:
    """The workload: so many steps ahead, with intervals of probability `level`, at every `emit`-th observation.

    `every` is the time between observations (as 1h; empty: found in the data), `seasons` as 1d,1w or, in steps, 24,168
    (empty: found too).
    """
    texts = filter(None, map(str.strip, seasons.split(",")))
    declared = tuple(int(text) if text.isdecimal() else text for text in texts) or None
    forecaster = Forecaster(horizon=horizon, level=level, every=every or None, seasons=declared, emit=emit)
    if every:
        duration(every)
    return Workload(
        name="forecast",
        event=Observation,
        features=(track("series", forecaster),),
        model=native("pool-1", "series_mean.1"),
        policy=Intervals(horizon, level, forecaster.judged),
        views=False,
        ttl="400d",
    )
