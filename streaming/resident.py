"""What the micro-batch operator holds: stages of a plan behind `process(bytes) -> bytes`.

`open_stage` is called once for each operator instance, inside the TaskManager. A stage reads a request, runs the
functions of `engine` on its columns, and writes a response; both layouts are in `schemas.frames`.
"""

import gc
import sys
import time
from collections.abc import Sequence
from itertools import chain
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.snapshot import pack, unpack
from operators.join import WAITING, Label
from operators.kernels.texts import join, lines, split
from schemas import frames
from schemas.codec import DeadLetter
from schemas.frames import Request
from schemas.topics import Topics
from streaming import layouts, refit, told
from streaming.again import Again
from streaming.announced import Models
from streaming.apart import Apart, Told
from streaming.arrivals import Arrivals
from streaming.decider import Decided, Decider
from streaming.engine import Events, Intake, Joiner, OutcomeIntake, update
from streaming.kernels import read_rows, write_rows, write_sinks
from streaming.loop import ExampleOperator, LearnOperator, Tally, pending
from streaming.observe import Loop
from streaming.plan import Plan, Stage, plan
from streaming.serving import Services, Serving
from streaming.states import Table
from streaming.workloads import Reference, resolve

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

SWITCH = 0.0005
"""Seconds for which another thread may keep the interpreter from a stage that waits for it; Python's own are 0.005."""

Texts = list[str]


class StageSpec(msgspec.Struct, frozen=True):
    """What the job tells an operator: the workload, which stage of its plan (-1: the join), the name that its topics go
    by (empty: the workload's own), and since when (ms) what stands in them counts where it begins anew."""

    workload: Reference
    stage: int
    services: Services = Services()
    name: str = ""
    since: int = 0


EXAMPLES, LEARN = -2, -3
"""Numbers of the stages of the learning loop, as -1 is that of the join."""


def open_stage(spec: str, subtask: int) -> "JoinOperator | FeatureOperator | ExampleOperator | Apart":
    """The stage that `spec`, a `StageSpec` as JSON, names."""
    decoded, compiled, topics = _read(spec)
    sys.setswitchinterval(SWITCH)
    gc.collect()
    gc.freeze()  # what is loaded by now stays: a full collection over it would hold up a batch
    if decoded.stage in (EXAMPLES, LEARN):
        if decoded.stage == EXAMPLES:
            return ExampleOperator(compiled, topics, report=not compiled.labelled)
        assert compiled.workload.learning is not None
        reach = compiled.workload.learning.compile  # a model is not later than the next one
        known = layouts.Layouts(compiled.names).snapshot()
        return Apart("streaming.resident:open_learner", spec, Loop(compiled.workload.name).quality, reach, known)
    serving = Serving(compiled, decoded.stage, decoded.services)
    if decoded.stage < 0:
        return JoinOperator(compiled, topics, serving)
    stage, services = compiled.stages[decoded.stage], decoded.services
    counts = stage.last and services.counts and services.brokers
    again = Again(services.brokers, topics.decisions, decoded.since) if counts else None
    return FeatureOperator(compiled, topics, stage, serving, again, subtask)


def open_learner(spec: str, told: Told) -> LearnOperator:
    """The last stage of the learning loop, where it runs; it tells `told` the quality of each version."""
    decoded, compiled, topics = _read(spec)
    services = decoded.services
    request = refit.Request(decoded.workload, services.brokers, topics.examples, services.registry, topics.name)
    return LearnOperator(compiled, topics, services.registry, told, refit.Fitting(request))


def _read(spec: str) -> tuple[StageSpec, Plan, Topics]:
    decoded = msgspec.json.decode(spec, type=StageSpec)
    compiled = plan(resolve(decoded.workload))
    return decoded, compiled, Topics(decoded.name or compiled.workload.name)


class _Outputs:
    """Frames of a response with their tags."""

    def __init__(self) -> None:
        self._frames: list[bytes | memoryview] = []
        self._lengths: list[NDArray[np.int32]] = []
        self._tags: list[bytes] = []

    def add(self, tag: int, frames: Sequence[bytes]) -> None:
        if frames:
            self.put(tag, b"".join(frames), np.fromiter(map(len, frames), np.int32, len(frames)))

    def put(self, tag: int, frames: bytes | NDArray[np.uint8], lengths: NDArray[np.int32]) -> None:
        """Frames one behind the other, of `lengths` i32[m]."""
        self._frames.append(frames if isinstance(frames, bytes) else frames.data)
        self._lengths.append(lengths)
        self._tags.append(bytes((tag,)) * len(lengths))

    def response(self, state_length: NDArray[np.int32], states: bytes | memoryview) -> bytes:
        lengths = np.concatenate(self._lengths) if self._lengths else np.empty(0, np.int32)
        return frames.build_response(self._frames, b"".join(self._tags), state_length, states, None, lengths)


