"""Prequential evaluation: what every model version's scores were worth, from scores as served, once labels came.

In the way of an event behind the join of outcomes; its report becomes metrics, `W.signals` and `millrace models W`.

A served score has six digits, so a table of weights by score and label, one line for each pair that was seen, holds
everything that AP, AUC, log-loss, Brier score and calibration error need; one more line is what it cost. They are exact
while a version or lineage has up to 32,768 lines, of all segments; above that, scores are rounded to three digits that
count (`tallies.coarse`), which leaves 12,802 lines a segment. There are three such sums: all examples; the same with
weights that halve every `half_life`; and one for each of the last `window` days. Time is event time: an example counts
from the moment `known` at which its label came, in the order in which examples come; precision at k is by the day of
the event itself, once that day's labels are there. Sums are added one by one in that order, so that no split into
batches changes a bit of the report.

A lineage is what versions follow one another in. While labels of a version may still come it has tables of its own;
then it is closed: its figures are kept as they are, and its lines are added to those of its lineage, whose figures
are those of all its versions. So a new version every day and labels that are weeks late lose nothing.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.rules import EvaluationRule
from models.snapshot import pack, unpack
from models.tallies import ONE, STEP, Best, Measures, Packed, Table, coarse, delays, measures, packed, precision
from schemas.errors import DefinitionError
from schemas.time import MILLISECONDS

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

DAY = MILLISECONDS["d"]
BUFFER = 65_536  # rows that wait for a place in the tables
LINEAGES, VERSIONS, CLOSED, SEGMENTS, YEARS = 16, 256, 64, 32, 3
LINES = 32_768  # that a slot has with scores as served; where it has more, they are rounded
OTHER, ALL = 32, 63  # segments: what is beyond the first 32; the whole
OF_DAY, SLOT, SEGMENT = 39, 27, 21  # bits below them in a key: day | slot | segment | score | label
DAYS, SLOTS = OF_DAY - SEGMENT, SLOT - SEGMENT  # the same in a place, which is a key without score and label
MASK = (1 << OF_DAY - SLOT) - 1
COST = (ONE + 1) << 1  # the line of what it cost, in the place of a score


@dataclass(frozen=True)
class Labelled:
    """`k` examples in the order in which they came.

    labels bool[k]; at i64[k] ms, of the event; known i64[k] ms, of its label; weight f64[k], one over the share that
    was sampled; segments k names; groups u64[k], hashes of what is looked at as one (a card); amount f64[k].
    """

    labels: NDArray[np.bool_]
    at: I64
    known: I64
    weight: F64 | None = None
    segments: Sequence[str] | None = None
    groups: NDArray[np.uint64] | None = None
    amount: F64 | None = None


class _Slot(msgspec.Struct):
    """A lineage or an open version, and the slot of its lineage."""

    name: str
    lineage: int
    labels: int = 0
    served: float = 0.0
    last: int = -1  # when its newest label came


class _Closed(msgspec.Struct):
    lineage: str
    labels: int
    served: float
    unlabelled: float
    overall: Measures


class _State(msgspec.Struct, tag="evaluation/2"):
    total: Packed
    recent: Packed
    best: Packed
    groups: NDArray[np.uint64]
    delays: NDArray[np.float64]
    costs: bool
    settled: dict[int, dict[int, float]] = {}  # slot and segment: day: precision
    slots: dict[int, _Slot] = {}
    closed: dict[str, _Closed] = {}
    segments: list[str] = []
    clock: int = -1  # the newest `known`
    base: int = 0  # half-lives from the epoch at which a fading weight is 1
    rows: int = 0
    delay: float = 0.0


@dataclass
class _Waiting:
    """Rows that have no place in the tables yet."""

    keys: list[I64] = field(default_factory=list)
    days: list[I64] = field(default_factory=list)
    sums: list[F64] = field(default_factory=list)
    best: list[Best] = field(default_factory=list)
    count: int = 0


class Evaluation:
    """All model versions of one workload; `lineage` says which one a version is of. Pure; goes on from `state`.

    16 lineages, 256 open versions and the first 32 segments are told apart, and of the 64 versions that were closed
    last the figures are kept; where there are more, the one unheard of for longest is forgotten, or closed. Precision
    at k covers three years at most, and keeps k groups a day and the positive ones until the day's labels are there.
    """

    def __init__(self, rule: EvaluationRule, state: bytes | None = None, lineage: Callable[[str], str] = str):
        self.rule, self._lineage = rule, lineage
        self._waiting = _Waiting()
        none = packed(np.zeros(0, np.int64), [np.zeros(0)] * 3)
        self._s = s = _State(
            none, none, none, np.zeros(0, np.uint64), np.zeros(int(np.log(1e15) / np.log(STEP))), rule.costs is not None
        )
        if state:
            self._s = s = unpack(state, _State)
            if s.costs != (rule.costs is not None):
                raise DefinitionError("evaluation: found a state with other costs declared; start a new one")
        (total, sums), (recent, counts), (places, rows) = (x.unpacked() for x in (s.total, s.recent, s.best))
        self._total, self._recent = Table(total, sums[:, :2]), Table(recent, counts[:, :1])
        self._best = Best(places, s.groups, rows)
        self._numbers = {(number < LINEAGES, slot.name): number for number, slot in s.slots.items()}

    def served(self, version: str, weight: float) -> None:
        """Count decisions that were served, whose labels may come, by what they weigh."""
        for slot in self._slots(version):
            slot.served += weight

    def add(self, e: Labelled, scores: Mapping[str, F64]) -> None:
        """Take examples with the scores f64[k] of each version, as served; NaN where it did not see the event."""
        s, k = self._s, len(e.labels)
        if not k:
            return
        given = (e.at, e.known, e.weight, e.segments, e.groups, e.amount, *scores.values())
        if any(column is not None and len(column) != k for column in given):
            raise DefinitionError(f"evaluation: found columns of other lengths, expected {k} rows in each")
        weight = np.ones(k) if e.weight is None else np.asarray(e.weight, np.float64)
        fade = self._fade(e.known, weight)
        clock = np.maximum.accumulate(np.maximum(e.known, s.clock))
        s.clock = int(clock[-1])
        segments = self._segments(e.segments, k)
        day = e.at // DAY
        timely = (day + 1) * DAY + self.rule.horizon > clock
        groups = np.arange(s.rows, s.rows + k).astype(np.uint64) if e.groups is None else e.groups
        s.rows += k
        delay = np.maximum(e.known - e.at, 0)
        bucket = np.minimum(np.log1p(delay) / np.log(STEP), len(s.delays) - 1).astype(np.int64)
        np.add.at(s.delays, bucket, weight)
        s.delay = float(np.cumsum(np.append(s.delay, weight * delay))[-1])
        for version, found in scores.items():
            rows = np.flatnonzero(np.isfinite(found))
            place = (self._count(version, clock[rows]) << SLOT) | (segments[rows] << SEGMENT)
            score = np.clip(np.rint(found[rows] * ONE), 0, ONE).astype(np.int64)
            cost = self._cost(e, rows, score)
            dear = np.flatnonzero(cost)  # few are
            every = np.concatenate((rows, rows[dear]))
            times = np.concatenate((np.ones(len(rows)), cost[dear]))
            self._waiting.keys += [place | score << 1 | e.labels[rows], place[dear] | COST]
            self._waiting.days.append(e.known[every] // DAY)
            self._waiting.sums.append(np.column_stack((weight[every] * times, fade[every] * times)))
            rows, score, place = rows[timely[rows]], score[timely[rows]], place[timely[rows]]
            looked = np.column_stack((score, weight[rows], e.labels[rows]))
            self._waiting.best.append(Best((day[rows] << OF_DAY | place) >> SEGMENT, groups[rows], looked))
            self._waiting.count += len(every)
        if self._waiting.count > BUFFER:
            self._merge()

    def _fade(self, known: I64, weight: F64) -> F64:
        """Weights that double each half-life, in units of the one at `base`; whole half-lives are exact exponents."""
        s, half = self._s, self.rule.half_life
        base = max(int(known.max()) // half // 256 * 256, s.base)
        if base > s.base:
            self._merge()
            self._total.sums[:, 1] = np.ldexp(self._total.sums[:, 1], s.base - base)
            s.base = base
        return np.asarray(weight * np.ldexp(np.exp2(known % half / half), known // half - s.base))

    def _segments(self, names: Sequence[str] | None, k: int) -> I64:
        known = self._s.segments
        if names is None:
            return np.full(k, OTHER, np.int64)
        for name in dict.fromkeys(names):
            if name not in known and len(known) < SEGMENTS:
                known.append(name)
        number = {name: i for i, name in enumerate(known)}
        return np.array([number.get(name, OTHER) for name in names], np.int64)

    def _slots(self, version: str) -> list[_Slot]:
        """What a version counts for: its lineage and, unless it is closed, itself."""
        line = self._number(self._lineage(version), range(LINEAGES))
        numbers = [line]
        if version not in self._s.closed:
            numbers.append(self._number(version, range(LINEAGES, LINEAGES + VERSIONS), line))
        return [self._s.slots[number] for number in numbers]

    def _number(self, name: str, among: range, lineage: int | None = None) -> int:
        """The slot of a name, which takes the place of the one unheard of for longest where all are taken."""
        s, key = self._s, (lineage is None, name)
        if key not in self._numbers:
            number = next((n for n in among if n not in s.slots), -1)
            if number < 0:
                number = min(among, key=lambda n: (s.slots[n].last, n))
                if lineage is None:
                    self._forget(number)
                else:
                    self._shut(number)
            s.slots[number] = _Slot(name, number if lineage is None else lineage, last=s.clock)
            self._numbers[key] = number
        return self._numbers[key]

    def _count(self, version: str, clock: I64) -> int:
        """Count labels, and return the slot whose lines they make."""
        slots = self._slots(version)
        for slot in slots:
            slot.labels += len(clock)
            slot.last = int(clock[-1]) if len(clock) else slot.last
        return self._numbers[len(slots) == 1, slots[-1].name]

    def part(self, version: str) -> None:
        """`version` is of another lineage from now on, and so is what an open one has been worth."""
        line = self._number(self._lineage(version), range(LINEAGES))
        if number := self._numbers.get((False, version)):
            slot, new = self._s.slots[number], self._s.slots[line]
            old, slot.lineage, new.last = self._s.slots[slot.lineage], line, slot.last
            old.labels, new.labels = old.labels - slot.labels, new.labels + slot.labels
            old.served, new.served = old.served - slot.served, new.served + slot.served

    def close(self, serving: Collection[str], quiet: int) -> None:
        """Close the versions that are not among those `serving`, and of which no label came for `quiet` ms.

        Scores of what has too many lines are rounded. To be called at times that the examples alone decide.
        """
        for number, slot in sorted(self._s.slots.items()):
            if number >= LINEAGES and slot.name not in serving and slot.last + quiet < self._s.clock:
                self._shut(number)
        self._merge()
        for table in (self._total, self._recent):
            of = table.keys >> SLOT & MASK
            those = (np.bincount(of, minlength=1) > LINES)[of]
            table.move(those, coarse(table.keys[those]))

    def _shut(self, number: int) -> None:
        """Close a version."""
        self._merge()
        s, slot = self._s, self._s.slots[number]
        figures = self._figures(slot, [number])
        s.closed[slot.name] = msgspec.convert(figures, _Closed)
        for name in [*s.closed][:-CLOSED]:
            del s.closed[name]
        by = slot.lineage - number
        for table in (self._total, self._recent):
            mine = table.keys >> SLOT & MASK == number
            table.move(mine, table.keys[mine] + (by << SLOT))
        mine = self._best.places >> SLOTS & MASK == number
        self._best.places[mine] += by << SLOTS
        self._best = self._best.top(self.rule.k)
        self._drop({number})

    def _forget(self, line: int) -> None:
        """Forget a lineage with its versions."""
        self._merge()
        numbers = [number for number, slot in self._s.slots.items() if slot.lineage == line]
        for table in (self._total, self._recent):
            table.keep(~np.isin(table.keys >> SLOT & MASK, numbers))
        self._best = self._best.pick(~np.isin(self._best.places >> SLOTS & MASK, numbers))
        self._drop({*numbers})

    def _drop(self, numbers: Collection[int]) -> None:
        s = self._s
        s.settled = {p: days for p, days in s.settled.items() if p >> SLOTS not in numbers}
        for number in numbers:
            del self._numbers[number < LINEAGES, s.slots.pop(number).name]

    def _cost(self, e: Labelled, rows: I64, score: I64) -> F64:
        """What each row cost, f64[rows]; nothing where no costs are declared."""
        label, costs = e.labels[rows], self.rule.costs
        if costs is None:
            return np.zeros(len(rows))
        if costs.by_amount and e.amount is None:
            raise DefinitionError("evaluation: costs go by amount, found no amount; pass Labelled(amount=)")
        alert = score >= round(costs.threshold * ONE)
        miss = costs.miss * (e.amount[rows] if costs.by_amount and e.amount is not None else 1.0)
        return np.where(alert, ~label * costs.false_alarm, label * miss)

    def _merge(self) -> None:
        """Bring waiting rows into the tables, forget days that have passed, settle those whose labels are there."""
        s, w, rule = self._s, self._waiting, self.rule
        if w.keys:
            keys, sums = np.concatenate(w.keys), np.concatenate(w.sums)
            self._total.add(keys, sums)
            self._recent.add(np.concatenate(w.days) << OF_DAY | keys, sums[:, :1])
            parts = [self._best, *w.best]
            self._best = Best(
                np.concatenate([b.places for b in parts]),
                np.concatenate([b.groups for b in parts]),
                np.concatenate([b.rows for b in parts]),
            ).top(rule.k)
            self._waiting = _Waiting()
        self._recent.keep(self._recent.keys >> OF_DAY > s.clock // DAY - rule.window)
        over = (((self._best.places >> DAYS) + 1) * DAY + rule.horizon) <= s.clock
        if over.any():
            self._settle(self._best.pick(over))
            self._best = self._best.pick(~over)
            oldest = s.clock // DAY - YEARS * 366
            kept = (
                (p, {d: v for d, v in sorted(days.items()) if d >= oldest}) for p, days in sorted(s.settled.items())
            )
            s.settled = {place: days for place, days in kept if days}

    def _settle(self, done: Best) -> None:
        """Precision at k of days that are over: of open versions and of lineages, in each segment and the whole."""
        s, k = self._s, self.rule.k
        number = done.places >> SLOTS & MASK
        lineage = np.zeros(LINEAGES + VERSIONS, np.int64)
        lineage[list(s.slots)] = [slot.lineage for slot in s.slots.values()]
        lines = Best(done.places + ((lineage[number] - number) << SLOTS), done.groups, done.rows)
        for part in (done.pick(number >= LINEAGES), lines):
            whole = Best(part.places | ALL, part.groups, part.rows)
            for rows in (part.top(k), whole.top(k)) if s.segments else (whole.top(k),):
                places, first = np.unique(rows.places, return_index=True)
                for place, best in zip(places.tolist(), np.split(rows.rows, first[1:]), strict=True):
                    s.settled.setdefault(place % (1 << DAYS), {})[place >> DAYS] = precision(best, k)

    def report(self, serving: Collection[str] = ()) -> dict[str, object]:
        """By lineage and by version: labels, served, unlabelled (a share), and `overall`, `fading` and `window`: n, …

        The same three for each of `segments` of lineages and of the versions `serving`; of a closed version only
        `overall`. `delay`: mean, p50 and p90 in ms (to 5 %); `until`: the newest label. n and positives are weighted.
        What has no meaning, such as an AP without a positive, is nan.
        """
        self._merge()
        s = self._s
        lineages: dict[str, object] = {}
        versions: dict[str, object] = {name: msgspec.structs.asdict(closed) for name, closed in s.closed.items()}
        for number, slot in sorted(s.slots.items()):
            if number >= LINEAGES:
                versions[slot.name] = self._figures(slot, [number], slot.name in serving)
            else:
                of = [n for n, other in sorted(s.slots.items()) if other.lineage == number]
                lineages[slot.name] = self._figures(slot, of, True)
        return {"until": s.clock, "delay": delays(s.delays, s.delay), "lineages": lineages, "versions": versions}

    def _figures(self, slot: _Slot, numbers: Sequence[int], segments: bool = False) -> dict[str, object]:
        """Counts of a slot, and the measures of what `numbers` have."""
        s, whole = self._s, self._measures(numbers, ALL)
        unlabelled = max(0.0, 1 - whole["overall"]["n"] / slot.served) if slot.served else float("nan")
        about: dict[str, object] = {"labels": slot.labels, "served": slot.served, "unlabelled": unlabelled}
        about |= {"lineage": s.slots[slot.lineage].name, **whole}
        if segments:
            named = [*enumerate(s.segments), (OTHER, "other")] if s.segments else []
            parts = {name: self._measures(numbers, i) for i, name in named}
            about["segments"] = {name: found for name, found in parts.items() if found["overall"]["n"]}
        return about

    def _measures(self, numbers: Sequence[int], segment: int) -> dict[str, Measures]:
        """Overall, fading and window measures of some slots together, in one segment or ALL."""
        s, rule = self._s, self.rule
        last = s.clock // DAY
        of = np.array(numbers, np.int64) << SLOT
        first, width = (of, 1 << SLOT) if segment == ALL else (of | segment << SEGMENT, 1 << SEGMENT)
        days = np.arange(max(last - rule.window, -1) + 1, last + 1) << OF_DAY
        total = self._total.within(first, width, 1 << SEGMENT)
        recent = self._recent.within(np.add.outer(days, first).ravel(), width, 1 << SEGMENT)
        now = np.ldexp(np.exp2(s.clock % rule.half_life / rule.half_life), s.clock // rule.half_life - s.base)
        sums = {"overall": total.sums[:, 0], "fading": total.sums[:, 1] / now, "window": recent.sums[:, 0]}
        settled = s.settled.get(numbers[0] << SLOTS | segment, {})
        day, at_k = np.array(list(settled), np.int64), np.array(list(settled.values()))
        over = (s.clock - rule.horizon) // DAY - 1
        weights = {"overall": np.ones(len(day)), "fading": np.exp2((day - over) * (DAY / rule.half_life))}
        weights["window"] = (day > over - rule.window).astype(np.float64)
        found: dict[str, Measures] = {}
        for part, values in sums.items():
            keys = recent.keys if part == "window" else total.keys
            scores = np.searchsorted(keys, COST)
            with np.errstate(invalid="ignore", divide="ignore"):
                at = {f"precision_at_{rule.k}": float((weights[part] * at_k).sum() / weights[part].sum())}
            cost = {"cost": float(values[scores:].sum())} if s.costs else {}
            found[part] = measures(keys[:scores], values[:scores], rule.bins) | cost | at
        return found

    def snapshot(self) -> bytes:
        """The state; `Evaluation(rule, snapshot)` goes on from it."""
        self._merge()
        s, best = self._s, self._best
        s.total = packed(self._total.keys, [*self._total.sums.T])
        s.recent = packed(self._recent.keys, [*self._recent.sums.T])
        s.best, s.groups = packed(best.places, [*best.rows.T]), best.groups
        s.slots = dict(sorted(s.slots.items()))
        return pack(s)
