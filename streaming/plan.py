"""Workload → plan: which stages an event passes, what each of them keeps, and in which columns features stand.

Pure and printable (`millrace describe`); the runners execute it and add nothing to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from traceback import extract_tb

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.policy import Batch, Policy
from operators.keyed import EntityFeatures, compile_features
from operators.track import Tracked
from operators.tracked import TrackedFeatures
from schemas.codec import encode_lines
from schemas.decisions import Decision, Scored
from schemas.errors import DefinitionError, MillraceError
from schemas.time import duration
from streaming.kernels import keep_finite
from streaming.workload import Column, Columns, Derive, Enrich, Expression, Workload

I64 = NDArray[np.int64]
DAY = 86_400_000

ARRAYS = "expected an expression over arrays, of one value for each event, as np.where(f.amount > 100, 1, 0)"
DECIDES = (
    "expected decide(batch) to return two sequences: of each event a decision, as schemas.decisions.Scored, or None, "
    "and one of the policy's `actions`"
)


@dataclass(frozen=True)
class Stage:
    """One keyed step: the features of one entity, and after the last of them the decision.

    `columns` are the indices of `features.inputs` among the numeric fields of the event, `start` the first feature
    column that this stage writes. `names`: of the mapping whose names it is told, if any, the place among an event's
    texts, and how many there may be.
    """

    index: int
    features: EntityFeatures | TrackedFeatures
    columns: tuple[int, ...]
    start: int
    last: bool
    names: tuple[tuple[int, int], ...]

    @property
    def entity(self) -> str:
        """The event field that keys the stage."""
        return self.features.entity

    @property
    def stop(self) -> int:
        """One past the last feature column that this stage writes."""
        return self.start + len(self.features.names)


@dataclass(frozen=True)
class Plan:
    """What both runners execute.

    keyed: names of the features that stages write, in the order of their columns; derived: what is computed from
    them at the end; labelled: stages that are fed by outcomes, through a join by event id before them.
    """

    workload: Workload
    stages: tuple[Stage, ...]
    keyed: tuple[str, ...]
    derived: tuple[tuple[str, Expression], ...]
    enriched: tuple[Enrich, ...]

    @property
    def labelled(self) -> tuple[Stage, ...]:
        """Stages with features of outcomes."""
        return tuple(stage for stage in self.stages if stage.features.labelled)

    @cached_property
    def told(self) -> set[str]:
        """The fields of an event that labels of it are told with, beside `id` and `at`."""
        numbers = {self.workload.numbers[column] for stage in self.labelled for column in stage.columns}
        fields = {field.name for field in self.workload.fields if not numbers.isdisjoint(field.columns)}
        return fields | {stage.entity for stage in self.labelled}

    @property
    def maps(self) -> int:
        """How many fields of an event are mappings."""
        return sum(field.room > 0 for field in self.workload.fields)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every column that a model can read: numeric event fields, then features by stage, read and derived."""
        read = tuple(feature.name for feature in self.enriched)
        return self.workload.numbers + self.keyed + read + tuple(name for name, _ in self.derived)

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each of `names` is among them."""
        return {name: place for place, name in enumerate(self.names)}

    def describe(self) -> str:
        """The way of an event through this plan, one line a step."""
        w = self.workload
        lines = [f"{w.name}: {w.topics.events} ({', '.join(('id', 'at', *w.strings, *w.numbers))})"]
        if self.labelled:
            fed = " and ".join(stage.entity for stage in self.labelled)
            lines.append(f"  join      {w.topics.outcomes} with their events by event id → labels for {fed}")
        for stage in self.stages:
            size = stage.features.width * 8
            lines.append(f"  by {stage.entity:<9}{len(stage.features.names)} features, at most {size:,} bytes a key")
            lines += [f"              {name}" for name in stage.features.names]
        for title, names in (("read", [e.name for e in self.enriched]), ("derive", [name for name, _ in self.derived])):
            if names:
                lines.append(f"  {title:<10}{', '.join(names)}")
        lines.append(f"  score     {w.model.version} on {len(w.model.features)} features")
        if w.learning is not None:
            lines.append(f"  learn     {', '.join(learner.name for learner in w.learners) or 'nothing: no learners='}")
        lines.append(f"  decide    {' / '.join(w.policy.actions)} → {w.topics.decisions} within {w.budget}")
        return "\n".join(lines)


def plan(workload: Workload) -> Plan:
    """Compile `workload`; DefinitionError where a feature reads what is not there."""
    stages, start = [], 0
    maps = list(enumerate((field for field in workload.fields if field.room), len(workload.blocks)))
    for index, block in enumerate(workload.blocks):
        first, where = index == 0, f"workload {workload.name!r}: by({block.entity!r}, …)"
        features = TrackedFeatures(block, first) if isinstance(block, Tracked) else compile_features(block, first)
        unknown = [name for name in features.inputs if name not in workload.numbers]
        if unknown:
            found = f"field {unknown[0]!r} is not a numeric field of {workload.event.__name__}"
            raise DefinitionError(f"{where}: {found}, only {', '.join(workload.numbers) or 'none'}")
        if features.labelled and workload.outcome is None:
            raise DefinitionError(f"{where} reads labels: outcome= must say their type")
        columns = tuple(workload.numbers.index(name) for name in features.inputs)
        names = tuple((i, f.room) for i, f in maps if f.name == features.named)
        stages.append(Stage(index, features, columns, start, index == len(workload.blocks) - 1, names))
        start = stages[-1].stop
    result = Plan(
        workload,
        tuple(stages),
        tuple(name for stage in stages for name in stage.features.names),
        tuple(pair for f in workload.features if isinstance(f, Derive) for pair in f.expressions),
        tuple(f for f in workload.features if isinstance(f, Enrich)),
    )
    _check_columns(result)
    return result


def _check_columns(plan: Plan) -> None:
    """Names that are there, each once, expressions that work on them, and learners that start on them."""
    where = f"workload {plan.workload.name!r}"
    doubled = sorted({name for name in plan.names if plan.names.count(name) > 1})
    if doubled:
        raise DefinitionError(f"{where}: features: {doubled[0]!r} is defined twice")
    for name in plan.workload.inputs:
        if name not in plan.names:
            raise DefinitionError(f"{where}: inputs: found {name!r}, expected one of {', '.join(plan.names)}")
    _check_derived(plan, where)
    for setting in ("segment", "amount"):
        column = getattr(plan.workload.learning, setting, None)
        if column is not None and column not in plan.names:
            found = f"found no column {column!r}, expected one of {', '.join(plan.names)}"
            raise DefinitionError(f"{where}: learning({setting}=…): {found}")
    for learner in plan.workload.learners:
        learner.start(plan.workload.inputs or plan.names)
    _check_policy(plan, where)


def _check_derived(plan: Plan, where: str) -> None:
    """Evaluate every expression on two different rows, and on each alone: how events are batched must not matter."""
    at, rows = np.array([0, DAY * 3 // 2]), np.repeat([[1.0], [2.0]], len(plan.names), axis=1)
    both = derive_columns(plan, at, rows.copy())
    alone = np.concatenate([derive_columns(plan, at[i : i + 1], rows[i : i + 1].copy()) for i in (0, 1)])
    for name, beside, single in zip(plan.names, both.T, alone.T, strict=True):
        if not np.allclose(beside, single, rtol=1e-9):
            found = f"found {beside.tolist()} of two events, {single.tolist()} of each alone; {ARRAYS}"
            raise DefinitionError(f"{where}: derive({name}=…): {found}")


def _check_policy(plan: Plan, where: str) -> None:
    """Have the policy decide three made-up events, all of zeros or of ones, one of them degraded, and write what it
    says: what it gets wrong there it would get wrong in a job, again and again."""
    at, scores, degraded = np.array([0, DAY, 2 * DAY]), np.array([0.0, 1.0, 1.0]), np.array([False, False, True])
    columns = derive_columns(plan, at, np.repeat(scores[:, None], len(plan.names), axis=1))
    model, ids = plan.workload.model, ("1", "2", "3")
    inputs = model.features if isinstance(model, Artifact) else ()
    batch = Batch(
        workload=plan.workload.name, model=model.version, ids=ids, keys=ids, at=at, degraded=degraded, scores=scores,
        names=plan.names, columns=columns, inputs=inputs, contributions=lambda of: np.ones((len(of), len(inputs))),
        maps={field.name: ("",) * len(ids) for field in plan.workload.fields if field.room},
    )  # fmt: skip
    decided, _ = decide_by_policy(plan.workload, batch)
    try:
        encode_lines(decided)
    except (TypeError, ValueError, OverflowError) as error:
        said = f"{_named(plan.workload.policy)}: a decision cannot be written: {error}"
        raise DefinitionError(f"{where}: {said}; expected plain values, as batch.scores.tolist() gives") from error


def check_model(plan: Plan) -> None:
    """DefinitionError where the model reads a column that the plan does not provide."""
    missing = [name for name in plan.workload.model.features if name not in plan.names]
    if missing:
        where = f"workload {plan.workload.name!r}: model {plan.workload.model.version}"
        found = f"reads {missing[0]!r}, which no feature provides"
        raise DefinitionError(f"{where} {found}; there are {', '.join(plan.names)}")


class _Namespace(Columns):
    """The columns of one batch by name, taken when first asked for; derived ones as far as they are there."""

    def __init__(self, plan: Plan, at: I64, columns: Column):
        self._plan, self._at, self._columns, self._there = plan, at, columns, 0

    def __getattr__(self, name: str) -> Column:
        place = self._plan.places.get(name, self._there)
        if place < self._there:
            found = self._columns[:, place]
            setattr(self, name, found)
            return found
        if name == "at":
            return self._at.astype(np.float64)
        if name == "hour":
            return (self._at // 3_600_000 % 24).astype(np.float64)
        if name == "weekday":
            return ((self._at // DAY + 3) % 7).astype(np.float64)  # the epoch was a Thursday
        known = (*self._plan.names[: self._there], "at", "hour", "weekday")
        kind = self._plan.workload.kind(name)
        about = f" (field {name!r} of an event is a {kind}, not a number)" if kind else ""
        raise DefinitionError(f"found no feature {name!r}{about}, expected one of {', '.join(known)}")


def derive_columns(plan: Plan, at: I64, columns: Column) -> Column:
    """Fill in the derived columns, the last of `columns` f64[k, names], in place; where no finite number comes, 0."""
    namespace, first = _Namespace(plan, at, columns), len(plan.names) - len(plan.derived)
    with np.errstate(all="ignore"):
        for i, (name, expression) in enumerate(plan.derived, start=first):
            namespace._there = i
            try:
                columns[:, i] = found = expression(namespace)
                if found is None or np.shape(found) not in ((), at.shape):  # numpy would spread it over all rows
                    raise ValueError(f"found {found!r} for {len(at)} events")
            except Exception as error:  # the author's own expression
                otherwise = f"{type(error).__name__}: {error}{_line(error)}; {ARRAYS}"
                what = error if isinstance(error, DefinitionError) else otherwise
                raise DefinitionError(f"workload {plan.workload.name!r}: derive({name}=…): {what}") from error
            keep_finite(columns, i)
    return columns


def decide_by_policy(workload: Workload, batch: Batch) -> tuple[Sequence[Decision | None], Sequence[str]]:
    """What the policy says of `batch`; what an author got wrong in it is told as such."""
    policy, rule = workload.policy, workload.learning
    chance, where = bool(rule and rule.exploration), f"workload {workload.name!r}: {_named(policy)}"
    try:
        decided, taken = policy.decide(batch)
        found = f"{len(decided)} decisions and {len(taken)} actions of {len(batch.ids)} events"
        kinds, unknown = set(map(type, decided)) - {type(None)}, set(taken).difference(policy.actions)
    except MillraceError:
        raise
    except Exception as error:  # whatever an author's code may raise
        raise DefinitionError(f"{where}: {type(error).__name__}: {error}{_line(error)}; {DECIDES}") from error
    if not len(decided) == len(taken) == len(batch.ids):
        raise DefinitionError(f"{where}: found {found}, expected one of each; None for no decision")
    if wrong := [kind.__name__ for kind in kinds if not (kind is Scored if chance else issubclass(kind, Decision))]:
        expected = "Scored ones" + " for exploration=, as what is decided by chance must say so" * chance
        raise DefinitionError(f"{where}: found a decision of type {min(wrong)}, expected {expected}; {DECIDES}")
    if unknown:
        told = f"found the action {min(map(repr, unknown))}, expected one of {', '.join(policy.actions)}"
        raise DefinitionError(f"{where}: {told}; name in `actions` all that it takes")
    return decided, taken


def _named(policy: Policy) -> str:
    """A policy and where its author wrote it."""
    code = getattr(policy.decide, "__code__", None)  # anything that can be called has to do
    return f"policy {type(policy).__name__}" + (f" ({code.co_filename}:{code.co_firstlineno})" if code else "")


def _line(error: Exception) -> str:
    """Where an author's code failed that we called, as " (file:line)": in the file where it begins, or nothing."""
    frames = extract_tb(error.__traceback__)[1:]
    here = [frame for frame in frames if frame.filename == frames[0].filename]
    return "".join(f" ({frame.filename}:{frame.lineno})" for frame in here[-1:])


def state_ttl(plan: Plan) -> int:
    """How long the state of a silent key is kept, in ms."""
    return duration(plan.workload.ttl)
