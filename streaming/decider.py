"""Features → scores → decisions: the end of the last stage, the same for every runner.

The champion's score decides; challengers score the same rows, and nothing comes of it but examples. Models change
between two batches only.
"""

from collections.abc import Mapping, Sequence
from itertools import compress
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.onnx import Session
from models.policy import DIGITS, Batch
from schemas.codec import encode_lines
from schemas.decisions import Decision, Explored
from schemas.errors import ModelRejected
from streaming.again import Said
from streaming.engine import Events, Lookup
from streaming.plan import Plan, check_model, decide_by_policy, derive_columns

F64 = NDArray[np.float64]


class Decided(msgspec.Struct, frozen=True, eq=False):
    """Encoded decisions of a batch with a line feed behind each, for which events they were made (others only taught a
    state something), their actions, the scores f64[k] of each model version, the champion's first, the columns
    f64[k, names] that they were made on, how many are degraded, and the weight f64[k] that each has as an example
    (0: it waits for no outcome)."""

    lines: bytes
    made: Sequence[bool]
    actions: Sequence[str]
    versions: tuple[str, ...]
    scored: tuple[F64, ...]
    columns: F64
    degraded: int
    weight: F64

    @property
    def values(self) -> list[bytes | None]:
        """The decision of each event, None where none was made."""
        lines = iter(self.lines.split(b"\n"))
        return [next(lines) if made else None for made in self.made]

    @property
    def waiting(self) -> dict[str, float]:
        """What those that wait for an outcome weigh together, by each version that scored them."""
        scored = zip(self.versions, self.scored, strict=True)
        weights = {version: float(self.weight[np.isfinite(scores)].sum()) for version, scores in scored}
        return {version: weight for version, weight in weights.items() if weight}

    @property
    def scores(self) -> F64:
        """The champion's, f64[k]."""
        return self.scored[0]


