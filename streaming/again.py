"""What was decided before is decided again by the same model.

After a crash the events since the last checkpoint come once more, while another model may serve by now. Which one
decided each of them stands in the decisions topic.
"""

import struct
import time
from collections.abc import Iterator
from itertools import chain, groupby, islice

import msgspec
import numpy as np

from models.onnx import Session
from models.registry import Registry
from schemas.errors import MillraceError
from schemas.topics import Topics
from streaming import kafka
from streaming.engine import Events
from streaming.plan import Plan
from streaming.serving import Services

SLACK = 1000
"""Milliseconds between the clocks of those who write a checkpoint and a decision."""

MOST = 2_000_000
"""Decisions that are looked at; a job that goes back further may decide the rest by another model."""

STRANGE = 10_000
"""Events in a row that were not decided before, after which no more are expected."""

_TIME = struct.Struct("<q")


class _Said(msgspec.Struct):
    id: str
    model: str


_SAID = msgspec.json.Decoder(_Said)


class Again:
    """Which model decided what comes again; empty where nothing does."""

    def __init__(self, plan: Plan, topics: Topics, services: Services):
        self._topics, self._services = topics, services
        self._version: dict[str, str] = {}
        self._sessions: dict[str, Session | None] = {plan.workload.model.version: None}
        self._strange = 0

    def snapshot(self) -> bytes:
        """When the checkpoint is taken: what is decided from now on may come again after it."""
        return _TIME.pack(time.time_ns() // 1_000_000)

    def restore(self, snapshot: bytes) -> dict[str, MillraceError]:
        """Read what was decided since; returns the versions that are not to be had any more, and why."""
        brokers, decisions = self._services.brokers, self._topics.decisions
        (taken,) = _TIME.unpack(snapshot)
        batches = kafka.records(brokers, decisions, kafka.offsets_since(brokers, decisions, taken - SLACK))
        for record in islice(chain.from_iterable(batches), MOST):
            try:
                said = _SAID.decode(record.value or b"")
            except msgspec.MsgspecError:  # somebody else wrote that: it decides nothing here
                continue
            self._version.setdefault(said.id, said.model)
        lost: dict[str, MillraceError] = {}
        for version in set(self._version.values()) - set(self._sessions):
            try:
                self._sessions[version] = Session(Registry(self._services.registry).get(self._topics.name, version))
            except MillraceError as error:
                lost[version] = error
        self._version = {id: version for id, version in self._version.items() if version not in lost}
        return lost

    def parts(self, events: Events) -> Iterator[tuple[Events, str]]:
        """`events` in their order, by the version that decided them; "" for those that come for the first time."""
        if not self._version:
            yield events, ""
            return
        versions = [self._version.pop(id, "") for id in events.ids]
        self._strange = 0 if any(versions) else self._strange + len(versions)
        if self._strange > STRANGE:
            self._version.clear()
        for version, rows in groupby(range(len(versions)), key=versions.__getitem__):
            chosen = np.zeros(len(versions), np.bool_)
            chosen[list(rows)] = True
            yield events.take(chosen), version

    def session(self, version: str) -> Session | None:
        """The session of a version that `parts` named; None for the model of the workload itself."""
        return self._sessions[version]
