"""What surrounds a stage inside a TaskManager: metrics, feature views and reads of the online store.

Stages stay pure; everything here may fail or hang without holding up a decision.
"""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from operators.redis import Lookup
from operators.views import Views
from schemas.codec import DeadLetter
from streaming import observe
from streaming.decider import Decided
from streaming.engine import Events
from streaming.engine import Lookup as Read
from streaming.plan import Plan, Stage


class Services(msgspec.Struct, frozen=True):
    """What a job reaches: a Redis URL (empty: none), where this process serves its metrics, the URL of the registry of
    models, and Kafka, where it reads what it wrote (empty: what it wrote before a crash does not count)."""

    redis: str = ""
    metrics_folder: str = ""
    metrics_port: int = 0
    metrics_host: str = "127.0.0.1"
    registry: str = ""
    brokers: str = ""


class Serving:
    """Metrics and online store of one stage (-1: the join) of one subtask."""

    def __init__(self, plan: Plan, stage: int, services: Services):
        workload = plan.workload
        self._observer = observe.Observer(workload.name, plan.stages[stage].entity if stage >= 0 else "join")
        if services.metrics_folder:
            observe.serve(Path(services.metrics_folder), services.metrics_port, services.metrics_host)
        prefix = f"millrace:{workload.name}"
        published = bool(services.redis) and stage >= 0 and workload.views
        features = plan.stages[stage].features
        self._views = Views(services.redis, prefix, features.entity, features.names) if published else None
        self._unwatch = self._observer.watch(self._views.counts) if self._views else None
        last = stage >= 0 and plan.stages[stage].last
        self._lookup = Lookup(services.redis, prefix) if last and plan.enriched and services.redis else None
        if last:
            self._observer.model(workload.model.version)
        self._clear()

    def _clear(self) -> None:
        self._dead: Counter[str] = Counter()
        self._actions: Counter[str] = Counter()
        self._duplicates = self._degraded = 0
        self._ages: NDArray[np.float64] | None = None

    @property
    def lookup(self) -> Read | None:
        """Reads features from the online store; None where the plan reads none."""
        return self._lookup.read if self._lookup else None

    def model(self, version: str) -> None:
        """Note which model decides from now on."""
        self._observer.model(version)

    def arrived(self, timestamps: NDArray[np.int64]) -> None:
        """Note records that the first stage took in, by their Kafka timestamps i64[k] ms."""
        self._ages = time.time() - timestamps / 1000.0

    def dead(self, letters: Sequence[DeadLetter]) -> None:
        """Note dead letters."""
        if letters:
            self._dead.update(letter.kind for letter in letters)

    def duplicates(self, count: int) -> None:
        """Note suppressed duplicates."""
        self._duplicates += count

    def decided(self, decided: Decided) -> None:
        """Note decisions."""
        for action in set(decided.actions):
            self._actions[action] += decided.actions.count(action)
        self._degraded += decided.degraded

    def admitted(self, rows: NDArray[np.int32]) -> None:
        """Note that these rows of the stage are of other keys from now on."""
        if self._views is not None and len(rows):
            self._views.forget(rows)

    def publish(self, stage: Stage, events: Events, rows: NDArray[np.int32], keys: Sequence[str]) -> None:
        """Hand the features that `stage` wrote, of these rows i32[k] of `keys`, to the online store; never waits."""
        if self._views is not None and events.ids:
            written = events.features[:, stage.start : stage.stop]
            self._views.publish(rows, keys, events.at, written)

    def batch(self, records: int, seconds: float) -> None:
        """Close a micro-batch of `records` that took `seconds`."""
        self._observer.batch(
            records, {"process": seconds}, self._actions, self._dead, self._duplicates, self._degraded, self._ages
        )
        if self._lookup is not None:
            self._observer.dependency("redis", self._lookup.up)
        self._clear()

    def close(self) -> None:
        """Write what waits, and stop reporting."""
        if self._unwatch is not None:
            self._unwatch()
        if self._views is not None:
            self._views.close()
        if self._lookup is not None:
            self._lookup.close()
