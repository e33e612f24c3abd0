"""Records of the anomaly workload: readings of sensors, and verdicts on what was said of them."""

from typing import Annotated

import msgspec

from schemas.records import Event, Identifier, Outcome

Values = Annotated[dict[Identifier, float], msgspec.Meta(min_length=1, max_length=16)]


class Reading(Event, frozen=True, gc=False):
    """What a sensor measured: one `value`, or `values` by name (1 to 16), in any unit, finite; one of both."""

    sensor: Identifier
    value: float | None = None
    values: Values | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.values is None):
            raise ValueError("missing required field `value` or `values`, or found both; expected one of them")


class Verdict(Outcome, frozen=True, gc=False):
    """Whether a reading was anomalous (`label` true: a confirmed alarm) or not (a false one)."""
