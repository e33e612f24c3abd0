"""Prequential evaluation: what every model version's scores were worth, from scores as served, once labels came.

In the way of an event behind the join of outcomes; its report becomes metrics, `W.signals` and `millrace models W`.

A served score has six digits, so a table of weights by score, one line for each different score, holds everything
that AP, AUC, log-loss, Brier score, calibration error and costs need: they are exact, and a million lines bound them.
There are three such tables: all examples; the same with weights that halve every `half_life`; and one for
each of the last `window` days. Time is event time: an example counts from the moment `known` at which its label came,
in the order in which examples come; precision at k is by the day of the event itself, once that day's labels
are there. Sums are added one by one in that order, so that no split into batches changes a bit of the report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.rules import EvaluationRule
from models.snapshot import pack, unpack
from models.tallies import ONE, Best, Measures, Table, measures, precision
from schemas.errors import DefinitionError
from schemas.time import MILLISECONDS

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

DAY = MILLISECONDS["d"]
BUFFER = 65_536  # rows that wait for a place in the tables
VERSIONS, SEGMENTS, YEARS = 16, 32, 3
OTHER, ALL = 32, 63  # segments: what is beyond the first 32; the whole
STEP = 1.05  # delays are counted in steps of 5 %
OF_DAY, VERSION, SEGMENT = 32, 26, 20  # bits below them in a key: day | version | segment | score
DAYS = OF_DAY - SEGMENT  # the same in a place, which is a key without its score


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


class _State(msgspec.Struct, tag="evaluation/1"):
    total: Table
    recent: Table
    best: Best
    delays: NDArray[np.float64]
    settled: dict[int, float] = {}
    versions: list[str] = []
    labels: list[int] = []
    last: list[int] = []
    served: list[int] = []
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
    """All model versions of one workload. Pure; goes on from `state`, a snapshot.

    The newest 16 versions and first 32 segments are told apart; precision at k covers three years at most, and keeps
    k groups a day and the positive ones until the day's labels are there.
    """

    def __init__(self, rule: EvaluationRule, state: bytes | None = None):
        self.rule = rule
        self._waiting = _Waiting()
        columns = 2 if rule.costs is None else 3
        none = np.zeros(0, np.int64)
        self._s = _State(
            Table(none, np.zeros((0, 2 * columns))),
            Table(none, np.zeros((0, columns))),
            Best(none, np.zeros(0, np.uint64), np.zeros((0, 3))),
            np.zeros(int(np.log(1e15) / np.log(STEP))),
        )
        if state:
            self._s = unpack(state, _State)
            if self._s.recent.sums.shape[1] != columns:
                raise DefinitionError("evaluation: found a state with other costs declared; start a new one")

    def served(self, version: str, count: int) -> None:
        """Count decisions that were served, whose labels may come."""
        self._s.served[self._slot(version, np.zeros(0, np.int64))] += count

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
            slot = self._slot(version, clock[rows])
            score = np.clip(np.rint(found[rows] * ONE), 0, ONE).astype(np.int64)
            place = (slot << VERSION) | (segments[rows] << SEGMENT)
            sums = self._sums(e, rows, score)
            self._waiting.keys.append(place | score)
            self._waiting.days.append(e.known[rows] // DAY)
            self._waiting.sums.append(np.hstack((sums * weight[rows, None], sums * fade[rows, None])))
            rows, score, place = rows[timely[rows]], score[timely[rows]], place[timely[rows]]
            looked = np.column_stack((score / ONE, weight[rows], e.labels[rows]))
            self._waiting.best.append(Best((day[rows] << OF_DAY | place) >> SEGMENT, groups[rows], looked))
            self._waiting.count += len(rows)
        if self._waiting.count > BUFFER:
            self._merge()

    def _fade(self, known: I64, weight: F64) -> F64:
        """Weights that double each half-life, in units of the one at `base`; whole half-lives are exact exponents."""
        s, half = self._s, self.rule.half_life
        base = max(int(known.max()) // half // 256 * 256, s.base)
        if base > s.base:
            self._merge()
            sums, columns = s.total.sums, s.recent.sums.shape[1]
            sums[:, columns:] = np.ldexp(sums[:, columns:], s.base - base)
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

    def _slot(self, version: str, clock: I64) -> int:
        """The number of a version, which takes the place of the one unheard of for longest where all are taken."""
        s = self._s
        if version not in s.versions:
            slot = len(s.versions) if len(s.versions) < VERSIONS else s.last.index(min(s.last))
            if slot == len(s.versions):
                for column in (s.labels, s.last, s.served):
                    column.append(0)
                s.versions.append(version)
            else:
                self._forget(slot)
            s.versions[slot], s.labels[slot], s.last[slot], s.served[slot] = version, 0, s.clock, 0
        slot = s.versions.index(version)
        s.labels[slot] += len(clock)
        s.last[slot] = int(clock[-1]) if len(clock) else s.last[slot]
        return slot

    def _forget(self, slot: int) -> None:
        s = self._s
        self._merge()
        for table in (s.total, s.recent):
            table.keep((table.keys >> VERSION) % 64 != slot)
        s.best = s.best.pick((s.best.places >> VERSION - SEGMENT) % 64 != slot)
        s.settled = {p: v for p, v in s.settled.items() if (p >> VERSION - SEGMENT) % 64 != slot}

    def _sums(self, e: Labelled, rows: I64, score: I64) -> F64:
        """What a row adds: positive, negative, and its cost where costs are declared."""
        label, costs = e.labels[rows], self.rule.costs
        if costs is None:
            return np.column_stack((label, ~label)).astype(np.float64)
        if costs.by_amount and e.amount is None:
            raise DefinitionError("evaluation: costs go by amount, found no amount; pass Labelled(amount=)")
        alert = score >= round(costs.threshold * ONE)
        miss = costs.miss * (e.amount[rows] if costs.by_amount and e.amount is not None else 1.0)
        return np.column_stack((label, ~label, np.where(alert, ~label * costs.false_alarm, label * miss)))

    def _merge(self) -> None:
        """Bring waiting rows into the tables, forget days that have passed, settle those whose labels are there."""
        s, w, rule = self._s, self._waiting, self.rule
        if w.keys:
            keys, sums, columns = np.concatenate(w.keys), np.concatenate(w.sums), s.recent.sums.shape[1]
            s.total.add(keys, sums)
            s.recent.add(np.concatenate(w.days) << OF_DAY | keys, sums[:, :columns])
            parts = [s.best, *w.best]
            s.best = Best(
                np.concatenate([b.places for b in parts]),
                np.concatenate([b.groups for b in parts]),
                np.concatenate([b.rows for b in parts]),
            ).top(rule.k)
            self._waiting = _Waiting()
        s.recent.keep(s.recent.keys >> OF_DAY > s.clock // DAY - rule.window)
        over = (((s.best.places >> DAYS) + 1) * DAY + rule.horizon) <= s.clock
        if over.any():
            done = s.best.pick(over)
            whole = Best(done.places | ALL, done.groups, done.rows).top(rule.k)
            for part in (done, whole) if s.segments else (whole,):
                for place in np.unique(part.places).tolist():
                    s.settled[place] = precision(part.rows[part.places == place], rule.k)
            s.best = s.best.pick(~over)
            oldest = s.clock // DAY - YEARS * 366
            s.settled = {p: v for p, v in sorted(s.settled.items()) if p >> DAYS >= oldest}

    def report(self) -> dict[str, object]:
        """By version: labels, served, unlabelled (a share), and `overall`, `fading` and `window`: n, positives, …

        The same three for each of `segments`. `delay`: mean, p50 and p90 in ms (to 5 %); `until`: the newest label.
        n and positives are weighted. What has no meaning, such as an AP without a positive, is nan.
        """
        self._merge()
        s = self._s
        versions: dict[str, object] = {}
        for slot, name in enumerate(s.versions):
            named = [(i, name) for i, name in enumerate(s.segments)]
            named += [(OTHER, "other")] if s.segments else []
            parts = {part: self._measures(slot, i) for i, part in named}
            whole = self._measures(slot, ALL)
            served, seen = s.served[slot], whole["overall"]["n"]
            unlabelled = max(0.0, 1 - seen / served) if served else float("nan")
            about = {"labels": s.labels[slot], "served": served, "unlabelled": unlabelled}
            versions[name] = about | whole | {"segments": {n: m for n, m in parts.items() if m["overall"]["n"]}}
        return {"until": s.clock, "delay": self._delay(), "versions": versions}

    def _delay(self) -> Measures:
        counts, total = self._s.delays, float(self._s.delays.sum())
        if not total:
            return dict.fromkeys(("mean", "p50", "p90"), float("nan"))
        at = np.searchsorted(np.cumsum(counts), np.array([0.5, 0.9]) * total)
        p50, p90 = np.expm1((at + 0.5) * np.log(STEP)).tolist()
        return {"mean": self._s.delay / total, "p50": p50, "p90": p90}

    def _measures(self, slot: int, segment: int) -> dict[str, Measures]:
        """Overall, fading and window measures of one version in one segment or ALL."""
        s, rule = self._s, self.rule
        columns = s.recent.sums.shape[1]
        tables = []
        for table in (s.total, s.recent):
            mine = (table.keys >> VERSION) % 64 == slot
            if segment != ALL:
                mine &= (table.keys >> SEGMENT) % 64 == segment
            one = Table(np.zeros(0, np.int64), np.zeros((0, table.sums.shape[1])))
            one.add(table.keys[mine] % (1 << SEGMENT), table.sums[mine])
            tables.append(one)
        total, recent = tables
        now = np.ldexp(np.exp2(s.clock % rule.half_life / rule.half_life), s.clock // rule.half_life - s.base)
        faded = total.sums[:, columns:] / now
        sums = {"overall": (total.keys, total.sums[:, :columns]), "fading": (total.keys, faded)}
        sums["window"] = (recent.keys, recent.sums)
        place = (slot << VERSION - SEGMENT) | segment
        days = {p >> DAYS: v for p, v in s.settled.items() if p % (1 << DAYS) == place}
        day, at_k = np.array(list(days), np.int64), np.array(list(days.values()))
        last = (s.clock - rule.horizon) // DAY - 1
        weights = {"overall": np.ones(len(day)), "fading": np.exp2((day - last) * (DAY / rule.half_life))}
        weights["window"] = (day > last - rule.window).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                part: measures(keys, values, rule.bins)
                | {f"precision_at_{rule.k}": float((weights[part] * at_k).sum() / weights[part].sum())}
                for part, (keys, values) in sums.items()
            }

    def snapshot(self) -> bytes:
        """The state; `Evaluation(rule, snapshot)` goes on from it."""
        self._merge()
        return pack(self._s)
