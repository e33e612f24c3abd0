"""The teacher: examples in, what is learned of them out. It is one object for each workload, in every runner.

An example is a decision as it was served, with the truth about it. In the order in which the truth became known,
every example is first evaluated on what each model version said of it, then taught to the learners. At fixed event
times the learners are compiled; their models challenge the champion, and the better one is decided by a sequential
test. A *lineage* is what compiles to one version after the other (its versions carry its name): lineages fight, and
the newest version of the champion lineage decides.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.calibration import Platt
from models.drift import Adwin, Reference, Watch, loss
from models.drift import Signal as DriftSignal
from models.evaluation import Evaluation, Labelled
from models.exploration import Cap
from models.promotion import Contest, Verdict
from models.snapshot import pack, unpack
from operators.kernels.ids import hash_ids
from schemas.errors import DefinitionError, ModelRejected
from schemas.time import MILLISECONDS
from streaming.learning import Learning
from streaming.plan import Plan

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

DAY = MILLISECONDS["d"]

BLOCK = 256
"""Examples that are predicted together before they are learned: what their calibration is learned on."""

MEMORY = 100_000.0
"""Examples after which one counts 1/e in a calibration."""

CANARY = 512
"""Newest rows on which a learner and what it is compiled to must agree."""

USUAL_DAYS, USUAL_ROWS, USUAL_SHARE = 14, 2_000, 8
"""What is usual is what one champion lineage saw in so many days and rows, of one example in so many: two whole
weeks, so that a Sunday is no drift."""


class Lesson(NamedTuple):
    """One example: a decision as served (`scores` by `versions`, `row`: the values of `plan.names`) and its label,
    known since `known`; `weight` is one over the share of such events that are examples."""

    id: str
    key: str
    at: int
    known: int
    label: bool
    presumed: bool
    weight: float
    source: str
    versions: tuple[str, ...]
    scores: tuple[float, ...]
    row: Sequence[float] | F64


@dataclass(frozen=True)
class Lineup:
    """Which versions serve: the champion, and those scored in shadow. `revision` grows with every change."""

    revision: int
    champion: str
    challengers: tuple[str, ...]


class Signal(msgspec.Struct, frozen=True):
    """One record for `W.signals`: `at` is event time, ms."""

    kind: str
    workload: str
    at: int
    detail: dict[str, object]


class _State(msgspec.Struct, tag="teacher/1"):
    learners: list[bytes]
    platts: list[bytes]
    evaluation: bytes
    contest: bytes
    adwin: bytes
    watch: bytes
    reference: bytes
    cap: bytes
    newest: dict[str, str]
    counts: dict[str, int]
    revision: int
    due: int
    ids: list[str]
    rows: NDArray[np.float64]
    labels: NDArray[np.float64]
    weights: NDArray[np.float64]
    canary: NDArray[np.float64]
    usual: NDArray[np.float64]


encode_signal = msgspec.json.Encoder(enc_hook=float).encode
"""Signal → JSON; numbers of NumPy are numbers."""


def lineage(version: str) -> str:
    """The name that a version shares with those before and after it."""
    return version.rpartition("-")[0] or version


class Teacher:
    """Learns from examples. Pure: no clock, no files; the same examples give the same models, however split."""

    def __init__(self, plan: Plan):
        workload = plan.workload
        if workload.learning is None:
            raise DefinitionError(f"workload {workload.name!r}: declares no learning=, so nothing can be taught")
        self.rule: Learning = workload.learning
        self._workload, self._names = workload.name, plan.names
        self.inputs = workload.inputs or plan.names
        self._columns = [plan.names.index(name) for name in self.inputs]
        self._declared = workload.learners
        self._start()
        self.evaluation = Evaluation(self.rule.evaluation)
        self.contest = Contest(self.rule.promotion, lineage(workload.model.version))
        self._newest = {self.contest.champion: workload.model.version}
        self._adwin = Adwin("log-loss", self.rule.drift.delta)
        self._watch: Watch | None = None
        self._usual = np.empty((0, len(self.inputs) + 2))
        self.refit_wanted = False
        self._cap = Cap(self.rule.cap) if self.rule.cap else None
        self.counts = {"examples": 0, "presumed": 0, "capped": 0}
        own = workload.model
        self.artifacts = {own.version: own} if isinstance(own, Artifact) else {}
        self._revision, self._due = 0, 0
        self._canary = np.empty((0, len(self.inputs)))

    def _start(self) -> None:
        """Learners that have learned nothing."""
        self._learners = [learner.start(self.inputs) for learner in self._declared]
        self._platts = [Platt(MEMORY) for _ in self._learners]
        self._ids: list[str] = []
        self._rows: list[F64] = []
        self._labels: list[float] = []
        self._weights: list[float] = []

    @property
    def lineup(self) -> Lineup:
        """Who serves now."""
        champion = self.contest.champion
        others = tuple(self._newest[name] for name in self.contest.duels if name in self._newest)
        return Lineup(self._revision, self._newest[champion], others)

    def enter(self, artifact: Artifact, now: int) -> list[Signal]:
        """Take a new version of its lineage into service: as champion where its lineage is, else as challenger."""
        name = lineage(artifact.version)
        if self._newest.get(name) == artifact.version:
            return []
        self.artifacts[artifact.version] = artifact
        self._newest[name] = artifact.version
        self.contest.enter(name)
        self._revision += 1
        self._prune()
        role = "champion" if name == self.contest.champion else "challenger"
        return [self._signal("model", now, version=artifact.version, role=role, examples=self.counts["examples"])]

    def _prune(self) -> None:
        serving = {self.lineup.champion, *self.lineup.challengers}
        self.artifacts = {version: a for version, a in self.artifacts.items() if version in serving}

    def follow(self, champion: str | None, frozen: bool, now: int) -> list[Signal]:
        """Do what people decided: `champion` (None: no change), and whether verdicts are forbidden."""
        self.contest.frozen = frozen
        if champion is None or champion == self.lineup.champion or lineage(champion) not in self._newest:
            return []
        instead = self.lineup.champion
        self.contest.crown(lineage(champion))
        self._newest[lineage(champion)] = champion
        self._revision += 1
        return [self._signal("champion", now, version=champion, instead=instead, by="hand")]

    def served(self, version: str, count: int) -> None:
        """Count decisions whose labels may come."""
        self.evaluation.served(version, count)

    def add(self, lessons: Sequence[Lesson]) -> list[Signal]:
        """Take examples in the order in which their labels became known; returns what an operator should be told."""
        signals: list[Signal] = []
        start = 0
        for end in range(1, len(lessons) + 1):
            known = lessons[end - 1].known
            if not self._due:
                self._due = (known // self.rule.compile + 1) * self.rule.compile
            if known >= self._due:
                signals += self._take(lessons[start : end - 1])
                start = end - 1
                signals += self._compile(self._due)
                self._due = (known // self.rule.compile + 1) * self.rule.compile
        return signals + self._take(lessons[start:])

    def _take(self, lessons: Sequence[Lesson]) -> list[Signal]:
        lessons = self._capped(lessons)
        if not lessons:
            return []
        rows = np.array([lesson.row for lesson in lessons])
        labels = np.array([lesson.label for lesson in lessons], np.bool_)
        weight = np.array([lesson.weight for lesson in lessons])
        at = np.array([lesson.at for lesson in lessons], np.int64)
        known = np.array([lesson.known for lesson in lessons], np.int64)
        scores = _by_version(lessons)
        self.counts["examples"] += len(lessons)
        self.counts["presumed"] += sum(lesson.presumed for lesson in lessons)
        self.evaluation.add(self._labelled(lessons, rows, labels, at, known, weight), scores)
        signals = self._drift(lessons, rows, scores, labels, (at, known, weight))
        by_lineage = _merged(scores)
        signals += [self._told(verdict) for verdict in self.contest.add(by_lineage, labels, known, weight)]
        inputs = rows[:, self._columns]
        self._canary = np.concatenate((self._canary, inputs))[-CANARY:]
        self._teach([lesson.id for lesson in lessons], inputs, labels, weight)
        return signals

    def _capped(self, lessons: Sequence[Lesson]) -> Sequence[Lesson]:
        if self._cap is None or not lessons:
            return lessons
        known = np.array([lesson.known for lesson in lessons], np.int64)
        good = self._cap.add([lesson.source for lesson in lessons], known)
        self.counts["capped"] += int((~good).sum())
        return [lesson for lesson, counts in zip(lessons, good.tolist(), strict=True) if counts]

    def _labelled(
        self, lessons: Sequence[Lesson], rows: F64, labels: NDArray[np.bool_], at: I64, known: I64, weight: F64
    ) -> Labelled:
        segment, amount = (
            None if name is None else rows[:, self._names.index(name)] for name in (self.rule.segment, self.rule.amount)
        )
        segments = None if segment is None else [f"{value:g}" for value in segment.tolist()]
        groups = hash_ids([lesson.key for lesson in lessons])
        return Labelled(labels, at, known, weight, segments, groups, amount)

    def _drift(
        self,
        lessons: Sequence[Lesson],
        rows: F64,
        scores: Mapping[str, F64],
        labels: NDArray[np.bool_],
        about: tuple[I64, I64, F64],
    ) -> list[Signal]:
        at, known, weight = about
        champion = scores.get(self.lineup.champion)
        if champion is None:
            return []
        seen = np.isfinite(champion)
        found = self._adwin.add(loss(champion[seen], labels[seen]), known[seen])
        both = np.column_stack((rows[:, self._columns], champion))
        if self._watch is not None:
            found += self._watch.add(both, at, weight)
        else:
            self._usually(both, at, seen & (hash_ids([lesson.id for lesson in lessons]) % USUAL_SHARE == 0))
        if found and self.rule.drift.then == "reset":
            self._start()
        self.refit_wanted |= bool(found) and self.rule.drift.then == "refit"
        return [self._signal("drift", s.at, measure=s.kind, **_plain(s)) for s in found]

    def _usually(self, rows: F64, at: I64, some: NDArray[np.bool_]) -> None:
        """Learn what is usual, until there is enough of it to watch for drift."""
        self._usual = np.concatenate((self._usual, np.column_stack((rows, at))[some]))
        times = self._usual[:, -1]
        if len(times) >= USUAL_ROWS and times.max() - times.min() >= USUAL_DAYS * DAY:
            first = self._usual[np.argsort(times, kind="stable")]
            reference = Reference.of(first[:, :-1], (*self.inputs, "score"), first[:, -1].astype(np.int64))
            self._watch, self._usual = Watch(self.rule.drift, reference), self._usual[:0]

    def _told(self, verdict: Verdict) -> Signal:
        """A promotion or a rollback: what is usual is to be learned anew."""
        self._revision += 1
        self._watch, self._usual = None, self._usual[:0]
        self._prune()
        evidence = round(verdict.evidence, 4)
        return self._signal(
            verdict.kind, verdict.at, version=self._newest[verdict.version],
            instead=self._newest[verdict.instead], labels=verdict.labels, log_evidence=evidence,
        )  # fmt: skip

    def _teach(self, ids: Sequence[str], inputs: F64, labels: NDArray[np.bool_], weight: F64) -> None:
        """Buffer examples, and teach whole blocks of them: however they come, they are learned in the same blocks."""
        if not self._learners:
            return
        self._ids += ids
        self._rows += list(inputs)
        self._labels += labels.tolist()
        self._weights += weight.tolist()
        while len(self._ids) >= BLOCK:
            self._learn(BLOCK)

    def _learn(self, count: int) -> None:
        ids, rows = self._ids[:count], np.array(self._rows[:count])
        labels, weights = np.array(self._labels[:count]), np.array(self._weights[:count])
        for learner, platt in zip(self._learners, self._platts, strict=True):
            platt.learn(learner.predict(rows), labels > 0.5, weights)
            learner.learn(ids, rows, labels, weights)
        for buffer in (self._ids, self._rows, self._labels, self._weights):
            del buffer[:count]

    def _compile(self, now: int) -> list[Signal]:
        """Make a model of what each learner knows at `now`."""
        if self._ids:
            self._learn(len(self._ids))
        signals: list[Signal] = []
        for learner, platt in zip(self._learners, self._platts, strict=True):
            name = f"{self._workload}-{learner.name}"
            try:
                rows = self._canary.astype(np.float32)
                signals += self.enter(learner.compile(name, rows, platt.slope, platt.intercept), now)
            except ModelRejected as error:
                signals.append(self._signal("refused", now, model=name, reason=str(error)))
        return signals

    def _signal(self, kind: str, at: int, **detail: object) -> Signal:
        return Signal(kind, self._workload, at, detail)

    def report(self) -> dict[str, object]:
        """Prequential metrics by version, the duels, and what was counted."""
        return {"evaluation": self.evaluation.report(), "duels": self.contest.report(), "counts": dict(self.counts)}

    def quality(self) -> dict[str, dict[str, float]]:
        """Of each version: labels, and the prequential measures over all of them."""
        found: dict[str, dict[str, float]] = {}
        for version, part in msgspec.convert(self.evaluation.report()["versions"], dict[str, dict[str, Any]]).items():
            measures = {"labels": float(part["labels"]), **{f"prequential_{n}": v for n, v in part["overall"].items()}}
            measures["prequential_ap"] = measures.pop("prequential_average_precision", math.nan)
            found[version] = {name: value for name, value in measures.items() if math.isfinite(value)}
        return found

    def snapshot(self) -> bytes:
        """The state, for `restore`. Artifacts are not in it: whoever serves them keeps them."""
        state = _State(
            learners=[learner.snapshot() for learner in self._learners],
            platts=[platt.snapshot() for platt in self._platts],
            evaluation=self.evaluation.snapshot(),
            contest=self.contest.snapshot(),
            adwin=self._adwin.snapshot(),
            watch=self._watch.snapshot() if self._watch else b"",
            reference=msgspec.json.encode(self._watch.reference) if self._watch else b"",
            cap=self._cap.snapshot() if self._cap else b"",
            newest=self._newest, counts=self.counts, revision=self._revision, due=self._due,
            ids=self._ids, rows=np.array(self._rows).reshape(len(self._ids), len(self.inputs)),
            labels=np.array(self._labels), weights=np.array(self._weights),
            canary=self._canary, usual=self._usual,
        )  # fmt: skip
        return pack(state)

    def restore(self, data: bytes) -> None:
        """Go on from a snapshot of the same workload; ModelRejected where it is another's."""
        s = unpack(data, _State)
        if len(s.learners) != len(self._learners) or s.canary.shape[1] != len(self.inputs):
            found = f"{len(s.learners)} learners of {s.canary.shape[1]} inputs"
            expected = f"{len(self._learners)} of {len(self.inputs)}"
            raise ModelRejected(f"snapshot of what {self._workload!r} learned: found {found}, expected {expected}")
        for learner, state in zip(self._learners, s.learners, strict=True):
            learner.restore(state)
        self._platts = [Platt.restore(state) for state in s.platts]
        self.evaluation = Evaluation(self.rule.evaluation, s.evaluation)
        self.contest = Contest.restore(self.rule.promotion, s.contest)
        self._adwin = Adwin("log-loss", self.rule.drift.delta, s.adwin)
        self._watch = None
        if s.watch:
            self._watch = Watch(self.rule.drift, msgspec.json.decode(s.reference, type=Reference), s.watch)
        self._cap = Cap(self.rule.cap, state=s.cap) if self.rule.cap and s.cap else self._cap
        self._newest, self.counts, self._revision, self._due = s.newest, s.counts, s.revision, s.due
        self._ids, self._rows = s.ids, list(s.rows)
        self._labels, self._weights = s.labels.tolist(), s.weights.tolist()
        self._canary, self._usual = s.canary, s.usual


def _by_version(lessons: Sequence[Lesson]) -> dict[str, F64]:
    """Scores f64[k] of each version, NaN where it did not see the event."""
    scores: dict[str, F64] = {}
    for row, lesson in enumerate(lessons):
        for version, score in zip(lesson.versions, lesson.scores, strict=True):
            if version not in scores:
                scores[version] = np.full(len(lessons), np.nan)
            scores[version][row] = score
    return scores


def _merged(scores: Mapping[str, F64]) -> dict[str, F64]:
    """Scores by lineage: of one lineage no event was scored by two versions."""
    merged: dict[str, F64] = {}
    for version, values in scores.items():
        name = lineage(version)
        merged[name] = np.where(np.isfinite(values), values, merged[name]) if name in merged else values
    return merged


def _plain(found: DriftSignal) -> dict[str, object]:
    return {"name": found.name, "found": found.found, "expected": found.expected, "since": found.since}
