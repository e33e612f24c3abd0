"""Declarations of features: their names, and the messages that teach what is wrong with them."""

from collections.abc import Callable
from typing import cast

import pytest

from operators import (
    Aggregate,
    by,
    count,
    decayed_sum,
    distinct,
    label_mean,
    label_rate,
    label_since,
    label_smoothed,
    mean,
    quantile,
    since,
)
from operators.keyed import compile_features
from schemas.errors import DefinitionError


def test_names_tell_entity_field_fold_and_span() -> None:
    """Models and derived features find columns by these names."""
    card = by(
        "card",
        count("1d", "1.5h"),
        mean("amount", "7d"),
        quantile("amount", 0.995, "7d"),
        since(),
        label_mean("amount"),
        label_since(of=True),
        label_rate("30d", delay="7d"),
        decayed_sum("amount", "14d"),
    )
    assert card.names == (
        "card_count_1d",
        "card_count_1_5h",
        "card_amount_mean_7d",
        "card_amount_p99_5_7d",
        "card_since",
        "card_amount_label_mean_false",
        "card_label_since_true",
        "card_label_rate_30d",
        "card_amount_decayed_sum_14d",
    )
    assert card.fields == ("amount",)
    assert card.labelled
    assert not by("card", count("1d")).labelled


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: count("7x"), r"count\(\) window: found '7x', expected a number and a unit"),
        (lambda: count(delay="7d"), r"count\(\): found no window.*write for example count\('7d'\)"),
        (lambda: mean("amount"), r"mean\('amount'\): found no window.*mean\('amount', '7d'\)"),
        (lambda: mean("7d", "30d"), r"mean: found '7d', expected the name of an event field"),
        (lambda: label_rate("1d", delay="soon"), r"label_rate delay: found 'soon'"),
        (
            lambda: quantile("amount", 1.5, "7d"),
            r"quantile\('amount'\): found 1.5, expected a number from 0 to 1",
        ),
        (lambda: label_smoothed(prior=2.0), r"label_smoothed: found prior=2.0"),
        (lambda: by("card"), r"by\('card'\): found no feature"),
        (lambda: by("card", cast(Aggregate, "count")), r"by\('card'\): found 'count', expected a feature"),
        (lambda: by("my card", count("1d")), r"found 'my card', expected the name of an event field"),
        (
            lambda: by("card", count("1d"), ring=0),
            r"by\('card'\): found ring=0, expected a whole number from 1",
        ),
        (lambda: by("card", count("1d"), lateness="x"), r"by\('card'\) lateness: found 'x'"),
        (lambda: by("card", count("1d"), count("1d", delay="7d")), r"found feature 'card_count_1d' twice"),
    ],
)
def test_mistakes_are_named(declare: Callable[[], object], message: str) -> None:
    """An author who cannot tell from the message what to write instead."""
    with pytest.raises(DefinitionError, match=message):
        declare()


def test_fingerprint_tells_declarations_apart() -> None:
    """Two deployments that disagree about a feature, and nobody notices."""
    prints = [
        compile_features(declared).fingerprint
        for declared in (
            by("card", count("1d")),
            by("card", count("1d", delay="1d")),
            by("card", count("2d")),
            by("card", distinct("terminal", "1d")),
            by("card", count("1d"), ring=64),
            by("terminal", count("1d")),
        )
    ]
    assert len(set(prints)) == len(prints)
    assert compile_features(by("card", count("1d"))).fingerprint == prints[0]
