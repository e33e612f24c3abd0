"""The simulator: the book's data set, draw for draw, and a world that can be changed and streamed."""

import json
import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DefinitionError
from streaming.simulator import DAY, Frauds, Spec, Transactions, _choices, simulate, stream

SMALL = Spec(cards=60, terminals=120, days=40, radius=12.0, frauds=Frauds(amount_above=100.0))


@pytest.fixture(scope="module")
def book() -> Transactions:
    """The whole of the book's data set, made once."""
    return simulate()


def naive(spec: Spec) -> list[list[float]]:
    """The specification as it is written, one draw after another: time, card, terminal, amount, scenario."""
    rs = np.random.RandomState(spec.card_seed)
    cards = []
    for _ in range(spec.cards):
        x, y = rs.uniform(0, 100), rs.uniform(0, 100)
        cards.append((x, y, rs.uniform(5, 100), rs.uniform(0, 4)))
    rs = np.random.RandomState(spec.terminal_seed)
    places = np.array([(rs.uniform(0, 100), rs.uniform(0, 100)) for _ in range(spec.terminals)])
    rows: list[list[float]] = []
    for c, (x, y, mean, rate) in enumerate(cards):
        near = list(np.where(np.sqrt(np.sum(np.square([x, y] - places), axis=1)) < spec.radius)[0])
        random.seed(spec.transaction_seed + c)
        rs = np.random.RandomState(spec.transaction_seed + c)
        for day in range(spec.days):
            for _ in range(rs.poisson(rate)):
                t = int(rs.normal(43200, 20000))
                if 0 < t < 86400:
                    amount = rs.normal(mean, mean / 2)
                    if amount < 0:
                        amount = rs.uniform(0, mean * 2)
                    if near:
                        rows.append([t + day * 86400, c, random.choice(near), np.round(amount, 2), 0])
    rows.sort(key=lambda r: r[0])
    for r in rows:
        r[4] = 1 if r[3] > spec.frauds.amount_above else 0
    for d in range(spec.days - 1):
        some = set(
            np.random.RandomState(spec.fraud_seed + d).choice(spec.terminals, 2, replace=False).tolist()
        )
        for r in rows:
            if r[2] in some and d <= r[0] // 86400 < d + 28:
                r[4] = 2
    for d in range(spec.days - 1):
        some = set(np.random.RandomState(spec.fraud_seed + d).choice(spec.cards, 3, replace=False).tolist())
        hit = [i for i, r in enumerate(rows) if r[1] in some and d <= r[0] // 86400 < d + 14]
        random.seed(spec.fraud_seed + d)
        for i in random.sample(hit, len(hit) // 3):
            rows[i][3] *= 5
            rows[i][4] = 3
    return rows


@pytest.mark.parametrize("seed", [0, 7])
def test_is_the_specification(seed: int) -> None:
    """A draw comes in another order or from another generator than the book's."""
    spec = SMALL.seeded(seed)
    t = simulate(spec)
    want = np.array(naive(spec))
    found = np.column_stack([(t.at - spec.start) // 1000, t.card, t.terminal, t.amount, t.scenario])
    np.testing.assert_array_equal(found, want)
    assert len({int(s) for s in t.scenario}) == 4


def test_defaults_are_the_books_data_set(book: Transactions) -> None:
    """Figures measured on it can no longer be held against the book's."""
    assert len(book) == 1_754_155
    assert np.bincount(book.scenario).tolist() == [1_754_155 - 14_681, 973, 9_077, 4_631]
    first = [c[0].item() for c in (book.at, book.card, book.terminal, book.amount)]
    assert first == [Spec().start + 31_000, 596, 3156, 57.16]
    assert (np.diff(book.at) >= 0).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(0, 40))
@settings(max_examples=60)
def test_choices_are_cpythons(seed: int, n: int, k: int) -> None:
    """Transactions go to other terminals than `random.choice` sends them to."""
    random.seed(seed)
    assert _choices(seed, np.arange(n), k).tolist() == [random.choice(range(n)) for _ in range(k)]


def test_seeds_differ_and_repeat() -> None:
    """Another seed gives the same world, or the same seed another."""
    one, again, other = simulate(SMALL.seeded(3)), simulate(SMALL.seeded(3)), simulate(SMALL.seeded(4))
    np.testing.assert_array_equal(one.amount, again.amount)
    assert len(one) != len(other) or (one.amount != other.amount).any()
    assert SMALL.seeded(0) == SMALL


def test_drift_begins_on_its_day() -> None:
    """A drift test measures a world in which nothing changed, or which changed before its day."""
    calm = simulate(SMALL)
    wild = simulate(replace(SMALL, drift=((20, Frauds(amount_above=50.0, terminals=10)),)))
    before = calm.day < 20
    np.testing.assert_array_equal(calm.scenario[before], wild.scenario[before])
    assert wild.label[~before].sum() > 1.3 * calm.label[~before].sum()


def test_files(book: Transactions, tmp_path: Path) -> None:
    """What publish and replay read is not what was simulated, or not in order of time."""
    part = book.between(3, 5)
    part.write(tmp_path / "e", tmp_path / "o")
    events = [json.loads(line) for line in (tmp_path / "e").open()]
    outcomes = [json.loads(line) for line in (tmp_path / "o").open()]
    assert [e["id"] for e in events] == [o["event"] for o in outcomes] == [f"t{n:07d}" for n in part.number]
    assert [e["at"] for e in events] == part.at.tolist()
    assert [o["at"] - 7 * DAY for o in outcomes] == part.at.tolist()
    assert [e["amount"] for e in events] == part.amount.tolist()
    assert [o["label"] for o in outcomes] == part.label.tolist()
    assert [e["card"] for e in events[:2]] == [f"c{c:04d}" for c in part.card[:2]]
    assert [e["terminal"] for e in events[:2]] == [f"m{m:04d}" for m in part.terminal[:2]]
    assert set(part.day) == {3, 4}


def test_stream_goes_on_in_order() -> None:
    """The live demo stops with the calendar, repeats an id, or tells an outcome before its time."""
    spec = replace(SMALL, days=12)
    history = simulate(spec).between(0, 8)
    records = list(islice(stream(spec, rate=100.0, first_day=8, prefix="x"), 12_000))
    events = [r for r in records if r.topic == "events"]
    bodies = [json.loads(r.value) for r in records]
    times = [b["at"] for b in bodies]
    assert times == sorted(times)
    assert times[0] >= spec.start + 8 * DAY
    assert times[-1] > spec.start + 3 * 12 * DAY
    ids = [b["id"] for b in bodies if "id" in b]
    assert len(set(ids)) == len(ids)
    assert int(ids[0][1:]) == len(history)
    np.testing.assert_allclose(np.diff([r.due for r in events]), 0.01)
    known = [b["event"] for b in bodies if "event" in b]
    due = [f"x{n:07d}" for n in history.number[history.outcome_at >= spec.start + 8 * DAY]]
    assert known[: len(due)] == due
    assert records[:500] == list(islice(stream(spec, 100.0, 8, "x"), 500))
    assert all(r.key == b.get("card", b.get("event")) for r, b in zip(records, bodies, strict=True))


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"cards": 0}, "cards"),
        ({"radius": -1.0}, "radius"),
        ({"amount_low": float("nan")}, "amount_low"),
        ({"cards": 2}, "cards"),
        ({"drift": ((3, Frauds(card_one_in=0)),)}, "day 3"),
    ],
)
def test_wrong_spec_is_named(wrong: dict[str, object], word: str) -> None:
    """A world that cannot be is simulated for minutes and then fails in NumPy."""
    with pytest.raises(DefinitionError, match=word):
        replace(SMALL, **wrong)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="first_day"):
        next(stream(SMALL, 10.0, first_day=40))
