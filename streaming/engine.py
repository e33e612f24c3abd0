"""The stages of a plan as functions over batches of columns, the same for every runner.

A batch comes in as values, leaves as decisions, and is `Events` in between: columns, not objects. Nothing here
reads a clock, draws a random number or waits for anything; runners bring states, bytes and time.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from operators.join import Join, Label
from operators.kernels.ids import hash_ids
from operators.kernels.tables import Rows
from schemas.codec import DeadLetter, Decoder, Values
from schemas.records import Event
from schemas.time import duration
from streaming.kernels import LARGEST, believable
from streaming.plan import Plan, Stage

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

K = TypeVar("K", contravariant=True)


class States(Protocol[K]):
    """States of the join by slot: a list for one batch, a mapping by id for a whole run; `b""` where there is none."""

    def __getitem__(self, slot: K, /) -> bytes: ...

    def __setitem__(self, slot: K, state: bytes, /) -> None: ...


_AT = attrgetter("at")

NO_LABELS = np.empty(0)

Fold = Callable[[Rows, F64], NDArray[np.bool_]]
"""Folds records into the states of their keys; features f64[k, f] into the second. Which of them were fresh."""

Lookup = Callable[[str, Sequence[str], tuple[str, ...]], tuple[F64, NDArray[np.bool_]]]
"""Reads f64[k, fields] of entities from the online store (NaN: not there), and bool[k]: whether the store answered."""


class Events(msgspec.Struct, frozen=True, eq=False):
    """`k` decoded events.

    index: their positions in the batch they came in; ids; entities: for each stage the k keys, then for each field
    that is a mapping the k lists of its names, parted by zero characters; at i64[k] ms; hash u64[k] of the ids;
    numbers f64[k, c]: numeric fields; features f64[k, f]: what stages wrote so far.
    """

    index: I64
    ids: list[str]
    entities: tuple[list[str], ...]
    at: I64
    hash: NDArray[np.uint64]
    numbers: F64
    features: F64

    def take(self, rows: NDArray[np.bool_]) -> "Events":
        """Only the events where `rows` is true."""
        if np.count_nonzero(rows) == len(rows):
            return self
        keep = np.flatnonzero(rows).tolist()
        return Events(
            self.index[rows], [self.ids[i] for i in keep],
            tuple([keys[i] for i in keep] if keys else [] for keys in self.entities),
            self.at[rows], self.hash[rows], self.numbers[rows], self.features[rows],
        )  # fmt: skip


class Intake:
    """Values → events and dead letters. From records of `another` definition of an event only what labels are told is
    taken: they may lack it, too (a text is empty then, a number NaN)."""

    def __init__(self, plan: Plan, another: bool = False):
        workload = plan.workload
        fields, told = workload.fields, plan.told
        if another:
            fields = tuple(replace(field, optional=True) for field in fields)
        self._decoder = Decoder(_loose(plan) if another else workload.event)
        self._fields = [
            (attrgetter(field.name) if not another or field.name in told else _nothing, field) for field in fields
        ]
        self._required = np.array([not field.optional for field in fields for _ in field.columns], np.bool_)
        self._entities = [attrgetter(stage.entity) for stage in plan.stages]
        self._names = workload.numbers
        self._skew = duration(workload.skew)
        self._width = len(plan.keyed)

    def __call__(self, values: Values, arrived: I64) -> tuple[Events, list[DeadLetter]]:
        """Decode `values`, which arrived at `arrived` i64[n] ms."""
        records, positions, dead = self._decoder.batch(values)
        if positions is not None:
            arrived = arrived[positions]
        index = np.arange(len(values)) if positions is None else np.array(positions, np.int64)
        try:
            events = self._columns(records, index)
        except OverflowError:
            some = [i for i, record in enumerate(records) if not self._huge(record, int(index[i]), dead)]
            records, index, arrived = [records[i] for i in some], index[some], arrived[some]
            events = self._columns(records, index)
        good = self._refuse(events, arrived, dead)
        return (events if good is None else events.take(good)), dead

    def _huge(self, record: Event, index: int, dead: list[DeadLetter]) -> bool:
        """Whether a whole number of `record` is beyond float64; then it is added to `dead`."""
        for get, field in self._fields:
            found = get(record)
            values = found.values() if field.room and found else (found,)
            if any(isinstance(value, int) and abs(value) > LARGEST for value in values):
                detail = f"found a number of many digits at `$.{field.name}`, expected one up to {LARGEST:g}"
                dead.append(DeadLetter(index, "not-finite", detail))
                return True
        return False

    def _columns(self, records: Sequence[Event], index: I64) -> Events:
        k = len(records)
        ids = [record.id for record in records]
        numbers = np.empty((k, len(self._names)))
        texts = [list(map(entity, records)) for entity in self._entities]
        column = 0
        for get, field in self._fields:
            values = map(get, records)
            if field.room:
                texts.append(_entries(values, numbers[:, column : column + field.room + 1]))
            elif field.optional:
                numbers[:, column] = [math.nan if value is None else value for value in values]
            else:
                numbers[:, column] = np.fromiter(values, np.float64, k)
            column += len(field.columns)
        return Events(
            index, ids, tuple(texts), np.fromiter(map(_AT, records), np.int64, k), hash_ids(ids), numbers,
            np.empty((k, self._width)),
        )  # fmt: skip

    def _refuse(self, events: Events, arrived: I64, dead: list[DeadLetter]) -> NDArray[np.bool_] | None:
        """Which events are in range (None: all of them); the others are added to `dead`."""
        latest = arrived + self._skew
        if believable(events.at, latest, events.numbers, self._required):
            return None
        future = events.at > latest
        beyond = ~((np.abs(events.numbers) <= LARGEST) | (np.isnan(events.numbers) & ~self._required))
        infinite = beyond.any(axis=1)
        for row in np.flatnonzero(infinite).tolist():
            place = int(np.flatnonzero(beyond[row])[0])
            found = f"{events.numbers[row, place]:g} at `$.{self._names[place]}`"
            detail = f"found {found}, expected a number up to {LARGEST:g}"
            dead.append(DeadLetter(int(events.index[row]), "not-finite", detail))
        for row in np.flatnonzero(future & ~infinite).tolist():
            ahead = int(events.at[row] - arrived[row])
            detail = f"`at` is {ahead} ms after the record arrived, expected at most {self._skew}"
            dead.append(DeadLetter(int(events.index[row]), "future", detail))
        good: NDArray[np.bool_] = ~(future | infinite)
        return good


def _loose(plan: Plan) -> type[Event]:
    """Events that may have of what labels are told whatever they have, and anything else."""
    kinds: list[tuple[str, Any, Any]] = [(s.entity, str if s.entity in plan.told else Any, "") for s in plan.stages]
    numbers = ((f.name, dict[str, float] if f.room else float) for f in plan.workload.fields if f.name in plan.told)
    kinds += [(name, kind | None, None) for name, kind in numbers]
    return cast("type[Event]", msgspec.defstruct("Loose", kinds, bases=(Event,), frozen=True))


def _nothing(record: Event) -> None:
    """No value."""


def _entries(mappings: Iterable[Mapping[str, float] | None], out: F64) -> list[str]:
    """The values of each mapping to a row of `out`, by name, then how many; returns the names of each."""
    out[:] = math.nan
    names = []
    for row, mapping in zip(out, mappings, strict=True):
        ordered = sorted((mapping or {}).items())
        row[: len(ordered)] = [value for _, value in ordered]
        row[-1] = len(ordered)
        names.append("\0".join(name.replace("\0", "\u2400") for name, _ in ordered))
    return names


@lru_cache(4096)
def _hashes(text: str, room: int) -> tuple[float, ...]:
    """A number from 1 to 2**52 for each name of `text`, then 0."""
    found = (hash_ids(text.split("\0") if text else []) >> np.uint64(12)).tolist()
    return tuple(1.0 + h for h in found) + (0.0,) * (room - len(found))


class Labels(msgspec.Struct, frozen=True, eq=False):
    """`k` labels for one stage: at, origin i64[k] ms (known since, about an event of), label f64[k] 0 or 1,
    hash u64[k] of the event ids, columns f64[k, c]: what the features of the stage read of the events."""

    at: I64
    origin: I64
    label: F64
    hash: NDArray[np.uint64]
    columns: F64


def no_labels(width: int) -> Labels:
    """No labels, for a stage that reads `width` columns."""
    empty = np.empty(0, np.int64)
    return Labels(empty, empty, np.empty(0), np.empty(0, np.uint64), np.empty((0, width)))


def to_labels(labels: Sequence[Label], stage: Stage) -> Labels:
    """The labels that the join handed out, as columns of `stage`."""
    ids, at, origin, label, numbers, _ = zip(*labels, strict=True)
    known, about, told = np.array(at, np.int64), np.array(origin, np.int64), np.array(label, np.float64)
    return Labels(known, about, told, hash_ids(ids), np.array(numbers, np.float64)[:, list(stage.columns)])


def update(
    stage: Stage, fold: Fold, slot: NDArray[np.int32], events: Events, labels: Labels
) -> tuple[Events, NDArray[np.bool_]]:
    """Bring labels and events of one batch into the states of `stage` by `fold`, and the features into the events.

    slot i32[labels + events] is the row of each, labels first: a label counts for later events only, so nothing
    depends on when within its batch it comes. Returns the events that are no duplicates, and which those are, bool[k].
    """
    k, told = len(events.ids), len(labels.at)
    features = stage.features
    columns = events.numbers[:, list(stage.columns)]
    for place, room in stage.names:
        names = np.reshape([_hashes(text, room) for text in events.entities[place]], (k, room))
        columns = np.concatenate((columns, names), axis=1)
    out = np.empty((told + k, len(features.names)))
    if told:
        rows, main = _told(slot, events, labels, columns)
        fresh, written = fold(rows, out)[main], out[main]
    else:
        rows = Rows(slot, np.zeros(k, np.uint8), events.at, events.at, NO_LABELS, events.hash, columns)
        fresh, written = fold(rows, out), out
    events.features[:, stage.start : stage.stop] = written
    return events.take(fresh), fresh


def _told(slot: NDArray[np.int32], events: Events, labels: Labels, columns: F64) -> tuple[Rows, NDArray[np.bool_]]:
    """Labels and events of a batch in the order of `_order`, and which of the rows are events."""
    k, told = len(events.ids), len(labels.at)
    about = np.pad(labels.columns, ((0, 0), (0, columns.shape[1] - labels.columns.shape[1])))
    rows = Rows(
        slot=slot, port=np.repeat(np.array([1, 0], np.uint8), (told, k)), at=np.concatenate((labels.at, events.at)),
        origin=np.concatenate((labels.origin, events.at)), label=np.concatenate((labels.label, np.zeros(k))),
        ids=np.concatenate((labels.hash, events.hash)), columns=np.concatenate((about, columns)),
    )  # fmt: skip
    order = _order(labels.at, events.at)
    rows = Rows._make(column[order] for column in rows)
    return rows, rows.port == 0


def _order(labels: I64, events: I64) -> I64:
    """The order of a batch, labels numbered first: each label right before the first event later than it.

    A key remembers few labels that it cannot count yet; told no sooner than needed, and by time, few is enough,
    and what is too much is the same in every run.
    """
    place = np.searchsorted(np.maximum.accumulate(events), labels, side="right")
    places = np.concatenate((2 * place, 2 * np.arange(len(events)) + 1))
    order: I64 = np.lexsort((np.concatenate((labels, events)), places))
    return order


class Truth(NamedTuple):
    """An outcome: of which event, known since when (ms), what, and who says so."""

    event: str
    at: int
    label: bool
    source: str


class Joiner:
    """Events and outcomes of a batch → labels, by event id."""

    def __init__(self, plan: Plan):
        self._join = Join(len(plan.workload.numbers))
        self._entities = [stage.index for stage in plan.labelled]

    def events(self, events: Events, states: States[K], slots: Sequence[K]) -> list[Label]:
        """Bring `events` into the states of their ids, `states[slot]`; labels of outcomes that were there already."""
        labels = []
        texts = zip(*(events.entities[i] for i in self._entities), strict=True)
        rows = zip(slots, events.ids, events.at.tolist(), events.numbers.tolist(), texts, strict=True)
        for slot, id, at, numbers, keys in rows:
            states[slot], label = self._join.event(states[slot], id, at, numbers, keys)
            if label is not None:
                labels.append(label)
        return labels

    def outcomes(self, outcomes: Sequence[Truth], states: States[K], slots: Sequence[K]) -> list[Label]:
        """Bring outcomes into the states of their ids; labels of events that were there."""
        labels = []
        for slot, (id, at, label, _) in zip(slots, outcomes, strict=True):
            states[slot], told = self._join.outcome(states[slot], id, at, label)
            if told is not None:
                labels.append(told)
        return labels


class OutcomeIntake:
    """Values → outcomes and dead letters."""

    def __init__(self, plan: Plan):
        assert plan.workload.outcome is not None
        self._decoder = Decoder(plan.workload.outcome)
        self._skew = duration(plan.workload.skew)

    def __call__(self, values: Values, arrived: I64) -> tuple[list[Truth], list[int], list[DeadLetter]]:
        """Outcomes in `values`, which arrived at `arrived` i64[n] ms; their positions; dead letters for the others."""
        records, positions, dead = self._decoder.batch(values)
        where = range(len(values)) if positions is None else positions
        good, kept = [], []
        for record, index in zip(records, where, strict=True):
            ahead = record.at - int(arrived[index])
            if ahead > self._skew:
                detail = f"`at` is {ahead} ms after the record arrived, expected at most {self._skew}"
                dead.append(DeadLetter(index, "future", detail))
            else:
                good.append(Truth(record.event, record.at, record.label, record.source))
                kept.append(index)
        return good, kept, dead
