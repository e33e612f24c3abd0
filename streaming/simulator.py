"""The fraud workload's world: cards, terminals, transactions and the frauds among them, made from seeds.

Stands before the way of an event: what it writes is what users would publish to `fraud.events` and
`fraud.outcomes`. The specification is chapter 3 of "Reproducible Machine Learning for Credit Card Fraud
Detection" (Le Borgne et al.); the defaults of `Spec` are its published data set, transaction by transaction.
"""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from schemas.errors import DefinitionError

DAY = 86_400_000  # ms
BOOK_START = 1_522_540_800_000  # 2018-04-01T00:00:00Z, ms
_LINES = 50_000  # rendered at a time: bounds memory, costs no speed


@dataclass(frozen=True)
class Frauds:
    """The three scenarios, in force from a day on."""

    amount_above: float = 220.0  # scenario 1: every dearer transaction
    terminals: int = 2  # scenario 2: terminals compromised each day,
    terminal_days: int = 28  # for so many days
    cards: int = 3  # scenario 3: cards compromised each day,
    card_days: int = 14  # for so many days,
    card_one_in: int = 3  # of whose transactions one in so many is a fraud
    card_factor: float = 5.0  # and so much dearer


@dataclass(frozen=True)
class Spec:
    """Every number of the simulation; the defaults are the book's data set.

    `drift` holds (day, Frauds) pairs: from that day on, newly compromised entities and scenario 1's limit
    follow those parameters.
    """

    cards: int = 5_000
    terminals: int = 10_000
    days: int = 183
    start: int = BOOK_START  # ms since the epoch, of day 0
    area: float = 100.0  # side of the square that cards and terminals lie in
    radius: float = 5.0  # a card uses the terminals nearer than this
    amount_low: float = 5.0  # a card's mean amount ~ U(low, high),
    amount_high: float = 100.0
    amount_sd: float = 0.5  # its standard deviation is this share of the mean
    rate_high: float = 4.0  # a card's mean number of transactions a day ~ U(0, high)
    second_mean: float = 43_200.0  # second of the day ~ N(mean, sd), outside of the day: dropped
    second_sd: float = 20_000.0
    delay_days: float = 7.0  # an outcome is known so long after its event
    frauds: Frauds = field(default_factory=Frauds)
    drift: tuple[tuple[int, Frauds], ...] = ()
    card_seed: int = 0
    terminal_seed: int = 1
    transaction_seed: int = 0  # card i draws its transactions from this + i
    fraud_seed: int = 0  # day d draws what it compromises from this + d

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int | float) and not 0 <= value < 2**63:
                raise DefinitionError(f"simulator Spec.{name}: found {value!r}, expected a number >= 0")
        for name in ("cards", "terminals", "days"):
            if getattr(self, name) < 1:
                raise DefinitionError(f"simulator Spec.{name}: found {getattr(self, name)}, expected >= 1")
        for day, f in ((0, self.frauds), *self.drift):
            if f.terminals > self.terminals or f.cards > self.cards or f.card_one_in < 1:
                raise DefinitionError(
                    f"simulator Spec, frauds from day {day}: found {f}, expected at most {self.cards} cards "
                    f"and {self.terminals} terminals a day, and card_one_in >= 1"
                )

    def seeded(self, seed: int) -> "Spec":
        """The same world drawn from other seeds; 0 gives the book's."""
        base = seed * 1_000_003 % 2**31
        return replace(self, card_seed=base, terminal_seed=base + 1, transaction_seed=base, fraud_seed=base)

    def frauds_on(self, day: int) -> Frauds:
        """The parameters in force on `day`."""
        return max((d, i, f) for i, (d, f) in enumerate(((0, self.frauds), *self.drift)) if d <= day)[2]


