"""Models that live in the state of one key: a stage on the way of an event that learns from every event itself.

`track("sensor", Detector())` declares one; its columns are features like those of `by`. What a tracker keeps of a
key is one row of numbers, read and written by one compiled call a batch, so that it is snapshotted, moved and
replayed as any other state is.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from operators.features import name

Floats = NDArray[np.float64]


class Tracker(Protocol):
    """A model of one key, as a frozen declaration.

    One that has an attribute `named`, a mapping of an event, is told the names in it too: numbers that stand for them,
    behind the inputs.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The f columns that it writes."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The c event fields that it reads."""

    @property
    def words(self) -> int:
        """float64 words of a key's state."""

    @property
    def labelled(self) -> bool:
        """Whether it is told outcomes."""

    @property
    def fingerprint(self) -> str:
        """Of all that decides what a state means: one with another fingerprint starts anew."""

    def zero(self, states: Floats) -> None:
        """Make `states` f64[u, >= words] those of keys of which nothing is known."""

    def step(
        self, states: Floats, slot: NDArray[np.int32], port: NDArray[np.uint8], at: NDArray[np.int64], label: Floats,
        columns: Floats, fresh: NDArray[np.bool_], out: Floats,
    ) -> None:  # fmt: skip
        """Take k records in order into `states` f64[u, >= words], in place; columns of events to `out` f64[k, f].

        slot i32[k]: the state of each; port u8[k]: 0 event, 1 outcome; at i64[k] ms, since when it is known;
        label f64[k], of outcomes; columns f64[k, c]; fresh bool[k]: False for what must be passed over.
        """


@dataclass(frozen=True)
class Tracked:
    """A tracker for each key of `entity`; `fields` are the event fields that it reads."""

    entity: str
    tracker: Tracker

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(f"{self.entity}_{column}" for column in self.tracker.names)

    @property
    def fields(self) -> tuple[str, ...]:
        """Event fields that are read."""
        return self.tracker.inputs

    @property
    def labelled(self) -> bool:
        """Whether outcomes are read."""
        return self.tracker.labelled


def track(entity: str, tracker: Tracker) -> Tracked:
    """A tracker for each value of the event field `entity`: `track("sensor", Detector(alarms="1/7d"))`."""
    return Tracked(name(entity, f"track({entity!r})"), tracker)
