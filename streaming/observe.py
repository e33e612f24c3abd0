"""Metrics in Prometheus form of every process that runs stages: the one wrapper that observes all of them.

Place in the way of an event: around a stage, once a micro-batch. Operators and models hold no metrics code;
stages tell an `Observer` what a batch did, and call `serve` once a process. No entity id is a label.
"""

import atexit
import json
import logging
import os
import re
import socket
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric

from operators.views import ViewCounts
from schemas.codec import DeadLetter
from streaming.kernels import tally

log = logging.getLogger("millrace.observe")
T = TypeVar("T")

RECORDS = tuple(float(2**i) for i in range(13))
SECONDS = tuple(float(f"{base}e{e}") for e in range(-5, 1) for base in ("1", "2.5", "5"))
AGES = tuple(float(f"{base}e{e}") for e in range(-3, 6) for base in ("1", "2.5", "5"))
RESULTS = ViewCounts._fields[:5]
WORD, WORDS = re.compile(r"[A-Za-z][\w.-]{0,39}", re.ASCII), 32


class Cells:
    """The histogram of one set of label values. Takes an array at once: a batch costs as much as a record."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._edges = list(bounds), np.array(bounds)
        self._counts, self._sum = np.zeros(len(bounds) + 1, np.int64), 0.0
        self._lock = threading.Lock()

    def one(self, value: float) -> None:
        """Observe one value."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def many(self, values: NDArray[np.float64]) -> None:
        """Observe f64[n]."""
        with self._lock:
            self._sum += tally(self._edges, values, self._counts)

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulated counts, each with its upper bound, and the sum."""
        with self._lock:
            counts, total = np.cumsum(self._counts).tolist(), self._sum
        return list(zip([*map(repr, self._bounds), "+Inf"], counts, strict=True)), total


class Histogram:
    """A histogram with labels that takes batches, which prometheus_client's does not."""

    def __init__(self, name: str, help: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._help, self._labels, self._bounds = name, help, labels, bounds
        self._cells: dict[tuple[str, ...], Cells] = {}

    def labels(self, *values: str) -> Cells:
        """The cells of one set of label values, always the same ones."""
        return self._cells.setdefault(values, Cells(self._bounds))

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at a scrape."""
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for values, cells in tuple(self._cells.items()):
            family.add_metric(values, *cells.read())
        yield family


class ViewTotals:
    """Counters of feature views, pulled at a scrape; those of closed views are kept: counters only grow."""

    def __init__(self) -> None:
        self._open: list[Callable[[], ViewCounts]] = []
        self._closed = np.zeros(len(RESULTS), np.int64)
        self._lock = threading.Lock()

    def add(self, source: Callable[[], ViewCounts]) -> None:
        """Pull from `source` from now on."""
        with self._lock:
            self._open.append(source)

    def remove(self, source: Callable[[], ViewCounts]) -> None:
        """Ask `source` for the last time."""
        with self._lock:
            self._open.remove(source)
            self._closed += np.array(source()[: len(RESULTS)])

    def up(self) -> float:
        """1.0 where every open view's Redis answers."""
        with self._lock:
            return float(all(source().up for source in self._open))

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at a scrape."""
        with self._lock:
            total = self._closed + sum(np.array(source()[: len(RESULTS)]) for source in self._open)
        help = "Published rows, by what became of them"
        family = CounterMetricFamily("millrace_views", help, labels=["result"])
        for result, count in zip(RESULTS, total.tolist(), strict=True):
            family.add_metric([result], count)
        yield family


class Metrics:
    """All metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.decisions = self._counter("decisions", "Decisions, by action", "action")
        self.events = self._counter("events", "Events that a workload took in")
        self.duplicates = self._counter("duplicates", "Events whose id was there before")
        self.degraded = self._counter("degraded", "Decisions made without something they should have had")
        self.deadletters = self._counter("deadletters", "Records that could not be decided, by kind", "reason")
        self.records = self._histogram("batch_records", "Records in a micro-batch", RECORDS, "stage")
        self.seconds = self._histogram("stage_seconds", "Time of a micro-batch", SECONDS, "stage", "part")
        self.ages = self._histogram("event_age_seconds", "Wall clock minus Kafka timestamp", AGES)
        self.up = Gauge("millrace_dependency_up", "1 if it answers", ["dependency"], registry=self.registry)
        self.examples = self._counter("examples", "Decisions and outcomes, by what the join made of them", "kind")
        labels = ["workload", "model", "segment", "measure"]
        self.quality = Gauge("millrace_prequential", "Measured before the label", labels, registry=self.registry)
        labels = ["workload", "model"]
        self.model = Gauge("millrace_model_info", "1: the model that decides", labels, registry=self.registry)
        self.deciding: dict[str, str] = {}
        self.views = ViewTotals()
        self.registry.register(self.views)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"millrace_{name}", help, ["workload", *labels], registry=self.registry)

    def _histogram(self, name: str, help: str, bounds: Sequence[float], *labels: str) -> Histogram:
        histogram = Histogram(f"millrace_{name}", help, ["workload", *labels], bounds)
        self.registry.register(histogram)
        return histogram


METRICS = Metrics()


class Bound(dict[str, T]):
    """What is bound to a label value, made when first asked for.

    At most WORDS values that look like words; whatever else comes shares `other`: no data can widen a label.
    """

    def __init__(self, bind: Callable[[str], T]) -> None:
        super().__init__()
        self._bind = bind

    def __missing__(self, word: str) -> T:
        if len(self) >= WORDS or not WORD.fullmatch(word):
            return self._bind("other")
        made = self[word] = self._bind(word)
        return made