@dataclass(frozen=True, eq=False)
class Transactions:
    """Columns of one length n, in order of time; `amount` and `label` are after the frauds were applied."""

    spec: Spec
    number: NDArray[np.int64]  # rank in time in the whole simulation
    at: NDArray[np.int64]  # ms since the epoch
    day: NDArray[np.int32]  # since spec.start
    card: NDArray[np.int32]
    terminal: NDArray[np.int32]
    amount: NDArray[np.float64]
    scenario: NDArray[np.int8]  # 0 legitimate, 1-3 the last scenario that made it a fraud

    def __len__(self) -> int:
        return len(self.at)

    @property
    def label(self) -> NDArray[np.bool_]:
        """bool[n]: is it a fraud."""
        return self.scenario > 0

    @property
    def outcome_at(self) -> NDArray[np.int64]:
        """int64[n]: ms at which the label is known."""
        return self.at + round(self.spec.delay_days * DAY)

    def between(self, first_day: int, end_day: int) -> "Transactions":
        """Those of days `first_day` to `end_day` - 1, with the numbers they have in the whole."""
        lo, hi = np.searchsorted(self.day, [first_day, end_day])
        columns = {f.name: getattr(self, f.name)[lo:hi] for f in fields(self) if f.name != "spec"}
        return Transactions(self.spec, **columns)

    def event_lines(self, prefix: str = "t") -> Iterator[str]:
        """JSON lines as `fraud.events` has them, in order of time."""
        for lo in range(0, len(self), _LINES):
            part = slice(lo, lo + _LINES)
            columns = (self.number, self.at, self.card, self.terminal, self.amount)
            for n, at, card, terminal, amount in zip(*(c[part].tolist() for c in columns), strict=True):
                yield (
                    f'{{"id":"{prefix}{n:07d}","at":{at},"card":"c{card:04d}",'
                    f'"terminal":"m{terminal:04d}","amount":{amount!r}}}\n'
                )

    def outcome_lines(self, prefix: str = "t") -> Iterator[str]:
        """JSON lines as `fraud.outcomes` has them, in order of outcome time."""
        for lo in range(0, len(self), _LINES):
            part = slice(lo, lo + _LINES)
            columns = (self.number, self.outcome_at, self.label)
            for n, at, label in zip(*(c[part].tolist() for c in columns), strict=True):
                yield f'{{"event":"{prefix}{n:07d}","at":{at},"label":{"true" if label else "false"}}}\n'

    def write(self, events: Path, outcomes: Path | None = None, prefix: str = "t") -> None:
        """Write the event file, and the outcome file if one is named."""
        for path, lines in ((events, self.event_lines), (outcomes, self.outcome_lines)):
            if path is not None:
                with path.open("w", encoding="utf-8") as file:
                    file.writelines(lines(prefix))


@kernel
def _draw(
    seed: int, mean: NDArray[np.float64], rate: NDArray[np.float64], days: int, shape: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]:
    """Card, second since the start and unrounded amount of each kept transaction, in the order drawn.

    numba's generator is NumPy's legacy one, draw for draw (the test compares). `shape` is (mean and standard
    deviation of the second, standard deviation of the amount as a share of its mean).
    """
    size = 1024
    card, second, amount = np.empty(size, np.int32), np.empty(size, np.int64), np.empty(size)
    n = 0
    for c in range(len(mean)):
        np.random.seed(seed + c)
        for day in range(days):
            for _ in range(np.random.poisson(rate[c])):
                t = int(np.random.normal(shape[0], shape[1]))
                if not 0 < t < 86_400:
                    continue
                a = np.random.normal(mean[c], mean[c] * shape[2])
                if a < 0:
                    a = np.random.uniform(0, mean[c] * 2)
                if n == size:
                    size *= 2
                    card = np.concatenate((card, np.empty(n, np.int32)))
                    second = np.concatenate((second, np.empty(n, np.int64)))
                    amount = np.concatenate((amount, np.empty(n)))
                card[n], second[n], amount[n] = c, t + day * 86_400, a
                n += 1
    return card[:n], second[:n], amount[:n]


