"""Naive twins of the keyed features: they keep every event and label, and compute each feature from the definition."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from operators.features import Aggregate, Keyed
from schemas.time import DAY, duration


@dataclass
class Event:
    """One event or label: `known` is None for an event."""

    key: int
    id: int
    at: int
    values: dict[str, float]
    known: int | None = None
    of: bool = False


@dataclass
class History:
    """Everything that happened to one key."""

    events: list[Event] = field(default_factory=list)
    labels: list[Event] = field(default_factory=list)


class Twin:
    """The features of one `by(...)`, one record at a time."""

    def __init__(self, declared: Keyed) -> None:
        self.declared = declared
        self.keys: dict[int, History] = {}

    def put(self, e: Event) -> list[float] | None:
        """Features of an event; None for a label or a duplicate."""
        h = self.keys.setdefault(e.key, History())
        if e.known is not None:
            if all(e.id != other.id for other in h.labels):
                h.labels.append(e)
            return None
        if any(e.id == other.id for other in h.events):
            return None
        h.events.append(e)
        newest = max(other.at for other in h.events)
        horizon = max(e.at, newest - self.declared.lateness)
        known = [label for label in h.labels if label.known is not None and label.known < horizon]
        return [self.value(a, span, e, h.events, known) for a in self.declared.aggregates for span in a.spans or ("",)]

    def value(self, a: Aggregate, span: str, e: Event, events: list[Event], known: list[Event]) -> float:
        """One feature of the newest arrival `e`."""
        if a.fold.startswith("label_"):
            return self.label_value(a, span, e, events, known)
        before = sorted((o for o in events[:-1] if o.at <= e.at), key=lambda o: o.at)
        if a.fold == "since":
            return min((e.at - before[-1].at) / DAY, a.x) if before else a.x
        if a.fold == "previous":
            value = before[-1].values[a.field or ""] if before else 0.0
            return 0.0 if math.isnan(value) else value
        if a.fold.startswith("decayed"):
            terms = [
                (1.0 if a.field is None else o.values[a.field]) * 2.0 ** (-(e.at - o.at) / duration(span))
                for o in [*before, e]
            ]
            return math.fsum(t for t in terms if not math.isnan(t))
        inside = window(events, a, span, e.at)
        if a.fold == "count":
            return float(len(inside))
        values = np.array([o.values[a.field or ""] for o in inside])
        return read(a, values[~np.isnan(values)])

    def label_value(self, a: Aggregate, span: str, e: Event, events: list[Event], known: list[Event]) -> float:
        """One feature of the labels known to `e`."""
        true = [label for label in known if label.of]
        false = [label for label in known if not label.of]
        chosen = true if a.of else false
        if a.fold == "label_rate":
            inside = len(window(events, a, span, e.at))
            return min(len(window(true, a, span, e.at)) / inside, 1.0) if inside else 0.0
        if a.fold == "label_since":
            return min((e.at - max(o.at for o in chosen)) / DAY, a.x) if chosen else a.x
        if a.fold == "label_decay":
            return math.fsum(2.0 ** (-max(e.at - o.at, 0) / duration(span)) for o in true)
        if a.fold == "label_smoothed":
            return (len(true) + a.x * a.y) / (len(known) + a.x)
        if a.fold in ("label_run", "label_run_age"):
            last = max((o.at for o in false), default=-math.inf)
            run = [o.at for o in true if o.at > last]
            return float(len(run)) if a.fold == "label_run" else (e.at - min(run)) / DAY if run else 0.0
        values = np.array([o.values[a.field or ""] for o in chosen])
        return read(a, values[~np.isnan(values)])


def window(events: list[Event], a: Aggregate, span: str, t: int, wider: float = 0.0) -> list[Event]:
    """Events in (t - delay - window, t - delay], made `wider` ms at both ends."""
    end = t - a.delay
    return [o for o in events if end - duration(span) - wider < o.at <= end + wider]


def read(a: Aggregate, values: NDArray[np.float64]) -> float:
    """A fold of the values that are there."""
    fold = a.fold.removeprefix("label_")
    if len(values) == 0 or (fold in ("var", "std") and len(values) == 1):
        return 0.0
    if fold == "distinct":
        return float(len(set(values.tolist())))
    if fold == "quantile":
        return float(np.quantile(values, a.x))
    if fold in ("var", "std"):
        return float(getattr(np, fold)(values, ddof=1))
    return float(getattr(np, fold)(values))