class _Operator:
    """What an operator is asked beside `process`: these keep nothing that is not in keyed state."""

    def __init__(self, plan: Plan, topics: Topics, serving: Serving):
        self._plan = plan
        self._topics = topics
        self._serving = serving

    def snapshot(self, _: bytes) -> bytes:
        """What a checkpoint keeps of this object: nothing."""
        return b""

    def close(self, _: bytes) -> bytes:
        """The operator ends."""
        self._serving.close()
        return b""


class _Schemas(msgspec.Struct, tag="join/2"):
    known: set[int]


class JoinOperator(_Operator):
    """Events and outcomes of one event id → labels for the stages that keep features of outcomes. Between batches an
    event waits as the record that it came as, which other definitions can read, too."""

    def __init__(self, plan: Plan, topics: Topics, serving: Serving):
        super().__init__(plan, topics, serving)
        self._intake = Intake(plan)
        self._joiner = Joiner(plan)
        self._layouts = [layouts.number(stage.features.inputs) for stage in plan.labelled]
        self._outcome_intake = OutcomeIntake(plan)
        self._schemas = {crc32(msgspec.json.encode(msgspec.json.schema(plan.workload.event)))}
        self._waited = self._intake

    def snapshot(self, _: bytes) -> bytes:
        """What a checkpoint keeps of this object: which types of events there were so far."""
        return pack(_Schemas(self._schemas))

    def restore(self, snapshot: bytes) -> None:
        """Where events were others, read what labels need of those that wait: whatever else they have."""
        self._schemas |= unpack(snapshot, _Schemas).known
        if len(self._schemas) > 1:
            self._waited = Intake(self._plan, another=True)

    def process(self, buffer: bytes) -> bytes:
        """Join one micro-batch: port 0 events, port 1 outcomes, keyed by event id."""
        began = time.perf_counter()
        request = frames.parse_request(buffer)
        states = request.states()
        before = states.copy()
        records = dict[int, bytes]()
        late = dict[str, tuple[int, int]]()
        labels = self._events(request, states, records, late)
        outputs = _Outputs()
        labels += self._outcomes(request, states, outputs)
        for slot, record in records.items():
            if states[slot][:1] == WAITING:
                states[slot] = frames.WAITING + record
        for position, stage in enumerate(self._plan.labelled):
            outputs.add(frames.ROW + stage.index, told.write(labels, stage, position, self._layouts[position], late))
        changed = [after if after is not state else None for after, state in zip(states, before, strict=True)]
        length = np.fromiter((-1 if state is None else len(state) for state in changed), np.int32, len(changed))
        self._serving.batch(len(request.slot), began)
        return outputs.response(length, b"".join(state for state in changed if state is not None))

    def _events(
        self, request: Request, states: list[bytes], records: dict[int, bytes], late: told.Late
    ) -> list[Label]:
        """Join the events that waited, then those that came; `records` gets the record of each, by its slot, `late`
        reach and place of those whose time went back, by id."""
        slots = np.array([i for i, state in enumerate(states) if state[:1] == frames.WAITING], np.int32)
        for slot in slots.tolist():
            states[slot] = b""
        start, rows = request.state_start()[slots], np.flatnonzero(request.port == frames.MAIN)
        waited = np.stack((start + 1, start + request.state_length[slots]))
        came = np.stack((request.start[rows], request.end[rows]))
        labels = self._join(self._waited, request, waited, slots, states, records, late)
        return labels + self._join(self._intake, request, came, request.slot[rows], states, records, late)

    def _join(
        self, intake: Intake, request: Request, bounds: I64, slots: NDArray[np.int32], states: list[bytes],
        records: dict[int, bytes], late: told.Late,
    ) -> list[Label]:  # fmt: skip
        if not len(slots):
            return []
        arrivals = Arrivals(request, bounds[0], self._topics.events)
        # The first feature stage reports its dead letters; of another definition, those were never decided.
        events, _ = intake(arrivals.values, arrivals.arrived)
        if intake is self._intake:  # as it was for that stage
            events = events.take(arrivals.own(events.entities[0], events.index))
        of = slots[events.index].tolist()
        for slot, (start, end) in zip(of, bounds.T[events.index].tolist(), strict=True):
            records.setdefault(slot, request.buffer[start:end])
        order = arrivals.order[events.index]
        for row in np.flatnonzero(order[:, 0] > events.at).tolist():
            start, end = bounds[:, events.index[row]].tolist()
            if records[of[row]] == request.buffer[start:end]:  # the first of its id
                late[events.ids[row]] = tuple(order[row].tolist())
        return self._joiner.events(events, states, of)

    def _outcomes(self, request: Request, states: list[bytes], outputs: _Outputs) -> list[Label]:
        rows = np.flatnonzero(request.port == frames.SIDE)
        if not len(rows):
            return []
        arrivals = Arrivals(request, request.start[rows], self._topics.outcomes)
        outcomes, kept, dead = self._outcome_intake(arrivals.values, arrivals.arrived)
        outputs.add(frames.DEADLETTER, [arrivals.deadletter(self._plan.workload.name, letter) for letter in dead])
        self._serving.observer.dead(dead)
        return self._joiner.outcomes(outcomes, states, request.slot[rows[kept]].tolist())


