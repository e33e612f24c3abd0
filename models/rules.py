"""How a workload evaluates, promotes and watches its models, as an author declares it: values, and nothing that runs.

`models.evaluation`, `models.promotion` and `models.drift` do what is declared here.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from schemas.errors import DefinitionError
from schemas.time import MILLISECONDS, duration

DAY = MILLISECONDS["d"]


@dataclass(frozen=True)
class Costs:
    """Of a false alarm (score `threshold` or more), and of a miss: so much, or so much for each unit of amount."""

    false_alarm: float
    miss: float
    by_amount: bool = False
    threshold: float = 0.5


@dataclass(frozen=True)
class EvaluationRule:
    """What `evaluation` declares."""

    k: int
    half_life: int
    window: int
    horizon: int
    bins: int
    costs: Costs | None


def evaluation(
    *,
    k: int = 100,
    half_life: str = "7d",
    window: str = "7d",
    horizon: str = "7d",
    bins: int = 20,
    costs: Costs | None = None,
) -> EvaluationRule:
    """What is reported: `evaluation(k=100, half_life="7d", costs=Costs(false_alarm=5, miss=1, by_amount=True))`.

    k          events (or groups) of a day that someone can look at
    half_life  of an example's weight in what fades; window: whole days (UTC), with the running one
    horizon    after it no label of a day is expected any more
    bins       equal widths of score in the calibration error
    """
    days = duration(window, "evaluation(window)")
    found: tuple[tuple[bool, str, object, str], ...] = (
        (isinstance(k, int) and k >= 1, "k", k, "a whole number, 1 or more"),
        (days % DAY == 0 and days <= 366 * DAY, "window", window, "whole days, '1d' to '366d'"),
        (isinstance(bins, int) and 2 <= bins <= 1000, "bins", bins, "a whole number, 2 to 1000"),
        (costs is None or 0 <= costs.threshold <= 1, "costs", costs, "a threshold between 0 and 1"),
    )
    for good, name, value, expected in found:
        if not good:
            raise DefinitionError(f"evaluation({name}={value!r}): expected {expected}")
    half = duration(half_life, "evaluation(half_life)")
    return EvaluationRule(k, half, days // DAY, duration(horizon, "evaluation(horizon)", zero=True), bins, costs)


@dataclass(frozen=True)
class PromotionRule:
    """What `promotion` declares."""

    alpha: float
    loss: Literal["brier", "log"]
    labels: int
    latency: float | None
    alerts: float | None
    threshold: float
    weight: float | None
    settle: int | None


def promotion(
    *,
    alpha: float = 0.05,
    loss: Literal["brier", "log"] = "brier",
    labels: int = 1000,
    latency: str | None = None,
    alerts: float | None = None,
    threshold: float = 0.5,
    weight: float | None = None,
    settle: str | None = None,
) -> PromotionRule:
    """When a challenger becomes champion: `promotion(alpha=0.05, labels=1000, latency="8ms", alerts=1.5)`.

    alpha      chance that one that is not better is ever promoted; of each challenger, and each rollback
    loss       "brier", or "log": log-loss, clipped, divided by its largest value
    labels     examples before the first verdict
    latency    a challenger's p99 must not be above it; without a measurement it is not promoted
    alerts     nor may it alert (score `threshold` or more) more than so many times as often as the champion
    weight     largest weight of an example, heavier ones are cut; by default one over the smallest share of events
               that waits, or that is decided by chance
    settle     how long after its event a label of either kind is known: a contest counts from so long after its first
               event on, or what is known sooner, such as disputes, would decide it; by default the horizon where
               labels are presumed, else "0s"
    """
    found: tuple[tuple[bool, str, object, str], ...] = (
        (0 < alpha < 1, "alpha", alpha, "a chance between 0 and 1"),
        (loss in ("brier", "log"), "loss", loss, "'brier' or 'log'"),
        (isinstance(labels, int) and labels >= 1, "labels", labels, "a whole number, 1 or more"),
        (alerts is None or 0 < alerts < np.inf, "alerts", alerts, "a ratio above 0, such as 1.5"),
        (0 <= threshold <= 1, "threshold", threshold, "a score between 0 and 1"),
        (weight is None or 1 <= weight < np.inf, "weight", weight, "1 or more, such as 20 where one in 20 is sampled"),
    )
    for good, name, value, expected in found:
        if not good:
            raise DefinitionError(f"promotion({name}={value!r}): expected {expected}")
    most = None if latency is None else float(duration(latency, "promotion(latency)"))
    settled = None if settle is None else duration(settle, "promotion(settle)", zero=True)
    return PromotionRule(alpha, loss, labels, most, alerts, threshold, weight, settled)


@dataclass(frozen=True)
class DriftRule:
    """What `drift` declares."""

    psi: float
    window: int
    rows: int
    delta: float
    then: Literal["nothing", "refit", "reset"]


def drift(
    *,
    psi: float = 0.2,
    window: str = "1d",
    rows: int = 1000,
    delta: float = 0.002,
    then: Literal["nothing", "refit", "reset"] = "nothing",
) -> DriftRule:
    """What counts as drift, and what follows: `drift(psi=0.2, window="1d", then="refit")`.

    A column has moved when its PSI over a `window` of event time, of at least `rows` rows, exceeds `psi`; `delta` is
    ADWIN's chance of a false alarm at a look. Then: nothing but a signal, trees fitted anew (a job fits them to
    the newest examples on its topic), which challenge the champion, or a reset of the learners.
    """
    found: tuple[tuple[bool, str, object, str], ...] = (
        (psi > 0, "psi", psi, "a number above 0, such as 0.2"),
        (isinstance(rows, int) and rows >= 1, "rows", rows, "a whole number, 1 or more"),
        (0 < delta < 1, "delta", delta, "a chance between 0 and 1"),
        (then in ("nothing", "refit", "reset"), "then", then, "'nothing', 'refit' or 'reset'"),
    )
    for good, name, value, expected in found:
        if not good:
            raise DefinitionError(f"drift({name}={value!r}): expected {expected}")
    return DriftRule(psi, duration(window, "drift(window)"), rows, delta, then)
