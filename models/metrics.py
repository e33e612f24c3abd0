"""What a model's scores were worth once the outcomes were known: exact, from scores, ties handled.

Used where models are trained, compared and reported.

y is bool[n] or 0/1, score float64[n]. Rank metrics are nan without a positive or without a negative.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

HEAVIEST = 1e6  # weight of a row
Weight = ArrayLike | None
"""float64[n], how many rows each stands for; None: one each."""


def _weighed(y: ArrayLike, score: ArrayLike, weight: Weight) -> tuple[NDArray[np.float64], ...]:
    label, s = np.asarray(y, np.float64), np.asarray(score, np.float64)
    return label, s, np.ones(len(s)) if weight is None else np.asarray(weight, np.float64)


def _steps(y: ArrayLike, score: ArrayLike, weight: Weight) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numbers of true and of false positives at each different threshold, from the highest score down."""
    label, s, w = _weighed(y, score, weight)
    order = np.argsort(-s, kind="stable")
    last = np.append(np.diff(s[order]) != 0, True)[: len(s)]  # of each group of equal scores
    true, false = (np.cumsum((w * kind)[order])[last] for kind in (label, 1 - label))
    return true, false


def average_precision(y: ArrayLike, score: ArrayLike, weight: Weight = None) -> float:
    """Σ (recall step) · precision over the different thresholds, without interpolation."""
    true, false = _steps(y, score, weight)
    if not len(true) or true[-1] == 0:
        return float("nan")
    return float((np.diff(true, prepend=0.0) * true / (true + false)).sum() / true[-1])


def roc_auc(y: ArrayLike, score: ArrayLike, weight: Weight = None) -> float:
    """Probability that a positive scores above a negative, ties one half (the area under the ROC curve)."""
    true, false = _steps(y, score, weight)
    if not len(true) or true[-1] == 0 or false[-1] == 0:
        return float("nan")
    below = true - np.diff(true, prepend=0.0) / 2
    return float((np.diff(false, prepend=0.0) * below).sum() / (true[-1] * false[-1]))


def log_loss(y: ArrayLike, score: ArrayLike, weight: Weight = None, clip: float = 1e-15) -> float:
    """Mean of -log(probability given to what happened), probabilities clipped to [clip, 1 - clip]."""
    label, s, w = _weighed(y, score, weight)
    p = np.clip(s, clip, 1 - clip)
    return float(-np.average(label * np.log(p) + (1 - label) * np.log1p(-p), weights=w)) if len(p) else float("nan")


def brier(y: ArrayLike, score: ArrayLike, weight: Weight = None) -> float:
    """Mean squared difference between score and outcome."""
    label, s, w = _weighed(y, score, weight)
    return float(np.average((s - label) ** 2, weights=w)) if len(s) else float("nan")


def summary(y: ArrayLike, score: ArrayLike, weight: Weight = None) -> dict[str, float]:
    """All of the above, and the numbers of rows and positives."""
    found = {f.__name__: f(y, score, weight) for f in (average_precision, roc_auc, log_loss, brier)}
    return found | {"rows": float(len(np.asarray(y))), "positives": float(np.asarray(y, np.float64).sum())}
