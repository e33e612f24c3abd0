"""Trees that are fitted to examples anew: in a replay on a schedule, and in both runners where drift asks for it.

A job's examples are on their topic, whatever it was killed by in between. What reads and fits them takes minutes, so it
is a process of its own, which ends with the one that wants its model, however that ends.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from models import drift, interpreter
from models.artifact import Artifact
from models.exploration import Cap
from models.registry import Registry
from schemas.errors import MillraceError, ModelRejected, Unavailable
from streaming import kafka
from streaming.lesson import Lesson, within
from streaming.plan import Plan, plan
from streaming.signals import Signal
from streaming.teacher import Teacher
from streaming.workloads import Reference, resolve

BY = "learning"
"""Who made a change in the registry that no one needs to follow."""

MOST = 300_000
"""Examples of a topic that trees are fitted to, the newest: a few hundred MB."""

NICE = 10
"""Of a fit, which nobody waits for."""

MAIN = "from streaming import refit; refit.main()"


class Trees:
    """Boosted trees of the lineage `W-refit`, made of the examples that were kept."""

    def __init__(self, plan: Plan):
        rule, self._inputs = plan.workload.learning, plan.workload.inputs or plan.names
        assert rule is not None
        self.name = f"{plan.workload.name}-refit"
        self._columns = [plan.names.index(name) for name in self._inputs]
        self._parts: list[tuple[NDArray[np.float32], NDArray[np.float64]]] = []
        self._cap = Cap(rule.cap) if rule.cap else None

    def keep(self, lessons: Sequence[Lesson]) -> None:
        """Take examples, in the order in which their labels became known."""
        if lessons := within(self._cap, lessons):
            rows = np.array([lesson.row for lesson in lessons])[:, self._columns].astype(np.float32)
            about = [(lesson.at, lesson.label, lesson.weight) for lesson in lessons]
            self._parts.append((rows, np.array(about, np.float64)))

    def fit(self, now: int, command: str) -> tuple[Artifact, drift.Reference]:
        """The trees of what is known at `now`, as `command` asks for them, and what they were fitted to; ModelRejected
        where none come of it."""
        from models.boosting import fit, reference  # brings LightGBM

        if not self._parts:
            raise ModelRejected(f"{self.name}: found no example, expected some to fit trees to")
        X, about = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        at, label, weight = about.T
        order = np.argsort(at, kind="stable")
        recipe = {"command": command, "until": now, "examples": len(label), "range": [int(at.min()), int(at.max())]}
        X, at, label, weight = X[order], at[order], label[order] > 0.5, weight[order]
        made = fit(X, label, self._inputs, self.name, at=at, weight=weight, recipe=recipe)
        return made, reference(made, X, at)


class Refit:
    """Trees fitted every `every` ms of event time to all examples so far, or where drift asks for it: in a replay.
    `usual` gets what each version was fitted to."""

    def __init__(self, teacher: Teacher, plan: Plan, every: int, usual: dict[str, drift.Reference]):
        self._teacher, self._every, self._workload, self._usual = teacher, every, plan.workload.name, usual
        self._trees = Trees(plan)
        self._due = 0

    def add(self, lessons: Sequence[Lesson]) -> list[Signal]:
        """Keep examples; fit where it is time."""
        now = lessons[-1].known
        self._trees.keep(lessons)
        self._due = self._due or now + self._every
        if now < self._due and not self._teacher.refit_wanted:
            return []
        self._due, self._teacher.refit_wanted = now + self._every, False
        try:
            artifact, self._usual[artifact.version] = self._trees.fit(now, "millrace replay --refit")
            return self._teacher.enter(artifact, now)
        except ModelRejected as error:
            return [Signal("refused", self._workload, now, {"model": self._trees.name, "reason": str(error)})]


class Request(msgspec.Struct, frozen=True):
    """What to fit trees to: examples of `topic` whose label was known until then (ms), as `name` in `registry`."""

    workload: Reference
    brokers: str
    topic: str
    registry: str
    name: str
    until: int = 0


class _Answer(msgspec.Struct):
    version: str = ""
    reason: str = ""
    passing: bool = False  # Kafka, or the registry, does not answer


class Fitting:
    """Trees fitted as `request` says, in a process of their own: for a job."""

    def __init__(self, request: Request):
        self._request = request
        self._process: subprocess.Popen[bytes] | None = None

    def made(self, now: int) -> str | None:
        """The version that was registered, once; None while it is being made, which begins with the first call.
        ModelRejected where none came of it, Unavailable where that may be another time."""
        if self._process is None:
            pipe = subprocess.PIPE
            try:
                self._process = subprocess.Popen(interpreter.command(MAIN, NICE), stdin=pipe, stdout=pipe)
            except OSError as error:
                raise Unavailable(f"found no process to fit trees in: {error}") from error
            assert self._process.stdin is not None
            self._process.stdin.write(msgspec.json.encode(msgspec.structs.replace(self._request, until=now)) + b"\n")
            self._process.stdin.flush()  # and stays open: where it closes, nobody wants the model any more
        if self._process.poll() is None:
            return None
        with self._process as done:
            assert done.stdout is not None
            said, self._process = done.stdout.read(), None
        try:
            answer = msgspec.json.decode(said, type=_Answer)
        except msgspec.MsgspecError:  # none, or half of one
            answer = _Answer()
        if answer.passing:
            raise Unavailable(answer.reason)
        if not answer.version:
            ended = f"the process that fitted it ended with exit code {done.returncode}; its log says why"
            raise ModelRejected(answer.reason or ended)
        return answer.version


class _Example(msgspec.Struct):
    event: str
    at: int
    label: bool
    label_at: int
    presumed: bool
    weight: float
    source: str
    features: dict[str, float | None]


def _read(request: Request) -> Iterator[list[kafka.Record]]:
    """The newest examples of each partition."""
    ends = kafka.end_offsets(request.brokers, request.topic)
    begin = {partition: max(end - MOST, 0) for partition, end in ends.items()}
    return kafka.records(request.brokers, request.topic, begin, ends)


def examples(topic: Iterable[Sequence[kafka.Record]], until: int, names: Sequence[str]) -> list[Lesson]:
    """The newest examples whose label was known by `until`, each once, as it was said last, their rows f64 by `names`;
    NaN is missing. Those that were served without one of them tell nothing of it, and are left out."""
    decoder, kept = msgspec.json.Decoder(_Example), dict[str, Lesson]()
    for records in topic:
        for record in records:
            try:
                e = decoder.decode(record.value or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError):  # a stranger's
                continue
            if e.label_at <= until and all(name in e.features for name in names):
                row = np.array([e.features[name] for name in names], np.float64)
                kept[e.event] = Lesson(
                    e.event, "", e.at, e.label_at, e.label, e.presumed, e.weight, e.source, (), (), row
                )
        if len(kept) > MOST + MOST // 4:  # partitions are read at different speeds
            kept = {lesson.id: lesson for lesson in _newest(kept)}
    return _newest(kept)


def _newest(kept: Mapping[str, Lesson]) -> list[Lesson]:
    return sorted(kept.values(), key=lambda lesson: (lesson.known, lesson.id))[-MOST:]


def main() -> None:
    """The process: a `Request` on standard input, which stays open as long as somebody wants the model; the version
    that was registered, or why none was, on standard output."""
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=Request)
    threading.Thread(target=_end, daemon=True).start()
    answers = os.dup(1)
    os.dup2(2, 1)  # a definition, and what it imports, may print
    compiled, registry = plan(resolve(request.workload)), Registry(request.registry)
    trees = Trees(compiled)
    try:
        trees.keep(examples(_read(request), request.until, compiled.names))
        artifact, usual = trees.fit(request.until, 'drift(then="refit")')
        parent = registry.champion(request.name) or compiled.workload.model.version
        answer = _Answer(
            registry.register(
                request.name, artifact, reference=usual, parent=parent, by=BY, why="drift", at=request.until
            )
        )
    except MillraceError as error:
        answer = _Answer(reason=str(error), passing=isinstance(error, Unavailable))
    os.write(answers, msgspec.json.encode(answer))


def _end() -> None:
    os.read(0, 1)  # not `sys.stdin`: Python could not end while a thread waits for that
    os._exit(0)
