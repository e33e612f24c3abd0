"""Continuous learning, as an author declares it: `Workload(learners=(…), learning=learning(…))`. Runs nothing.

A decision waits for its outcome; the two make an example; examples teach the learners, whose models are scored in
shadow; what is better by the declared test becomes champion. `streaming.teacher` does all that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_type_hints

import numpy as np
from numpy.typing import NDArray

from models import rules
from models.exploration import Exploration, by_chance
from models.rules import DriftRule, EvaluationRule, PromotionRule
from schemas.errors import DefinitionError
from schemas.time import duration

F64 = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Learning:
    """What `learning` declares; times in ms."""

    horizon: int
    presume: bool | None
    share: float
    compile: int
    segment: str | None
    amount: str | None
    cap: int | None
    evaluation: EvaluationRule
    promotion: PromotionRule
    drift: DriftRule
    exploration: Exploration | None

    def weight(self, ids: Sequence[str], quiet: Flags, declined: Flags, explored: Flags) -> F64:
        """What each event counts as an example, f64[k], 0 where it waits for no outcome; flags bool[k]: without an
        alert, with the last action of the policy by score, and of those the ones decided by chance."""
        weight = np.ones(len(ids))
        if self.share < 1:
            rows = np.flatnonzero(quiet)
            waits = by_chance([ids[i] for i in rows.tolist()], self.share, "examples")
            weight[rows] = np.where(waits, 1 / self.share, 0.0)
        if self.exploration is not None:
            weight *= self.exploration.weight(declined, explored)
        return weight


def learning(
    *,
    horizon: str = "30d",
    presume: bool | None = None,
    share: float = 1.0,
    compile: str = "1d",
    segment: str | None = None,
    amount: str | None = None,
    cap: int | None = None,
    evaluation: EvaluationRule | None = None,
    promotion: PromotionRule | None = None,
    drift: DriftRule | None = None,
    exploration: Exploration | None = None,
) -> Learning:
    """How a workload learns: `learning(horizon="14d", presume=False, share=0.2)`.

    horizon    how long a decision waits for its outcome
    presume    the label of what got none by then; None: such decisions teach nothing
    share      of the decisions without an alert that wait at all; they count for the others
    compile    event time between two models that are made of what the learners know
    segment    column by whose (whole) values metrics are told apart
    amount     column with what an event is worth, for the costs of `evaluation`
    cap        most outcomes of one source in a day of event time; None: any number
    exploration  share of the events with the last action of the policy that are decided by chance
    """
    given = dict(locals())
    for name, kind in get_type_hints(learning).items():
        if name in given and not isinstance(given[name], int | float if kind is float else kind):
            raise DefinitionError(f"learning({name}={given[name]!r}): expected {getattr(kind, '__name__', kind)}")
    if not 0 < share <= 1:
        raise DefinitionError(f"learning(share={share!r}): expected a share above 0 and at most 1, such as 0.2")
    if cap is not None and cap < 1:
        raise DefinitionError(f"learning(cap={cap!r}): expected 1 or more outcomes a day, or None")
    rule = evaluation or rules.evaluation()
    if rule.costs is not None and rule.costs.by_amount and amount is None:
        raise DefinitionError("learning: the costs of its evaluation go by amount; amount= must name that column")
    waits = duration(horizon, "learning(horizon)")
    contest, least = promotion or rules.promotion(), min(share, exploration.share if exploration else 1.0)
    contest = replace(
        contest, weight=contest.weight or 1 / least,
        settle=(waits if presume is not None else 0) if contest.settle is None else contest.settle,
    )  # fmt: skip
    return Learning(
        waits, presume, share, duration(compile, "learning(compile)"), segment, amount, cap, rule, contest,
        drift or rules.drift(), exploration,
    )  # fmt: skip
