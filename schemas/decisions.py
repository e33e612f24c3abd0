"""What Millrace says about an event. A body holds no clock and no chance: a replay writes the same bytes."""

import msgspec


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What every decision says; `id` is the id of its event, `model` the version that scored it."""

    id: str
    workload: str
    event: str
    at: int
    key: str
    model: str
    degraded: bool


class Scored(Decision, frozen=True, gc=False):
    """A decision by score: `reasons` are the features that moved the score most, strongest first."""

    score: float
    action: str
    reasons: tuple[str, ...] = ()


class Explored(Scored, frozen=True, gc=False, kw_only=True):
    """A decision that was made by chance, not by score, so that the truth about such events is seen."""

    explored: bool
