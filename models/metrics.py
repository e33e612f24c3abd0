"""What a model's scores were worth once the outcomes were known: exact, from scores, ties handled.

Used where models are trained, compared and reported. `card_precision` and `book_fold` are the protocol of
"Reproducible Machine Learning for Credit Card Fraud Detection", chapters 4 and 5.

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


def card_precision(day: ArrayLike, card: ArrayLike, y: ArrayLike, score: ArrayLike, k: int = 100) -> float:
    """Card Precision@k: mean over days of the share of compromised cards among the k of the highest score.

    day int[n], card int[n]. A card's score is the day's highest; a card that was detected leaves from the
    next day on. Always divided by k, as the book does; of equal scores the smaller card number comes first.
    """
    days, cards = np.asarray(day), np.asarray(card)
    label, s = np.asarray(y, np.float64) > 0, np.asarray(score, np.float64)
    detected = np.zeros(0, cards.dtype)
    found: list[float] = []
    for d in np.unique(days):
        rows = np.flatnonzero((days == d) & ~np.isin(cards, detected))
        ids, place = np.unique(cards[rows], return_inverse=True)
        best, hit = np.full(len(ids), -np.inf), np.zeros(len(ids), np.bool_)
        np.maximum.at(best, place, s[rows])
        np.logical_or.at(hit, place, label[rows])
        top = np.argsort(-best, kind="stable")[:k]
        caught = ids[top[hit[top]]]
        found.append(len(caught) / k)
        detected = np.concatenate((detected, caught))
    return float(np.mean(found)) if found else float("nan")


def book_fold(
    day: ArrayLike, card: ArrayLike, y: ArrayLike, start: int, span: tuple[int, int, int] = (7, 7, 7)
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of the book's training and test sets for the fold whose test week begins on day `start`.

    `span` is days of training, of delay and of test. From test day T are left out the cards with a fraud from
    the first training day to T - delay - 1, which were known by then.
    """
    days, cards, label = np.asarray(day), np.asarray(card), np.asarray(y, np.float64) > 0
    train, delay, test = span
    first = start - delay - train
    kept = []
    for d in range(start, start + test):
        known = np.unique(cards[label & (days >= first) & (days <= d - delay - 1)])
        kept.append(np.flatnonzero((days == d) & ~np.isin(cards, known)))
    return np.flatnonzero((days >= first) & (days < first + train)), np.concatenate(kept)