def _choices(seed: int, population: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """`k` times `random.choice(population)` after `random.seed(seed)`.

    CPython seeds its Mersenne twister as NumPy seeds one from an array, and `choice` takes the top bits of
    successive words, skipping those that are out of range.
    """
    bits = len(population).bit_length()
    generator = np.random.RandomState([seed])
    found: list[NDArray[np.int64]] = []
    while k > 0:
        words = generator.randint(0, 2**32, size=2 * k + 8, dtype=np.uint32).astype(np.int64) >> (32 - bits)
        found.append(words[words < len(population)][:k])
        k -= len(found[-1])
    picks = np.concatenate(found) if found else np.empty(0, np.int64)
    return population[picks]


def _population(spec: Spec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cards float64[cards, 4]: x, y, mean amount, transactions a day; terminals float64[n, 2]: x, y."""
    unit = np.random.RandomState(spec.card_seed).random_sample((spec.cards, 4))
    low = np.array([0.0, 0.0, spec.amount_low, 0.0])
    high = np.array([spec.area, spec.area, spec.amount_high, spec.rate_high])
    places = np.random.RandomState(spec.terminal_seed).random_sample((spec.terminals, 2))
    return low + (high - low) * unit, spec.area * places


def _terminals_used(
    spec: Spec, cards: NDArray[np.float64], places: NDArray[np.float64], card: NDArray[np.int32]
) -> NDArray[np.int64]:
    """The terminal of each transaction (`card` is sorted); -1 for a card that has none in reach."""
    ends = np.searchsorted(card, np.arange(spec.cards + 1))
    terminal = np.full(len(card), -1, np.int64)
    for c in range(spec.cards):
        distance = np.sqrt(np.sum(np.square(cards[c, :2] - places), axis=1))
        near = np.flatnonzero(distance < spec.radius)
        if len(near):
            terminal[ends[c] : ends[c + 1]] = _choices(spec.transaction_seed + c, near, ends[c + 1] - ends[c])
    return terminal


def _add_frauds(spec: Spec, t: Transactions) -> None:
    """Apply the three scenarios in place, in the book's order."""
    ends = np.searchsorted(t.day, np.arange(spec.days + 1))
    for day in range(spec.days):
        today = slice(ends[day], ends[day + 1])
        t.scenario[today][t.amount[today] > spec.frauds_on(day).amount_above] = 1

    def hit(column: NDArray[np.int32], day: int, pick: int, size: int, length: int) -> NDArray[np.int64]:
        picked = np.random.RandomState(spec.fraud_seed + day).choice(size, size=pick, replace=False)
        lo, hi = ends[day], ends[min(day + length, spec.days)]
        return np.flatnonzero(np.isin(column[lo:hi], picked)) + int(lo)

    for day in range(spec.days - 1):
        f = spec.frauds_on(day)
        t.scenario[hit(t.terminal, day, f.terminals, spec.terminals, f.terminal_days)] = 2
    for day in range(spec.days - 1):
        f = spec.frauds_on(day)
        rows = hit(t.card, day, f.cards, spec.cards, f.card_days)
        some = rows[random.Random(spec.fraud_seed + day).sample(range(len(rows)), len(rows) // f.card_one_in)]
        t.amount[some] *= f.card_factor
        t.scenario[some] = 3


def simulate(spec: Spec | None = None) -> Transactions:
    """All transactions of `spec` (the book's data set when None), in order of time.

    Transactions of one second are in the order of their cards; the book leaves that order open.
    """
    spec = spec or Spec()
    cards, places = _population(spec)
    shape = np.array([spec.second_mean, spec.second_sd, spec.amount_sd])
    mean, rate = np.ascontiguousarray(cards[:, 2:].T)
    card, second, amount = _draw(spec.transaction_seed, mean, rate, spec.days, shape)
    terminal = _terminals_used(spec, cards, places, card)
    order = np.argsort(second, kind="stable")
    order = order[terminal[order] >= 0]
    t = Transactions(
        spec=spec,
        number=np.arange(len(order)),
        at=spec.start + second[order] * 1000,
        day=(second[order] // 86_400).astype(np.int32),
        card=card[order],
        terminal=terminal[order].astype(np.int32),
        amount=np.round(amount[order], 2),
        scenario=np.zeros(len(order), np.int8),
    )
    _add_frauds(spec, t)
    return t


class Record(NamedTuple):
    """One record of the live stream."""

    due: float  # seconds since the start of the stream
    topic: Literal["events", "outcomes"]
    key: str  # card, or event id
    value: bytes  # JSON


def stream(spec: Spec, rate: float, first_day: int = 0, prefix: str = "t") -> Iterator[Record]:
    """Events without end, `rate` a second, and outcomes when due, from `spec`'s calendar from `first_day` on.

    Event time runs in the calendar, not on the wall: the book's 9,600 events a day at 500/s make a day last
    19 s, so that windows of 30 days and labels 7 days late mean in a demo of minutes what they mean in the
    data that a model was trained on. `simulate(spec).between(0, first_day)` is the history before. A calendar
    that has come to its end is followed by another of the same cards and terminals with new draws, in which
    nothing is compromised at first. Deterministic: give each run its own `prefix` where ids must differ.
    """
    if not rate > 0 or not 0 <= first_day < spec.days:
        raise DefinitionError(
            f"stream: found rate {rate}, first_day {first_day}; expected rate > 0 and 0 <= first_day < {spec.days}"
        )
    pending: deque[tuple[int, str, str]] = deque()
    opening = spec.start + first_day * DAY
    sent, numbered = 0, 0
    for block in count():
        later = replace(
            spec,
            start=spec.start + block * spec.days * DAY,
            transaction_seed=(spec.transaction_seed + block * 7_919_000) % 2**31,
            fraud_seed=(spec.fraud_seed + block * 7_919_000) % 2**31,
        )
        t = simulate(later)
        t = replace(t, number=t.number + numbered)
        numbered += len(t)
        rows = zip(t.at.tolist(), t.outcome_at.tolist(), t.card.tolist(), t.number.tolist(), strict=True)
        lines = zip(rows, t.event_lines(prefix), t.outcome_lines(prefix), strict=True)
        for (at, known, card, number), event, outcome in lines:
            while pending and pending[0][0] <= at:
                _, key, line = pending.popleft()
                yield Record(sent / rate, "outcomes", key, line.encode())
            if known >= opening:
                pending.append((known, f"{prefix}{number:07d}", outcome.rstrip("\n")))
            if at >= opening:
                yield Record(sent / rate, "events", f"c{card:04d}", event.rstrip("\n").encode())
                sent += 1