class Decider:
    """Features → scores → decisions: the end of the last stage."""

    def __init__(self, plan: Plan, lookup: Lookup | None):
        check_model(plan)
        self.plan = plan
        self._lookup = lookup
        self._maps = [field.name for field in plan.workload.fields if field.room]
        model = plan.workload.model
        self._own = Session(model) if isinstance(model, Artifact) else None
        self.take(None, ())

    def take(self, champion: Session | None, challengers: Sequence[Session]) -> None:
        """From the next batch on `champion` decides (None: the workload's own model), `challengers` are scored too."""
        champion = champion or self._own
        features = champion.artifact.features if champion else self.plan.workload.model.features
        version = champion.artifact.version if champion else self.plan.workload.model.version
        beside = tuple(c for c in challengers if c.artifact.version != version)
        inputs = [self._positions(features), *(self._positions(c.artifact.features) for c in beside)]
        self._serving = champion, beside, (version, *(c.artifact.version for c in beside)), features, inputs

    @property
    def version(self) -> str:
        """The version that decides."""
        return self._serving[2][0]

    def _positions(self, features: Sequence[str]) -> NDArray[np.intp]:
        missing = [name for name in features if name not in self.plan.names]
        if missing:
            raise ModelRejected(
                f"model of workload {self.plan.workload.name!r}: reads {missing[0]!r}, which no feature provides; "
                "train one on the features that there are"
            )
        return np.array([self.plan.places[name] for name in features], np.intp)

    def columns(self, events: Events) -> tuple[F64, NDArray[np.bool_]]:
        """Every column of `plan.names`, f64[k, names], and which rows are degraded, bool[k]."""
        degraded = np.zeros(len(events.ids), np.bool_)
        parts = [events.numbers, events.features]
        for feature in self.plan.enriched:
            keys = events.entities[[s.entity for s in self.plan.stages].index(feature.entity)]
            if self._lookup is None:
                parts.append(np.full((len(keys), 1), feature.default))
                degraded[:] = True
            else:
                found, answered = self._lookup(feature.entity, keys, (feature.field,))
                parts.append(np.where(np.isnan(found), feature.default, found))
                degraded |= ~answered
        columns = np.empty((len(degraded), len(self.plan.names)))
        np.concatenate(parts, axis=1, out=columns[:, : len(self.plan.names) - len(self.plan.derived)])
        return derive_columns(self.plan, events.at, columns), degraded

    def __call__(self, events: Events, before: Mapping[int, Said] = MappingProxyType({})) -> Decided:
        """Decide `events`, whose features are complete; all as `before`, by one model, if that says it of any."""
        if not events.ids:
            none = np.empty(0)
            return Decided(b"", [], [], ("",), (none,), np.empty((0, len(self.plan.names))), 0, none)
        columns, degraded = self.columns(events)
        champion, beside, versions, features, (read, *others) = self._serving
        inputs = columns.take(read, 1).astype(np.float32)
        scores = champion.score(inputs) if champion else columns[:, read[0]]
        if champion:
            degraded |= np.isnan(scores)  # it has no answer to a value that is missing
        shadows = (c.score(columns.take(read, 1).astype(np.float32)) for c, read in zip(beside, others, strict=True))
        decided, taken = decide_by_policy(
            self.plan.workload,
            Batch(
                workload=self.plan.workload.name, model=versions[0], ids=events.ids, keys=events.entities[0],
                at=events.at, degraded=degraded, scores=scores, names=self.plan.names, columns=columns,
                inputs=features if champion else (),
                contributions=lambda of: champion.contributions(inputs[of]) if champion else np.empty((len(of), 0)),
                maps=dict(zip(self._maps, events.entities[len(self.plan.stages) :], strict=True)),
            ),
        )  # fmt: skip
        decisions, actions = list(decided), list(taken)
        for row, said in before.items():
            actions[row] = self.plan.workload.policy.actions[-1] if said.explored else said.action or actions[row]
        weight = self._explored(events.ids, decisions, actions)
        scored = (scores, *shadows)
        if before:
            made = [True] * len(decisions)
            lines = b"".join(before[row].value + b"\n" for row in range(len(made)))
            versions, scored = _as_served(before, versions, scored)
        else:
            made = [decision is not None for decision in decisions]
            lines = encode_lines(compress(decisions, made))
        return Decided(lines, made, actions, versions, scored, columns, np.count_nonzero(degraded), weight)

    def _explored(self, ids: Sequence[str], decisions: list[Decision | None], actions: list[str]) -> F64:
        """Let chance decide some of what is declined; returns what each event weighs as an example, f64[k]."""
        rule = self.plan.workload.learning
        if rule is None:
            return np.zeros(len(ids))
        names = self.plan.workload.policy.actions
        quiet, declined = (np.array([action == name for action in actions], np.bool_) for name in (names[0], names[-1]))
        chosen = np.zeros(len(ids), np.bool_)
        if rule.exploration is not None:
            chosen = rule.exploration.chosen(ids, declined)
            for row in np.flatnonzero(chosen).tolist():
                actions[row] = rule.exploration.action
                if (decision := decisions[row]) is not None:
                    fields = msgspec.structs.asdict(decision) | {"action": rule.exploration.action}
                    decisions[row] = Explored(**fields, explored=True)
        return rule.weight(ids, quiet, declined, chosen)


def _as_served(
    before: Mapping[int, Said], versions: tuple[str, ...], scored: tuple[F64, ...]
) -> tuple[tuple[str, ...], tuple[F64, ...]]:
    """Versions and their scores, with the model first that decided before, and what it said then."""
    model = before[0].model
    beside = dict(zip(versions, scored, strict=True))
    computed = beside.pop(model, scored[0])
    said = np.array([before[row].score for row in range(len(computed))])
    same = np.isnan(said) | (computed.round(DIGITS) == said)
    return (model, *beside), (np.where(same, computed, said), *beside.values())
