"""Records of the reference workload, on which performance is measured."""

from schemas.records import Event, Identifier


class Reading(Event, frozen=True, gc=False):
    """One value of one key."""

    key: Identifier
    value: float
