"""What was said of an event is said again in the same bytes.

After a crash the events since the last checkpoint come once more, and by now another model may serve, an outcome be
there that was not, the online store answer that did not. What was said of each stands in the decisions topic.
"""

import logging
from collections.abc import Mapping
from itertools import chain, groupby, islice
from time import time_ns

import msgspec
import numpy as np

from streaming import kafka
from streaming.engine import Events

SLACK = 1000
"""Milliseconds between the clocks of those who write a checkpoint and a decision."""

MOST = 1_000_000
"""Decisions that are kept, some 300 bytes each, and events after which they are forgotten; what lies further back is
decided anew."""

log = logging.getLogger("millrace.again")


class Said(msgspec.Struct, frozen=True):
    """What a decision said, as far as examples and metrics need it; `value` is all of it."""

    id: str
    key: str
    at: int
    model: str
    action: str = ""
    score: float = np.nan
    explored: bool = False
    value: bytes = b""


Event = tuple[str, str, int]
"""Id, key and time: an id alone may be that of another key's event, which others decide meanwhile."""

_SAID = msgspec.json.Decoder(Said)


class Again:
    """What was said since the last checkpoint, by event: id, key and time; each is said once more at most."""

    def __init__(self, brokers: str, topic: str, since: int):
        """`topic`: of the decisions; `since`: ms, from when on they count where there is no checkpoint."""
        self._brokers, self._topic, self._since = brokers, topic, since
        self._taken, self._left = list[int](), MOST
        self._said: dict[Event, Said] | None = None

    def snapshot(self) -> bytes:
        """When the checkpoint is taken: what is said from now on may come again after it."""
        return msgspec.msgpack.encode(time_ns() // 1_000_000)

    def restore(self, snapshot: bytes) -> None:
        """Begin at the oldest of the snapshots that this is called with."""
        self._taken.append(max(0, msgspec.msgpack.decode(snapshot, type=int) - SLACK))

    def of(self, events: Events) -> list[tuple[Events, Mapping[int, Said]]]:
        """`events` in their order, parted by the model that decided them before, each part with what was said of its
        rows; the events of a part come all again or all for the first time."""
        if self._said is None:
            self._said = self._read()
        if not self._said:
            return [(events, {})]
        came = zip(events.ids, events.entities[0], events.at.tolist(), strict=True)
        said = [self._said.pop(event, None) for event in came]
        self._left -= len(said)
        if self._left < 0:  # those that were other subtasks' events
            self._said.clear()
        parts: list[tuple[Events, Mapping[int, Said]]] = []
        for _, rows in groupby(range(len(said)), key=lambda row: one.model if (one := said[row]) else ""):
            chosen = list(rows)
            keep = np.zeros(len(said), np.bool_)
            keep[chosen] = True
            known = {i: one for i, row in enumerate(chosen) if (one := said[row])}
            parts.append((events.take(keep), known))
        return parts

    def _read(self) -> dict[Event, Said]:
        found: dict[Event, Said] = {}
        read = 0
        since = min(self._taken, default=self._since)
        offsets = kafka.offsets_since(self._brokers, self._topic, since)
        batches = kafka.records(self._brokers, self._topic, offsets)
        for record in islice(chain.from_iterable(batches), MOST):
            read += 1
            try:
                said = _SAID.decode(record.value or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # of somebody else: it says nothing here
                continue
            if said.model and b"\n" not in (record.value or b""):  # ours are one line each
                found.setdefault((said.id, said.key, said.at), msgspec.structs.replace(said, value=record.value))
        if read == MOST:
            log.warning("%s has %d decisions since %d, or more: those may be decided anew", self._topic, MOST, since)
        return found
