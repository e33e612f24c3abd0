"""The protocol of "Reproducible Machine Learning for Credit Card Fraud Detection", chapters 4 and 5."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
