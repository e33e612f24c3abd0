"""The watch over what a champion sees."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.drift import Reference, Signal
from models.rules import drift
from streaming.watching import USUAL_MOST, Watching

DAY = 86_400_000
F64 = NDArray[np.float64]


def watch(watching: Watching, x: F64, at: NDArray[np.int64], champion: str, wrong: bool = False) -> list[Signal]:
    """Examples of one column, of which "a" and "b" say the same, and are `wrong`."""
    found, scores = list[Signal](), 1 / (1 + np.exp(-x))
    for rows in np.array_split(np.arange(len(x)), max(1, len(x) // 256)):
        ids, said = [str(at[row]) for row in rows], {"a": scores[rows], "b": scores[rows]}
        found += watching.add(ids, x[rows, None], said, champion, (scores[rows] > 0.5) ^ wrong, at[rows], at[rows])
    return found


def days(first: int, last: int, each: int, mean: float = 0.0) -> tuple[F64, NDArray[np.int64]]:
    """So many values a day, and their times."""
    draw, n = np.random.default_rng(first), (last - first) * each
    return draw.normal(mean, 1.0, n), np.sort(draw.integers(first * DAY, last * DAY, n))


@pytest.mark.parametrize("each", [600, 20_000])
def test_a_new_champion_is_watched_from_its_first_day(each: int) -> None:
    """Drift in the first two weeks after each promotion goes unseen; or every example of those weeks is kept."""
    watching = Watching(drift(), ("x",), 0)
    assert watch(watching, *days(0, 17, each), "a") == []
    watching.reset("b")
    state = watching.snapshot()
    assert len(state) < 50 * USUAL_MOST
    watching = Watching(drift(), ("x",), 0, state)
    assert watch(watching, *days(17, 19, each), "b") == []
    assert {s.name for s in watch(watching, *days(19, 22, each, mean=2.0), "b")} >= {"x", "score"}
    watching.reset("c")  # that nothing is known of
    assert watch(watching, *days(22, 24, each), "c") == []


def test_errors_right_behind_a_promotion_are_told() -> None:
    """What changed while a model became champion is what it is compared with from then on."""
    watching = Watching(drift(), ("x",), 0)
    assert watch(watching, *days(0, 9, 600), "a") == []
    watching.reset("b")
    (signal,) = watch(watching, *days(9, 11, 600), "b", wrong=True)
    assert signal.name == "log-loss"
    assert signal.found > 2 * signal.expected
    assert abs(signal.since - 9 * DAY) < DAY


def test_what_is_usual_is_not_what_was_a_year_ago() -> None:
    """Where examples are few, an even sample of all that ever came tells what is usual: a champion that nothing is
    known of has seen every world there was, and none of them is drift."""
    watching = Watching(drift(), ("x",), 0)
    watch(watching, *days(0, 300, 100), "none")
    watch(watching, *days(300, 360, 100, mean=2.0), "none")
    watching.reset("a")
    assert watch(watching, *days(360, 380, 100, mean=2.0), "a") == []
    assert "x" in {signal.name for signal in watch(watching, *days(380, 420, 100), "a")}


def test_a_champion_is_watched_against_what_it_was_trained_on() -> None:
    """A model that was trained on another world than it is put into is not told."""
    x, at = days(0, 20, 600)
    usual = Reference.of(np.column_stack((x, 1 / (1 + np.exp(-x)))), ("x", "score"), at)
    for reference, told in ((usual, {"x", "score"}), (usual.of(x[:, None], ("y",), at), set())):
        watching = Watching(drift(), ("x",), 0)
        watching.reset("a", reference)
        assert {signal.name for signal in watch(watching, *days(20, 23, 600, mean=2.0), "a")} - {"log-loss"} == told


def test_what_models_round_is_no_drift() -> None:
    """Where many rows have one value that float32 rounds down, a model that was trained on them drifts from its start:
    a reference is made of what models read, and a job watched what was served."""
    x, at = days(0, 23, 600)
    x[::3] = 9.99
    then = at < 20 * DAY
    rows = x[then].astype(np.float32)
    watching = Watching(drift(), ("x",), 0)
    watching.reset("a", Reference.of(np.column_stack((rows, 1 / (1 + np.exp(-x[then])))), ("x", "score"), at[then]))
    assert watch(watching, x[~then], at[~then], "a") == []


@pytest.mark.parametrize("settle", [0, 30])
def test_labels_that_are_known_sooner_are_no_drift(settle: int) -> None:
    """Where frauds are known in days and the rest is presumed after a month, a stream that never changes drifts."""
    draw, days, n = np.random.default_rng(0), 70, 350_000
    at = np.sort(draw.integers(0, days * DAY, n))
    x = draw.normal(0, 1, n)
    score = 1 / (1 + np.exp(3.0 - 1.5 * x))
    labels = draw.random(n) < score
    known = np.where(labels, at + draw.integers(DAY, 5 * DAY, n), at + 30 * DAY)
    watching, found = Watching(drift(), ("x",), settle * DAY), []
    order = np.argsort(known, kind="stable")
    for rows in np.array_split(order[known[order] < days * DAY], 1000):
        ids = [str(row) for row in rows]
        found += watching.add(ids, x[rows, None], {"a": score[rows]}, "a", labels[rows], at[rows], known[rows])
    assert bool(found) == (settle == 0)
