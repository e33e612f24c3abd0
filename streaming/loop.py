"""The learning loop on a cluster: two operators behind the last stage, and the way back to it.

Decisions wait by event id for their outcomes (`ExampleOperator`); what comes of both goes to the examples topic and,
inside the job, to the teacher (`LearnOperator`, in a process of its own: `streaming.apart`): its state is part of the
same checkpoint, so each example is learned once, whatever is killed. New models go to the registry, and
`millrace.models` tells the job, which takes them up between two batches (`streaming.announced`).
"""

import time
from collections import Counter
from collections.abc import Callable

import msgspec
import numpy as np

from models.drift import Reference
from models.registry import Registry, announcement
from models.snapshot import pack, unpack
from operators.examples import Due, ExampleJoin
from schemas import frames
from schemas.errors import DefinitionError, MillraceError, ModelRejected, Unavailable
from schemas.models import encode
from schemas.topics import Topics
from streaming.arrivals import Arrivals
from streaming.decider import Decided
from streaming.engine import Events, OutcomeIntake, Truth
from streaming.layouts import Layouts
from streaming.lesson import Lesson
from streaming.lineages import lineage
from streaming.observe import Loop
from streaming.plan import Plan
from streaming.refit import BY, Fitting
from streaming.signals import Signal, delay, encode_signal, quality, segments
from streaming.teacher import Teacher

LOOK = 1.0
"""Seconds between two looks at what people changed in the registry, and between two words of how many wait."""

REST = 60.0
"""Seconds until trees are fitted again where a service did not answer."""

GROWN = 1.1
"""A version is measured in the registry again when it has so many times the labels."""

_pack = msgspec.msgpack.Encoder().encode


class Served(msgspec.Struct, frozen=True, array_like=True):
    """What waits for an outcome: a decision's key, weight, the scores of each version, and its row (f64) with the
    number of its layout (`streaming.layouts`)."""

    key: str
    at: int
    weight: float
    versions: tuple[str, ...]
    scores: tuple[float, ...]
    row: bytes
    layout: int


class Taught(msgspec.Struct, frozen=True, array_like=True):
    """An example on its way to the teacher, with the `names` of its columns where they are others than today's."""

    id: str
    known: int
    label: bool
    presumed: bool
    source: str
    served: Served
    names: tuple[str, ...] = ()


_SERVED = msgspec.msgpack.Decoder(Served)
_TAUGHT = msgspec.msgpack.Decoder(Taught)
_WAITING = msgspec.msgpack.Decoder(dict[str, float])


def pending(events: Events, decided: Decided, layout: int) -> list[bytes]:
    """Row frames of the decisions that wait for an outcome, by event id; their rows are of `layout`."""
    rows = np.flatnonzero(decided.weight > 0).tolist()
    if not rows:
        return []
    at, weight = events.at.tolist(), decided.weight.tolist()
    scores = list(zip(*(scores.tolist() for scores in decided.scored), strict=True))
    keys, columns = events.entities[0], np.ascontiguousarray(decided.columns)

    def served(i: int) -> bytes:
        return _pack(Served(keys[i], at[i], weight[i], decided.versions, scores[i], columns[i].tobytes(), layout))

    return [frames.row(at[i], events.ids[i].encode(), served(i)) for i in rows]


class Tally:
    """Counts the decisions that wait, `waiting` by version, and tells the teacher now and then."""

    def __init__(self) -> None:
        self.waiting: dict[str, float] = {}
        self._told = 0.0

    def add(self, decided: Decided) -> list[bytes]:
        """The frame that tells of `decided` and those before, where it is time."""
        for version, weight in decided.waiting.items():
            self.waiting[version] = self.waiting.get(version, 0.0) + weight
        now = time.monotonic()
        if now - self._told < LOOK or not self.waiting:
            return []
        told, self._told, self.waiting = _pack(self.waiting), now, {}
        return [frames.row(0, b"", told)]


