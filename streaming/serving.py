"""What surrounds a stage inside a TaskManager: metrics, feature views and reads of the online store.

Stages stay pure; everything here may fail or hang without holding up a decision.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from operators.redis import Lookup
from operators.views import Views
from streaming import observe
from streaming.engine import Events
from streaming.engine import Lookup as Read
from streaming.plan import Plan, Stage


class Services(msgspec.Struct, frozen=True):
    """What a job reaches: a Redis URL (empty: none), where this process serves its metrics, the URL of the registry of
    models, and Kafka, where it reads what it wrote; `counts`: what it wrote before a crash counts."""

    redis: str = ""
    metrics_folder: str = ""
    metrics_port: int = 0
    metrics_host: str = "127.0.0.1"
    registry: str = ""
    brokers: str = ""
    counts: bool = True


class Serving:
    """Metrics and online store of one stage (-1: the join) of one subtask."""

    def __init__(self, plan: Plan, stage: int, services: Services):
        workload = plan.workload
        self.observer = observe.Observer(workload.name, plan.stages[stage].entity if stage >= 0 else "join")
        if services.metrics_folder:
            observe.serve(Path(services.metrics_folder), services.metrics_port, services.metrics_host)
        prefix = f"millrace:{workload.name}"
        published = bool(services.redis) and stage >= 0 and workload.views
        features = plan.stages[stage].features
        self._views = Views(services.redis, prefix, features.entity, features.names) if published else None
        self._unwatch = self.observer.watch(self._views.counts) if self._views else None
        last = stage >= 0 and plan.stages[stage].last
        reads = last and plan.enriched and services.redis
        self._lookup = Lookup(services.redis, f"enrich:{workload.name}") if reads else None
        self._last = last
        if last:
            self.observer.model(workload.model.version)

    @property
    def lookup(self) -> Read | None:
        """Reads features from the online store; None where the plan reads none."""
        return self._lookup.read if self._lookup else None

    def admitted(self, rows: NDArray[np.int32]) -> None:
        """Note that these rows of the stage are of other keys from now on."""
        if self._views is not None and len(rows):
            self._views.forget(rows)

    def publish(self, stage: Stage, events: Events, rows: NDArray[np.int32], keys: Sequence[str]) -> None:
        """Hand the features that `stage` wrote, of these rows i32[k] of `keys`, to the online store; never waits."""
        if self._views is not None and events.ids:
            written = events.features[:, stage.start : stage.stop]
            self._views.publish(rows, keys, events.at, written)

    def batch(self, records: int, began: float) -> None:
        """Note a micro-batch of `records`, which `began` at that time of the performance counter."""
        self.observer.batch(records, time.perf_counter() - began)
        if self._lookup is not None:
            self.observer.dependency("redis", self._lookup.up)

    def close(self) -> None:
        """Write what waits, and stop reporting."""
        if self._unwatch is not None:
            self._unwatch()
        if self._last:
            self.observer.no_model()
        if self._views is not None:
            self._views.close()
        if self._lookup is not None:
            self._lookup.close()