class Observer:
    """What one stage of one workload did: a few microseconds a batch."""

    def __init__(self, workload: str, stage: str, metrics: Metrics = METRICS) -> None:
        m, self._metrics, self._workload = metrics, metrics, workload
        self._records, self._ages = m.records.labels(workload, stage), m.ages.labels(workload)
        self._seconds = m.seconds.labels(workload, stage, "process")
        self._decisions = Bound(lambda action: m.decisions.labels(workload, action))
        self._dead = Bound(lambda reason: m.deadletters.labels(workload, reason))
        self._events, self._duplicates = m.events.labels(workload), m.duplicates.labels(workload)
        self._degraded = m.degraded.labels(workload)

    def batch(self, records: int, seconds: float) -> None:
        """Note a micro-batch of `records` that took `seconds`."""
        self._records.one(records)
        self._seconds.one(seconds)

    def arrived(self, timestamps: NDArray[np.int64]) -> None:
        """Note events that this stage, as the first of its workload, took in, by their Kafka timestamps i64[n] ms."""
        self._events.inc(len(timestamps))
        self._ages.many(time.time() - timestamps / 1000.0)

    def dead(self, letters: Iterable[DeadLetter]) -> None:
        """Note dead letters."""
        for letter in letters:
            self._dead[letter.kind].inc()

    def duplicates(self, count: int) -> None:
        """Note suppressed duplicates."""
        if count:
            self._duplicates.inc(count)

    def decided(self, actions: Sequence[str], degraded: int) -> None:
        """Note decisions by their actions, and how many of them are degraded."""
        for action in set(actions):
            self._decisions[action].inc(actions.count(action))
        if degraded:
            self._degraded.inc(degraded)

    def dependency(self, name: str, up: bool) -> None:
        """Note whether something the stage calls answers."""
        self._metrics.up.labels(name).set(up)

    def model(self, name: str) -> None:
        """Note which model decides from now on."""
        self.no_model()
        self._metrics.model.labels(self._workload, name).set(1)
        self._metrics.deciding[self._workload] = name

    def no_model(self) -> None:
        """Note that none decides any longer, in this task of the workload or another."""
        if before := self._metrics.deciding.pop(self._workload, None):
            self._metrics.model.remove(self._workload, before)

    def watch(self, source: Callable[[], ViewCounts]) -> Callable[[], None]:
        """Report feature views, `source` being their `counts`; call what is returned once they are closed."""
        views = self._metrics.views
        views.add(source)
        self._metrics.up.labels("redis").set_function(views.up)
        return lambda: views.remove(source)


class Loop:
    """What the learning loop of one workload did: examples by what became of them, and the quality of each version."""

    def __init__(self, workload: str, metrics: Metrics = METRICS) -> None:
        self._workload, self._metrics = workload, metrics
        self._joined = Bound(lambda kind: metrics.examples.labels(workload, kind))
        self._told: dict[tuple[str, str], frozenset[str]] = {}

    def joined(self, counts: Mapping[str, int]) -> None:
        """Note what the join of decisions with outcomes did."""
        for kind, count in counts.items():
            if kind:
                self._joined[kind].inc(count)

    def quality(self, lineage: str, segment: str, measures: Mapping[str, float]) -> None:
        """Note prequential measures of a lineage (empty: of all) in a segment (empty: the whole); those that it had
        before and has no longer, as there is no label in its window, are gone."""
        for name in self._told.get((lineage, segment), frozenset()) - measures.keys():
            self._metrics.quality.remove(self._workload, lineage, segment, name)
        self._told[lineage, segment] = frozenset(measures)
        for name, value in measures.items():
            self._metrics.quality.labels(self._workload, lineage, segment, name).set(value)


_ports: dict[int, int] = {}
_starting = threading.Lock()


def serve(folder: Path, port: int = 0, host: str = "127.0.0.1", metrics: Metrics = METRICS) -> int:
    """Serve this process's metrics over HTTP; returns the port. Later calls change nothing.

    Port 0, or one that is taken (by the process beside this one), means any that is free. The address is
    written to `folder`/metrics-<pid>.json as Prometheus' file_sd_configs has it; a folder is for one machine.
    """
    pid = os.getpid()
    with _starting:
        if pid in _ports:
            return _ports[pid]
        try:
            server, _ = start_http_server(port, host, metrics.registry)
        except OSError as error:
            if not port:
                raise
            log.warning("metrics: port %s on %s is not to be had (%s), taking a free one", port, host, error)
            server, _ = start_http_server(0, host, metrics.registry)
        _ports[pid] = server.server_port
    name = socket.getfqdn() if host in ("", "0.0.0.0", "::") else host
    target = [{"targets": [f"{name}:{server.server_port}"], "labels": {"pid": str(pid)}}]
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.glob("metrics-*.json"):
        number = other.stem.removeprefix("metrics-")
        if number.isdecimal() and not alive(int(number)):  # it was killed, and could not clean up
            other.unlink(missing_ok=True)
    file, draft = folder / f"metrics-{pid}.json", folder / f"metrics-{pid}.tmp"
    draft.write_text(json.dumps(target))
    draft.replace(file)
    atexit.register(file.unlink, missing_ok=True)
    return server.server_port


def alive(pid: int) -> bool:
    """Whether a process of this machine has that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
