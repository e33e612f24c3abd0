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
        if self.value is not None and self.values is not None:
            raise ValueError("found `value` and `values`, expected one of them")
        if self.value is None and self.values is None:
            raise ValueError("missing required field `value` or `values`: none, empty, or no finite number (NaN)")


class Verdict(Outcome, frozen=True, gc=False):
    """Whether a reading was anomalous (`label` true: a confirmed alarm) or not (a false one)."""