class ExampleOperator:
    """Decisions (port 0) and outcomes (port 1) of one event id → examples."""

    def __init__(self, plan: Plan, topics: Topics, report: bool):
        rule = plan.workload.learning
        assert rule is not None
        self._plan, self._topics, self._report = plan, topics, report
        self._layouts = Layouts(plan.names)
        self._intake = OutcomeIntake(plan)
        self._join = ExampleJoin(rule.horizon, rule.presume)
        self._loop = Loop(plan.workload.name)

    def process(self, buffer: bytes) -> bytes:
        """Join one micro-batch."""
        request = frames.parse_request(buffer)
        states, records = [self._waited(state) for state in request.states()], request.records()
        timer = np.full(len(states), frames.NONE, np.int64)
        counts: Counter[str] = Counter()
        outputs: list[tuple[int, bytes]] = []
        truths, dead = self._outcomes(request)
        for i, (slot, port) in enumerate(zip(request.slot.tolist(), request.port.tolist(), strict=True)):
            if port == frames.TIMER:
                states[slot], due, what = self._join.due(states[slot], frames.time(records[i]))
                when = self._join.ends(states[slot])  # None, but where the horizon is longer than it was
                if due is not None:
                    outputs += self._example(request.keys[slot].decode(), due)
            elif port == frames.MAIN:
                states[slot], when, what = self._decision(states[slot], records[i])
            elif i in truths:
                _, at, label, source = truths[i]
                states[slot], when, what = self._join.outcome(states[slot], at, label, source)
            else:  # what is no outcome took the record out of those that wait
                when, what = self._join.ends(states[slot]), ""
            timer[slot] = timer[slot] if when is None else when
            counts[what] += 1
        del counts["waiting"]  # most do so without a call: they were counted when they were served
        self._loop.joined(counts)
        outputs += [(frames.DEADLETTER, frame) for frame in dead]
        length = np.fromiter(map(len, states), np.int32, len(states))
        tags = bytes(tag for tag, _ in outputs)
        return frames.build_response([frame for _, frame in outputs], tags, length, b"".join(states), timer)

    def _decision(self, state: bytes, frame: bytes) -> tuple[bytes, int | None, str]:
        return self._join.decision(state, frames.time(frame), frames.payload(frame))

    def _waited(self, state: bytes) -> bytes:
        """A state in which no decision waits as the record that it came as."""
        return self._decision(b"", state[1:])[0] if state[:1] == frames.WAITING else state

    def _outcomes(self, request: frames.Request) -> tuple[dict[int, Truth], list[bytes]]:
        """Outcomes of the batch by their position, and dead letters: where the join of labels reports them, none."""
        rows = np.flatnonzero(request.port == frames.SIDE)
        if not len(rows):
            return {}, []
        arrivals = Arrivals(request, request.start[rows], self._topics.outcomes)
        truths, kept, dead = self._intake(arrivals.values, arrivals.arrived)
        letters = [arrivals.deadletter(self._plan.workload.name, letter) for letter in dead] if self._report else []
        return dict(zip(rows[kept].tolist(), truths, strict=True)), letters

    def _example(self, id: str, due: Due) -> list[tuple[int, bytes]]:
        """The record for the examples topic, and the frame for the teacher."""
        served = _SERVED.decode(due.served)
        row = np.frombuffer(served.row)
        names = self._layouts.of(served.layout, len(row))
        example = {
            "event": id, "at": served.at, "key": served.key, "label": due.label, "label_at": due.known,
            "presumed": due.presumed, "weight": served.weight, "source": due.source,
            "scores": dict(zip(served.versions, served.scores, strict=True)),
            "features": dict(zip(names, row.tolist(), strict=True)),
        }  # fmt: skip
        other = () if names == self._layouts.names else names
        taught = _pack(Taught(id, due.known, due.label, due.presumed, due.source, served, other))
        return [
            (frames.EXAMPLE, frames.sink(served.key.encode(), msgspec.json.encode(example))),
            (frames.LESSON, frames.row(due.known, b"", taught)),
        ]

    def snapshot(self, _: bytes) -> bytes:
        """The layouts of rows in keyed state, which is all there is besides."""
        return self._layouts.snapshot()

    def restore(self, snapshot: bytes) -> None:
        """Take up what another knew, which may have served what waits here now."""
        self._layouts.restore(snapshot)

    def close(self, _: bytes) -> bytes:
        """The operator ends."""
        return b""


class _Learned(msgspec.Struct, tag="learned/2"):
    teacher: bytes
    told: int  # revision of the lineup that was announced
    verdicts: list[Signal]  # that were not
    revision: int  # of the registry that was looked at


