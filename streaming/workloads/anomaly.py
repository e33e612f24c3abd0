"""Anomaly detection: is this reading of a sensor one that the sensor's own past explains?

Every sensor has detectors of its own, which learn from each reading (`operators.anomaly`); the score is 1 - p among
the sensor's recent ones, so that one threshold means the same rate of false alarms everywhere. Verdicts on alarms
move a sensor's threshold; with `learn` they also teach, over all sensors, which alarms people confirm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models import native
from models.learners import AdaptiveForest, Logistic
from models.policy import DIGITS, Batch
from models.rules import promotion
from operators import track
from operators.anomaly import DETECTORS, FLAGS, STATES, Detector
from schemas.anomaly import Reading, Verdict
from schemas.decisions import Decision, Scored
from schemas.errors import DefinitionError
from streaming.learning import learning
from streaming.workload import Column, Columns, Expression, Workload, derive

ALERTS_ONLY = 1e-9
"""Share of the decisions without an alert that wait for a verdict: next to none, there are too many of them."""


@dataclass(frozen=True)
class Alarms:
    """Alerts where a sensor's detector does. Once a model was learned from verdicts, its score is the chance that an
    alarm is true: below `confirm` an alarm is `doubtful`, no alert, but waits for a verdict as one does. Reasons:
    `warming`, what is odd about the reading itself (`gap`, `late`, `stuck` …; `renamed`: other values, learned anew;
    `ignored`: more values than there is room for), then, of an alarm, the detectors that object most and the values
    that they object to, or `unusual` where none does alone."""

    values: int
    confirm: float
    reasons: int = 3
    actions = ("ok", "doubtful", "alert")

    def decide(self, batch: Batch) -> tuple[Sequence[Decision], Sequence[str]]:
        """A `Scored` decision for each reading."""
        alarm = batch.column("sensor_alarm") > 0.5
        scores = np.round(batch.scores, DIGITS)
        level = alarm * np.where(scores < self.confirm, 1, 2) if batch.inputs else alarm * 2
        states, flags = (batch.column(f"sensor_{name}").astype(np.int64) for name in ("state", "flags"))
        about: list[list[str]] = [[] for _ in batch.ids]
        for row in np.flatnonzero(states | flags).tolist():
            about[row] += [STATES[states[row]]] if states[row] else []
            about[row] += [name for bit, name in enumerate(FLAGS) if flags[row] >> bit & 1]
        for row in np.flatnonzero(alarm).tolist():
            about[row] += self._strongest(batch, row, about[row])
        actions = [self.actions[found] for found in level.tolist()]
        rows = zip(batch.ids, batch.at.tolist(), batch.keys, scores.tolist(), actions, about, strict=True)
        return [
            Scored(
                id=id, workload=batch.workload, event=id, at=at, key=key, model=batch.model, degraded=False,
                score=score, action=action, reasons=tuple(why),
            )
            for id, at, key, score, action, why in rows
        ], actions  # fmt: skip

    def _strongest(self, batch: Batch, row: int, said: list[str]) -> list[str]:
        """What found most, beside what is `said` already."""
        first = batch.names.index(f"sensor_{DETECTORS[0]}")
        named = [*DETECTORS, *(f"value:{name}" for name in batch.maps["values"][row].split("\0") if name)]
        found = batch.columns[row, first : first + len(DETECTORS) + self.values]
        order = np.argsort(-found, kind="stable").tolist()
        strongest = [named[i] for i in order if found[i] > 0 and i < len(named)] or ["unusual"]
        return [name for name in strongest if name not in said][: self.reasons]


def magnitude(column: str) -> Expression:
    """The logarithm of what a detector found, which has no upper bound."""

    def expression(columns: Columns) -> Column:
        return np.asarray(np.log1p(getattr(columns, f"sensor_{column}")), np.float64)

    return expression


def anomaly(
    alarms: str = "1/7d", values: int = 16, warming: int = 128, learn: bool = False, confirm: float = 0.2
) -> Workload:
    """The workload: a sensor may give `alarms` false alarms a time, once it has had `warming` readings; a reading has
    one value, or at most `values` (0: always one, with less state). With `learn` models of verdicts challenge the
    detector; where one is promoted, alarms that are true with a chance below `confirm` are `doubtful`."""
    if values not in range(17):
        raise DefinitionError(f"--set values={values}: expected 0 to 16")
    if not 0 <= confirm <= 1:
        raise DefinitionError(f"--set confirm={confirm}: expected a chance, 0 to 1")
    return Workload(
        name="anomaly",
        event=Reading,
        outcome=Verdict,
        features=(
            track("sensor", Detector(alarms=alarms, values=values, warming=warming)),
            *([derive(**{found: magnitude(found) for found in DETECTORS})] if learn else []),
        ),
        inputs=DETECTORS if learn else (),
        model=native("conformal-1", "sensor_score"),
        policy=Alarms(values, confirm),
        learners=(Logistic(rate=0.05), AdaptiveForest(trees=10, negatives=1.0)) if learn else (),
        learning=learning(
            horizon="7d", share=ALERTS_ONLY, promotion=promotion(labels=100, weight=1.0)
        ) if learn else None,
        views=False,
    )
