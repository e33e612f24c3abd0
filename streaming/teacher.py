"""The teacher: examples in, what is learned of them out. It is one object for each workload, in every runner.

An example is a decision as it was served, with the truth about it. In the order in which the truth became known,
every example is first evaluated on what each model version said of it, then taught to the learners. At fixed event
times the learners are compiled; their models challenge the champion, and the better one is decided by a sequential
test. A *lineage* is what compiles to one version after the other (its versions carry its name): lineages fight, and
the newest version of the champion lineage decides. Where a learner starts anew, or people want an older version of its
lineage, that version is a lineage of its own from then on: what the learner makes of little has to beat it first.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.drift import Reference
from models.drift import Signal as Moved
from models.evaluation import Evaluation, Labelled
from models.exploration import Cap
from models.promotion import Contest, Verdict
from models.snapshot import pack, unpack
from operators.kernels.ids import hash_ids
from schemas.errors import DefinitionError, ModelRejected
from streaming.layouts import relaid
from streaming.learning import Learning
from streaming.lesson import Lesson, by_lineage, by_version, within
from streaming.lineages import Lineages, newest
from streaming.plan import Plan
from streaming.pupils import Pupils
from streaming.signals import Signal
from streaming.watching import Watching

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

BLOCK = 256
"""Examples that are taken together, and predicted before they are learned; the same ones, however they come."""


@dataclass(frozen=True)
class Lineup:
    """Which versions serve: the champion, and those scored in shadow. `revision` grows with every change."""

    revision: int
    champion: str
    challengers: tuple[str, ...]


class _Heavy(msgspec.Struct, tag="learned/3"):
    """What changes with a block of examples only: packed once, however many checkpoints come meanwhile."""

    pupils: bytes
    evaluation: bytes
    watching: bytes
    cap: bytes


class _State(msgspec.Struct, tag="teacher/3"):
    heavy: bytes
    measured: str  # what the evaluation is of
    contest: bytes
    workload: str
    own: str
    inputs: tuple[str, ...]
    newest: dict[str, str]
    retired: list[str]
    apart: list[str]
    former: list[str]  # lineages that are taught no longer
    root: str  # lineage of the definition's model
    counts: dict[str, int]
    revision: int
    due: int
    refit: bool
    waiting: list[tuple[str, str, int, int, bool, bool, float, str, tuple[str, ...], tuple[float, ...]]]
    rows: NDArray[np.float64]
    names: tuple[str, ...]
    served: dict[str, float] = {}


class Teacher:
    """Learns from examples. Pure: no clock, no files; the same examples give the same models, however split.
    `trained` tells what a version that nobody here made was trained on, where that is known.
    """

    def __init__(self, plan: Plan, trained: Callable[[str], Reference | None] = lambda version: None):
        workload = plan.workload
        if workload.learning is None:
            raise DefinitionError(f"workload {workload.name!r}: declares no learning=, so nothing can be taught")
        self.rule: Learning = workload.learning
        self._workload, self._own = workload.name, workload.model.version
        self.inputs = workload.inputs or plan.names
        extra = tuple(name for name in (self.rule.segment, self.rule.amount) if name is not None)
        self._names, self._columns = plan.names, [plan.names.index(name) for name in (*self.inputs, *extra)]
        self._declared = {f"{workload.name}-{learner.name}": learner for learner in workload.learners}
        self.pupils = Pupils(self._declared, self.inputs)
        self.lineages = Lineages(workload.name, self._own, self._declared)
        self._waiting: list[Lesson] = []
        self.evaluation = Evaluation(self.rule.evaluation, lineage=self.lineages.of)
        self.contest = Contest(self.rule.promotion, self.lineages.root)
        self._newest = {self.contest.champion: self._own}
        self.retired: list[str] = []  # what lost does not challenge again, though the registry still lists it
        self._trained, self._watching = trained, self._watch(None)
        self._cap = Cap(self.rule.cap) if self.rule.cap else None
        self.counts = {"examples": 0, "presumed": 0, "capped": 0}
        self.artifacts = {self._own: workload.model} if isinstance(workload.model, Artifact) else {}
        self._revision, self._due, self.refit_wanted = 0, 0, False
        self._served: dict[str, float] = {}  # what the evaluation has not heard of yet
        self._heavy: bytes | None = None

    def _watch(self, state: bytes | None) -> Watching:
        return Watching(self.rule.drift, self.inputs, self.rule.promotion.settle or 0, state)

    def _part(self, version: str) -> None:
        """Let `version` fight as itself."""
        self.lineages.part(version)
        self.evaluation.part(version)

    def _anew(self, names: Collection[str], at: int, why: Mapping[str, str]) -> list[Signal]:
        """Let learners start with nothing; what they had made goes on by itself where it decides, or did before."""
        self.pupils.start([name for name in names if name in self._declared])
        for name in names:
            if name in (self.contest.champion, self.contest.previous):
                self._rename(name, self._newest[name])
            else:
                self.contest.leave(name)
                self._newest.pop(name, None)
        return [self._signal("reset", at, what=name, reason=why.get(name, "drift")) for name in names]

    def _rename(self, name: str, other: str) -> None:
        """Let what fights as `name` go on as `other`: its version, or the lineage that this is of by now."""
        version = self._newest.pop(name)
        if other == version and self.lineages.of(version) != other:
            self._part(version)
        self.contest.leave(name if other == self.contest.champion else other)
        self.contest.rename(name, other)
        self._newest[other] = version

    @property
    def lineup(self) -> Lineup:
        """Who serves now."""
        champion = self.contest.champion
        others = tuple(self._newest[name] for name in self.contest.duels if name in self._newest)
        return Lineup(self._revision, self._newest[champion], others)

    def enter(self, artifact: Artifact, now: int) -> list[Signal]:
        """Take a new version of its lineage into service: as champion where its lineage is, else as challenger.

        While a champion is frozen, there is no newer version of it.
        """
        name = self.lineages.of(artifact.version)
        if self._newest.get(name) == artifact.version or (self.contest.frozen and name == self.contest.champion):
            return []
        self.artifacts[artifact.version] = artifact
        self._newest[name] = artifact.version
        self.contest.enter(name)
        self._revision += 1
        self._prune()
        role = "champion" if name == self.contest.champion else "challenger"
        if role == "champion" and name not in self._declared:  # trees that know what has moved
            self._watching.reset(name, self._trained(artifact.version))
        return [self._signal("model", now, version=artifact.version, role=role, examples=self.counts["examples"])]

    def _prune(self) -> None:
        serving = {self.lineup.champion, *self.lineup.challengers}
        self.artifacts = {version: a for version, a in self.artifacts.items() if version in serving}

    def follow(
        self, champion: str | None, frozen: bool, now: int, chosen: bool = True, by: str = "hand"
    ) -> list[Signal]:
        """Do what people decided: `champion` (None: no change), `frozen`: no verdicts; not `chosen`: learning did."""
        self.contest.frozen = frozen
        if champion is None or champion == self.lineup.champion:
            return []
        instead, name = self.lineup.champion, self.lineages.of(champion)
        if not chosen and name == self.contest.champion:
            self._newest[name] = champion
            return []
        if name in self._declared and self._newest.get(name) != champion:
            self._part(name := champion)  # not what its learner knows by now
        self._newest[name] = champion
        self.retired = [version for version in self.retired if version != champion]
        self.contest.crown(name, now)
        self._changed()
        return [self._signal("champion", now, version=champion, instead=instead, by=by)]

    def challenge(self, versions: Sequence[str], now: int) -> list[Signal]:
        """Let the challengers of the registry that nobody here made, but people, take part in the contest, as long as
        they are among `versions`; their artifacts are in the registry."""
        mine = [v for v in versions if self.lineages.strange(v) and v not in self.retired]
        theirs = [v for v in self.contest.duels if self.lineages.strange(v) and v != self.contest.previous]
        gone = [v for v in theirs if v not in versions]
        new = [v for v in mine if v not in self.contest.duels and v != self.contest.champion]
        for version in gone:
            self.contest.leave(version)
        for version in new:
            self._newest[version] = version
            self.contest.enter(version)
        self._revision += bool(gone or new)
        about: dict[str, object] = {"role": "challenger", "examples": self.counts["examples"], "by": "hand"}
        return [self._signal("model", now, version=version, **about) for version in new]

    def served(self, waiting: Mapping[str, float]) -> None:
        """Count decisions whose labels may come: what they weigh together, by each version that scored them."""
        self._served |= {version: self._served.get(version, 0.0) + weight for version, weight in waiting.items()}

    def add(self, lessons: Sequence[Lesson]) -> list[Signal]:
        """Take examples in the order in which their labels became known; returns what an operator should be told.

        They are taken in blocks, so the last few wait for others, or for the next compilation.
        """
        signals: list[Signal] = []
        for lesson in lessons:
            if lesson.known >= self._due:
                if self._due:
                    signals += self._take() + self._compile(self._due)
                self._due = (lesson.known // self.rule.compile + 1) * self.rule.compile
            self._waiting.append(lesson._replace(row=np.asarray(lesson.row, np.float64)))
            if len(self._waiting) == BLOCK:
                signals += self._take()
        return signals

    def _take(self) -> list[Signal]:
        self._count_served()
        lessons = within(self._cap, self._waiting)
        kept = set(map(id, lessons))
        for capped in (lesson for lesson in self._waiting if id(lesson) not in kept):  # their labels came all the same
            self.served(dict.fromkeys(capped.versions, -capped.weight))
        self.counts["capped"] += len(self._waiting) - len(kept)
        self._waiting = []
        if not lessons:
            return []
        rows, labels = np.array([x.row for x in lessons])[:, self._columns], np.array([x.label for x in lessons])
        weight = np.array([x.weight for x in lessons], np.float64)
        at, known = np.array([[x.at for x in lessons], [x.known for x in lessons]], np.int64)
        scores = by_version(lessons)
        self.counts["examples"] += len(lessons)
        self.counts["presumed"] += sum(lesson.presumed for lesson in lessons)
        self.evaluation.add(self._labelled(lessons, rows, labels, at, known, weight), scores)
        inputs, ids, champion = rows[:, : len(self.inputs)], [lesson.id for lesson in lessons], self.contest.champion
        fought = by_lineage(scores, self.lineages.of)
        signals = self._drift(self._watching.add(ids, inputs, fought, champion, labels, at, known))
        fought = by_lineage(scores, self.lineages.of)  # by now
        fresh = self.pupils.learn(ids, inputs, labels, weight, at)
        fights = {version: self.lineages.of(version) for version in scores}
        by = [fights[lesson.versions[0]] for lesson in lessons]
        verdicts = self.contest.add(fought, labels, known, weight, fresh=fresh, at=at, by=by)
        return signals + [self._told(verdict) for verdict in verdicts]

    def _labelled(
        self, lessons: Sequence[Lesson], rows: F64, labels: NDArray[np.bool_], at: I64, known: I64, weight: F64
    ) -> Labelled:
        segments = amount = None
        if self.rule.segment is not None:
            segments = [f"{value:.16g}" for value in rows[:, len(self.inputs)].tolist()]
        if self.rule.amount is not None:  # what is no amount costs nothing
            amount = np.where(np.abs(rows[:, -1]) < 1e15, rows[:, -1], 0.0)
        return Labelled(labels, at, known, weight, segments, hash_ids([lesson.key for lesson in lessons]), amount)

    def _drift(self, found: Sequence[Moved]) -> list[Signal]:
        """What follows of what has moved."""
        worse = any(signal.kind == "psi" or signal.found > signal.expected for signal in found)
        then = self.rule.drift.then if worse else "nothing"
        self.refit_wanted |= then == "refit"
        signals = [
            self._signal("drift", s.at, measure=s.kind, name=s.name, found=s.found, expected=s.expected,
                         since=s.since, then=then) for s in found
        ]  # fmt: skip
        if then == "reset":
            signals += self._anew(self._declared, signals[-1].at, {})
        return signals

    def _told(self, verdict: Verdict) -> Signal:
        self._changed()
        if verdict.kind == "rollback" and self.lineages.strange(verdict.instead):
            self.retired = newest((*self.retired, verdict.instead))
        return self._signal(
            verdict.kind, verdict.at, version=self._newest[verdict.version],
            instead=self._newest[verdict.instead], labels=verdict.labels, log_evidence=round(verdict.evidence, 4),
        )  # fmt: skip

    def _changed(self) -> None:
        """Another champion: something else is usual."""
        self._revision += 1
        self._heavy = None
        self._watching.reset(self.contest.champion, self._trained(self.lineup.champion))
        for version in self.lineages.apart:
            if version not in (self.contest.champion, self.contest.previous):
                self.contest.leave(version)
        self._prune()

    def _compile(self, now: int) -> list[Signal]:
        """Make a model of what each learner knows at `now`."""
        self._heavy = None
        self.evaluation.close({self.lineup.champion, *self.lineup.challengers}, self.rule.horizon)
        signals: list[Signal] = []
        for name in self._declared:
            try:
                signals += self.enter(self.pupils.compile(name), now)
            except ModelRejected as error:
                signals.append(self._signal("refused", now, model=name, reason=str(error)))
        return signals

    def _signal(self, kind: str, at: int, **detail: object) -> Signal:
        return Signal(kind, self._workload, at, detail)

    def report(self) -> dict[str, object]:
        """Prequential metrics by lineage and version, the duels, and what was counted."""
        self._count_served()
        evaluation = self.evaluation.report({self.lineup.champion, *self.lineup.challengers})
        counts = {**self.counts, "waiting": len(self._waiting)}
        return {"evaluation": evaluation, "duels": self.contest.report(), "counts": counts}

    def _count_served(self) -> None:
        self._heavy = None
        while self._served:
            self.evaluation.served(*self._served.popitem())

    def snapshot(self) -> bytes:
        """The state, for `restore`. Artifacts are not in it: whoever serves them keeps them."""
        if self._heavy is None:
            evaluation, watching = self.evaluation.snapshot(), self._watching.snapshot()
            cap = self._cap.snapshot() if self._cap else b""
            self._heavy = pack(_Heavy(self.pupils.snapshot(), evaluation, watching, cap))
        state = _State(
            heavy=self._heavy, measured=self._measured(), contest=self.contest.snapshot(),
            workload=self._workload, own=self._own, root=self.lineages.root, inputs=self.inputs, newest=self._newest,
            retired=self.retired, former=self.lineages.former, apart=self.lineages.apart, counts=self.counts,
            names=tuple(self._names), revision=self._revision, due=self._due, refit=self.refit_wanted,
            waiting=[lesson[:-1] for lesson in self._waiting],
            rows=np.array([lesson.row for lesson in self._waiting]).reshape(-1, len(self._names)), served=self._served,
        )  # fmt: skip
        return pack(state)

    def _measured(self) -> str:
        """What sums of the evaluation are of: others, and they are not to be added."""
        rule = self.rule.evaluation
        return f"{rule.k} of a day, {rule.half_life} ms, {rule.costs}, by {self.rule.segment} and {self.rule.amount}"

    def restore(self, data: bytes) -> list[Signal]:
        """Go on from a snapshot of the same workload; ModelRejected where it is another's.

        Where the declaration has changed meanwhile, what cannot go on starts anew: a learner, the evaluation, the
        watch over columns. Returns signals that say so.
        """
        s = unpack(data, _State)
        heavy = unpack(s.heavy, _Heavy)
        if s.workload != self._workload:
            what = f"found workload {s.workload!r}"
            raise ModelRejected(f"snapshot of what {self._workload!r} learned: {what}; start without it, or replay")
        refused, now = self.pupils.restore(heavy.pupils), max(0, s.due - self.rule.compile)
        self.lineages.take((*s.former, *refused), s.apart)
        same = s.measured == self._measured()
        self.evaluation = Evaluation(self.rule.evaluation, heavy.evaluation if same else None, self.lineages.of)
        self.contest = Contest.restore(self.rule.promotion, s.contest)
        self._watching = self._watch(heavy.watching if s.inputs == self.inputs else None)
        self._cap = Cap(self.rule.cap, state=heavy.cap) if self.rule.cap and heavy.cap else self._cap
        self._newest, self.retired, self.counts = s.newest, s.retired, s.counts
        self._revision, self._due, self.refit_wanted, self._served = s.revision, s.due, s.refit, s.served
        self._rename_all(s)
        signals = self._leave_unfit({*s.inputs} - {*self._names}, now) + self._anew(refused, now, refused)
        if not same:
            why = f"found measures of {s.measured}, expected them of {self._measured()}"
            signals.append(self._signal("reset", now, what="evaluation", reason=why))
        rows = relaid(s.rows, s.names, self._names)
        self._waiting = [Lesson(*lesson, row) for lesson, row in zip(s.waiting, rows, strict=True)]
        self._heavy = None
        return signals

    def _rename_all(self, s: _State) -> None:
        """Name those who fight as the definition has it by now: its model may be another, a lineage taught or not."""
        if s.own != self._own:
            self.retired = newest((*self.retired, s.own))
            if self.contest.champion == s.root:
                self.contest.crown(self.lineages.root)
            if s.root != self.lineages.root:
                self.contest.leave(s.root)
                self._newest.pop(s.root, None)
        self._newest[self.lineages.root] = self._own
        for name in self.contest.names():
            version = self._newest[name]
            if name == version and name not in self.lineages.apart and self.lineages.learned(version):
                self._part(version)
            elif (other := self.lineages.of(version)) != name:
                self._rename(name, other)

    def _leave_unfit(self, lost: Collection[str], now: int) -> list[Signal]:
        """What was learned of features that are `lost` can be scored no more: the model of the definition decides."""
        unfit = [name for name in self.contest.names() if lost and self.lineages.learned(self._newest[name])]
        champion = self.contest.champion
        if champion in unfit:
            self.contest.crown(self.lineages.root)
            self._changed()
        for name in unfit:
            self.contest.leave(name)
            self._newest.pop(name, None)
        about = {"version": self._own, "by": f"definition, without {', '.join(sorted(lost))}"}
        return [self._signal("champion", now, **about, instead=champion)] if champion in unfit else []