Quality = Callable[[str, str, dict[str, float]], None]
"""Hears the measures of a lineage in a segment; empty: of all."""


class LearnOperator:
    """Examples → models, in the registry and on `millrace.models`; and what an operator should be told.

    The one place that changes who is champion without being asked; what people change in the registry meanwhile
    (`millrace promote`, `rollback`, `freeze`) it takes up within a second. While the registry does not answer, is
    damaged or was changed by people at the same moment, it learns on, and announces later.
    """

    def __init__(self, plan: Plan, topics: Topics, registry: str, quality: Quality, fitting: Fitting | None = None):
        """Without `fitting` trees are fitted by nobody, whatever drift asks for."""
        self._name, self._teacher, self._own = topics.name, Teacher(plan, self._trained), plan.workload.model.version
        self._registry, self._quality, self._layouts = Registry(registry), quality, Layouts(plan.names)
        self._fitting, self._at, self._rest = fitting, 0, 0.0
        self._told, self._looked, self._revision = self._teacher.lineup.revision, 0.0, -1
        self._verdicts: list[Signal] = []
        self._anew: list[Signal] = []
        self._checked = False
        self._measured: dict[str, float] = {}  # labels of each version, when its measures went to the registry

    def process(self, buffer: bytes) -> bytes:
        """Learn from one micro-batch; returns records for topics, each behind its tag, as MessagePack."""
        request = frames.parse_request(buffer)
        lessons = list[Lesson]()
        for record, port in zip(request.records(), request.port.tolist(), strict=True):
            if port == frames.MAIN:
                lessons.append(self._lesson(_TAUGHT.decode(frames.payload(record))))
            else:
                self._teacher.served(_WAITING.decode(frames.payload(record)))
        signals, outputs, self._anew = self._anew, list[tuple[int, bytes]](), []
        self._at = at = lessons[-1].known if lessons else self._at
        try:
            signals += self._people()
        except MillraceError as error:
            signals.append(Signal("unavailable", self._name, at, {"reason": str(error)}))
        signals += self._teacher.add(lessons) + self._refitted()
        self._verdicts += [signal for signal in signals if signal.kind in ("promote", "rollback")]
        try:
            if self._teacher.lineup.revision != self._told:
                signals += self._people(at_once=True)
                outputs.append((frames.MODEL, self._announce(at)))
            if signals:
                signals.append(self._evaluated(signals[-1].at))
        except MillraceError as error:
            signals.append(Signal("unavailable", self._name, at, {"reason": str(error)}))
        key = self._name.encode()
        return _pack(outputs + [(frames.SIGNAL, frames.sink(key, encode_signal(signal))) for signal in signals])

    def _refitted(self) -> list[Signal]:
        """Have trees fitted where drift asks for it, and let them challenge once they are made."""
        wanted = self._teacher.refit_wanted and self._at and time.monotonic() >= self._rest
        if self._fitting is None or not wanted:
            return []
        try:
            if (version := self._fitting.made(self._at)) is None:
                return []
            signals = self._teacher.enter(self._registry.get(self._name, version), self._at)
        except Unavailable as error:
            self._rest = time.monotonic() + REST
            return [Signal("unavailable", self._name, self._at, {"reason": str(error)})]
        except MillraceError as error:
            signals = [Signal("refused", self._name, self._at, {"model": "refit", "reason": str(error)})]
        self._teacher.refit_wanted = False
        return signals

    def _trained(self, version: str) -> Reference | None:
        """What a version was trained on, where whoever registered it said so."""
        try:
            return msgspec.convert(self._registry.entry(self._name, version).reference, Reference | None)
        except (MillraceError, msgspec.ValidationError):  # not registered, as the definition's, or not to be read now
            return None

    def _lesson(self, taught: Taught) -> Lesson:
        s = taught.served
        if taught.names:
            self._layouts.add(taught.names)
        return Lesson(
            taught.id, s.key, s.at, taught.known, taught.label, taught.presumed, s.weight, taught.source, s.versions,
            s.scores, self._layouts.today(s.layout, np.frombuffer(s.row).reshape(1, -1))[0],
        )  # fmt: skip

    def _evaluated(self, at: int) -> Signal:
        """The prequential measures of every version, for the metrics and the topic."""
        report = self._teacher.report()
        for name, measures in quality(report, "lineages").items():
            self._quality(name, "", measures)
        for (name, segment), measures in segments(report).items():
            self._quality(name, segment, measures)
        self._quality("", "", delay(report))
        for version, measures in quality(report, "versions").items():
            if measures["labels"] > GROWN * self._measured.get(version, 0.0):
                self._measured[version] = measures["labels"]
                self._registry.measure(self._name, version, measures)
        self._registry.report(self._name, report)
        return Signal("evaluation", self._name, at, report)

    def _people(self, at_once: bool = False) -> list[Signal]:
        """Follow what people changed in the registry, where the last look was long enough ago."""
        now = time.monotonic()
        if now - self._looked < LOOK and not at_once:
            return []
        self._looked = now
        found = self._registry.aliases(self._name)
        if found.revision == self._revision:
            return []
        moves = [one for one in self._registry.history(self._name) if one.action in ("promoted", "rolled back")]
        chosen = self._revision < 0 or any(one.revision > self._revision and one.by != BY for one in moves)
        by = "registry" if moves and moves[-1].by == BY else "hand"  # it was itself, before a crash or a new start
        self._revision = found.revision
        new = chosen or found.frozen  # what is frozen is frozen, whoever made it champion
        champion = (found.champion or self._own) if new else None
        if not self._checked and not self._fits(champion or self._teacher.lineup.champion):
            champion, chosen = self._own, True
        self._checked = True
        told = self._teacher.follow(champion, found.frozen, found.at, chosen, by)
        return told + self._teacher.challenge(found.challengers, found.at)

    def _fits(self, version: str) -> bool:
        """Whether there is every feature that a version reads: no other is scored by the job."""
        try:
            return not self._registry.lacking(self._name, version, self._layouts.names)
        except (DefinitionError, ModelRejected):  # it is not registered, as the definition's, or damaged
            return True

    def _announce(self, at: int) -> bytes:
        """Register new versions, move the aliases as the verdicts say, and tell everyone."""
        lineup, artifacts, now = self._teacher.lineup, self._teacher.artifacts, self._registry.aliases(self._name)
        champion = now.champion or self._own
        for version in (lineup.champion, *lineup.challengers):
            default = version == self._own == lineup.champion  # which serves without an alias
            if version in artifacts and not default and version not in (now.champion, *now.challengers):
                self._registry.register(self._name, artifacts[version], parent=champion, by=BY, at=at)
        line = lineage(lineup.champion)
        newer = line in self._teacher.lineages.made and line == lineage(champion)
        if champion != lineup.champion and not now.frozen and (newer or self._verdicts):
            why = "newer version of its lineage"
            if self._verdicts:
                verdict = self._verdicts[-1]
                why = f"{verdict.kind} by {'definition' if verdict.kind == 'champion' else 'test'}: {verdict.detail}"
            chosen = None if lineup.champion == self._own else lineup.champion
            self._registry.promote(self._name, chosen, why=why, by=BY, at=at)
        for version in self._registry.challengers(self._name):
            gone = version not in lineup.challengers
            if gone and (self._teacher.lineages.learned(version) or version == self._own):
                self._registry.retire(self._name, version, why="replaced by a newer version", by=BY, at=at)
            elif gone and version in self._teacher.retired:
                self._registry.retire(self._name, version, why="rolled back by test", by=BY, at=at)
        value = encode(announcement(self._registry, self._name))
        self._told, self._verdicts = lineup.revision, []
        return frames.sink(self._name.encode(), value)

    def snapshot(self, _: bytes) -> bytes:
        """Everything learned."""
        return pack(_Learned(self._teacher.snapshot(), self._told, self._verdicts, self._revision))

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot; the registry has the models."""
        state = unpack(snapshot, _Learned)
        self._anew = self._teacher.restore(state.teacher)
        unfit = [signal for signal in self._anew if signal.kind == "champion"]
        self._told, self._verdicts, self._revision = state.told, state.verdicts + unfit, state.revision
        if self._anew and not unfit:  # what learned after the snapshot is gone: what it announced is what there is
            self._revision = -1

    def hear(self, layouts: bytes) -> None:
        """Examples may be rows of these layouts."""
        self._layouts.restore(layouts)

    def close(self, _: bytes) -> bytes:
        """The operator ends."""
        return b""