class _Kept(msgspec.Struct, tag="features/2"):
    taken: bytes
    told: bytes
    waiting: dict[str, float] = {}
    subtask: int = -1


class FeatureOperator(_Operator):
    """The features of one entity, and after the last entity the decision; with `again`, the same as before a crash."""

    def __init__(
        self, plan: Plan, topics: Topics, stage: Stage, serving: Serving, again: Again | None = None, subtask: int = 0
    ):  # fmt: skip
        super().__init__(plan, topics, serving)
        self._stage, self._subtask = stage, subtask
        self._table = Table(stage)
        self._intake = Intake(plan) if stage.index == 0 else None
        self._decider = Decider(plan, serving.lookup) if stage.last else None
        self._models = Models(plan, topics.name) if stage.last and plan.workload.follows else None
        self._learns = plan.workload.learning is not None
        self._again = again
        self._loop, self._layout = Loop(plan.workload.name), layouts.number(plan.names)
        self._told, self._tally = layouts.Layouts(stage.features.inputs), Tally()
        self._begun = False
        self._carried = [i for i in range(len(plan.stages) + plan.maps) if i != stage.index]
        self._words = len(plan.workload.numbers) + stage.start + 1
        texts = (*(other.entity for other in plan.stages), *(f.name for f in plan.workload.fields if f.room))
        numbers = (plan.workload.numbers + plan.keyed[:end] for end in (stage.start, stage.stop))
        self._came, self._goes = (layouts.number(texts + names) for names in numbers)
        self._named = not stage.last or any(feature.entity == stage.entity for feature in plan.enriched)

    def process(self, buffer: bytes) -> bytes:
        """Features of one micro-batch: port 0 events, port 1 labels, keyed by the entity of the stage."""
        began = time.perf_counter()
        request = frames.parse_request(buffer)
        outputs = _Outputs()
        self._table.admit(request)
        self._serving.admitted(request.rows)
        if not len(request.slot):
            states, length = self._table.hand_over(request.handed)
            return outputs.response(length, states)
        beside = self._stage.features.labelled and bool(request.port.any())
        rows = (request.port == frames.MAIN).nonzero()[0] if beside else np.arange(len(request.port))
        events, slot, order = self._arrive(request, rows, outputs) if self._intake else self._carry(request, rows)
        aside = np.flatnonzero(request.port == frames.SIDE) if beside else rows[:0]
        labels = told.read(request, aside, self._stage, self._told)
        both = np.concatenate((request.slot[aside], slot)) if beside else slot
        events, fresh = update(self._stage, self._table.fold, both, events, labels)
        self._serving.publish(self._stage, events, slot[fresh], self._table.keys)
        self._take(outputs)
        self._emit(events, order, outputs)
        self._serving.observer.duplicates(len(fresh) - np.count_nonzero(fresh))
        self._serving.batch(len(request.slot), began)
        states, length = self._table.hand_over(request.handed)
        return outputs.response(length, states)

    def _arrive(self, request: Request, rows: I64, outputs: _Outputs) -> tuple[Events, NDArray[np.int32], I64]:
        """Events of source frames, their rows, and reach and place of each that came; what cannot be decoded, or stands
        under another key, goes to the dead letters."""
        assert self._intake is not None
        arrivals = Arrivals(request, request.start[rows], self._topics.events)
        events, dead = self._intake(arrivals.values, arrivals.arrived)
        slot, good = request.slot[rows[events.index]], arrivals.own(events.entities[0], events.index)
        for row in np.flatnonzero(~good).tolist():
            key, own = self._table.keys[slot[row]], events.entities[0][row]
            detail = f"the record's key is {key!r}, its {self._stage.entity} {own!r}"
            dead.append(DeadLetter(int(events.index[row]), "key-mismatch", detail[:500]))
        outputs.add(frames.DEADLETTER, [arrivals.deadletter(self._plan.workload.name, letter) for letter in dead])
        self._serving.observer.dead(dead)
        self._serving.observer.arrived(arrivals.arrived)
        return events.take(good), slot[good], arrivals.order

    def _carry(self, request: Request, rows: I64) -> tuple[Events, NDArray[np.int32], I64]:
        """Events of row frames, as the stage before wrote them, their rows, and reach and place of each."""
        k, buffer = len(rows), np.frombuffer(request.buffer, np.uint8)
        start, end = request.start[rows], request.end[rows]
        read, joined, bounds = read_rows(buffer, start, end, self._words, self._came, len(self._carried) + 1)
        words, texts = read.view(np.float64), split(joined, bounds)
        numbers = len(self._plan.workload.numbers)
        features = np.empty((k, len(self._plan.keyed)))
        features[:, : self._stage.start] = words[:, 3 + numbers : -1]
        slot = request.slot[rows]
        entities: list[Texts] = [[] for _ in range(len(self._carried) + 1)]
        for position, index in enumerate(self._carried, start=1):
            entities[index] = texts[position * k : (position + 1) * k]
        if self._named:
            entities[self._stage.index] = list(map(self._table.keys.__getitem__, slot.tolist()))
        return Events(
            np.arange(k), texts[:k], tuple(entities),
            np.ascontiguousarray(words[:, 0]).view(np.int64), np.ascontiguousarray(words[:, -1]).view(np.uint64),
            np.ascontiguousarray(words[:, 3 : 3 + numbers]), features,
        ), slot, words[:, 1:3].view(np.int64)  # fmt: skip

    def _emit(self, events: Events, order: I64, outputs: _Outputs) -> None:
        """Rows for the next stage, or decisions."""
        if self._decider is None:
            self._rows(events, order[events.index], outputs)
            return
        if self._again is None:
            self._said(events, self._decider(events), outputs)
            return
        for part, before in self._again.of(events):
            self._said(part, self._decider(part, before), outputs)

    def _said(self, events: Events, decided: Decided, outputs: _Outputs) -> None:
        keys = [key for key, made in zip(events.entities[0], decided.made, strict=True) if made]
        outputs.put(frames.DECISION, *write_sinks(*join(keys), *lines(decided.lines, len(keys))))
        if self._learns:
            waiting = pending(events, decided, self._layout)
            outputs.add(frames.PENDING, waiting)
            self._loop.joined({"waiting": len(waiting)})
            outputs.add(frames.LESSON, self._tally.add(decided))
        self._serving.observer.decided(decided.actions, decided.degraded)

    def snapshot(self, _: bytes) -> bytes:
        """What a checkpoint keeps of this object: of the last stage, when it was taken and which decisions the teacher
        has not heard of, and the layouts of labels that may wait for the stage."""
        taken = self._again.snapshot() if self._again else b""
        told = self._told.snapshot() if self._stage.features.labelled else b""
        return pack(_Kept(taken, told, self._tally.waiting, self._subtask))

    def restore(self, snapshot: bytes) -> None:
        """Say again what was said since, and read labels as they were told."""
        kept = unpack(snapshot, _Kept)
        if self._again is not None and kept.taken:
            self._again.restore(kept.taken)
        if kept.told:
            self._told.restore(kept.told)
        if kept.subtask == self._subtask:  # each is told of all
            self._tally.waiting = kept.waiting

    def control(self, value: bytes) -> bytes:
        """An announcement of models; before the first batch there is time to take it up at once."""
        if self._models is not None:
            self._models.announced(value, wait=not self._begun)
        return frames.build_response([], b"", np.empty(0, np.int32), b"", None)

    def _take(self, outputs: _Outputs) -> None:
        """Models that became ready serve from this batch on."""
        self._begun = True
        if self._models is None or self._decider is None:
            return
        ready, signals = self._models.take()
        if ready is not None:
            self._decider.take(*ready)
            self._serving.observer.model(self._decider.version)
        outputs.add(frames.SIGNAL, signals)

    def _rows(self, events: Events, order: I64, outputs: _Outputs) -> None:
        numbers, hash = events.numbers, events.hash.view(np.float64)[:, None]
        words = np.concatenate((numbers, events.features[:, : self._stage.stop], hash), axis=1)
        following = self._stage.index + 1
        carried = [texts for index, texts in enumerate(events.entities) if index != following]
        joined = join([*events.entities[following], *events.ids, *chain.from_iterable(carried)])
        heads = np.column_stack((events.at, order)).reshape(-1).view(np.uint8)
        written = write_rows(heads, words.reshape(-1).view(np.uint8), self._goes, *joined)
        outputs.put(frames.ROW + following, *written)
