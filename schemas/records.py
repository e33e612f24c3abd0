"""Base types of public records: JSON objects, one a Kafka record.

Unknown fields are ignored, a missing or mistyped one makes a dead letter. Identifiers are 1 to 256 characters
long, so that state and memory stay bounded whatever is published.
"""

from typing import Annotated

import msgspec

Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Millis = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]
"""Milliseconds since the epoch, up to the end of the year 9999."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """What every event carries: its identity and its time."""

    id: Identifier
    at: Millis


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The truth about an event, known from `at` on; `source` says who found it, where that is worth to know."""

    event: Identifier
    at: Millis
    label: bool
    source: str = ""
