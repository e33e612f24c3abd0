"""Metrics against scikit-learn, and the book's card precision against its own words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from models import metrics
from tests.bench.book import book_fold, card_precision

scored = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=60).filter(
    lambda rows: 0 < sum(y for y, _ in rows) < len(rows)
)


@given(scored)
def test_equals_scikit_learn(rows: list[tuple[bool, int]]) -> None:
    """A reported AP, AUC, log-loss or Brier score is wrong, with ties or without."""
    y, score = np.array([r[0] for r in rows]), np.array([r[1] for r in rows]) / 8
    assert metrics.average_precision(y, score) == pytest.approx(sk.average_precision_score(y, score))
    assert metrics.roc_auc(y, score) == pytest.approx(sk.roc_auc_score(y, score))
    assert metrics.log_loss(y, score) == pytest.approx(sk.log_loss(y, np.clip(score, 1e-15, 1 - 1e-15)))
    assert metrics.brier(y, score) == pytest.approx(sk.brier_score_loss(y, score))
    weight = 1.0 + np.arange(len(y)) % 3
    more = {"sample_weight": weight}
    assert metrics.average_precision(y, score, weight) == pytest.approx(sk.average_precision_score(y, score, **more))
    assert metrics.roc_auc(y, score, weight) == pytest.approx(sk.roc_auc_score(y, score, **more))
    expected = sk.log_loss(y, np.clip(score, 1e-15, 1 - 1e-15), **more)
    assert metrics.log_loss(y, score, weight) == pytest.approx(expected)
    assert metrics.brier(y, score, weight) == pytest.approx(sk.brier_score_loss(y, score, **more))


def test_meaningless_is_nan() -> None:
    """A window without a positive, or empty, crashes the evaluation or looks like a perfect model."""
    assert np.isnan(metrics.average_precision([0, 0], [0.1, 0.2]))
    assert np.isnan(metrics.roc_auc([1, 1], [0.1, 0.2]))
    assert all(np.isnan(f([], [])) for f in (metrics.average_precision, metrics.roc_auc, metrics.brier))
    assert np.isnan(metrics.log_loss([], []))


def naive_card_precision(rows: list[tuple[int, int, bool, float]], k: int) -> float:
    """The definition, card by card."""
    gone: set[int] = set()
    shares = []
    for day in sorted({r[0] for r in rows}):
        best: dict[int, tuple[float, bool]] = {}
        for d, card, y, s in rows:
            if d == day and card not in gone:
                old = best.get(card, (-1.0, False))
                best[card] = (max(old[0], s), old[1] or y)
        top = sorted(best, key=lambda c: (-best[c][0], c))[:k]
        caught = {c for c in top if best[c][1]}
        shares.append(len(caught) / k)
        gone |= caught
    return sum(shares) / len(shares)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(0, 6), st.booleans(), st.integers(0, 9).map(lambda i: i / 9)
        ),
        min_size=1,
        max_size=50,
    ),
    st.integers(1, 4),
)
def test_card_precision_is_the_books(rows: list[tuple[int, int, bool, float]], k: int) -> None:
    """Figures are no longer comparable with the book's: a detected card stays, or a maximum is not taken."""
    day, card, y, score = (np.array(c) for c in zip(*rows, strict=True))
    assert card_precision(day, card, y, score, k) == pytest.approx(naive_card_precision(rows, k))


def test_book_fold() -> None:
    """A card whose fraud was known stays in the test set, or one that was not yet known leaves it."""
    day = np.repeat(np.arange(30), 3)
    card = np.tile([0, 1, 2], 30)
    y = ((card == 1) & (day == 3)) | ((card == 2) & (day == 12)) | ((card == 0) & (day == 1))
    train, test = book_fold(day, card, y, start=16)
    assert sorted(set(day[train])) == list(range(2, 9))
    assert sorted(set(day[test])) == list(range(16, 23))
    assert 1 not in card[test]  # known since day 11
    assert sorted(day[test][card[test] == 2]) == [16, 17, 18, 19]  # from day 20 on, 12 + 8, it is known
    assert (card[test] == 0).sum() == 7  # its fraud came before this fold's history
