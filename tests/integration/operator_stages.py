"""Stages for test_operator.py, small enough to predict; a TaskManager imports them by this module's name."""

import json
import time
from typing import Any

import numpy as np

from schemas import frames
from tests import java


class Counter:
    """Counts records by key (in keyed state) and altogether (in the object), and writes down what it saw.

    Every main record gives one decision; side records are noted by the key, each after `pause` seconds,
    and come with it (`told`). A value `boom` raises, `bad` is a dead letter, `timer T` sets a timer,
    `row` sends a row to stage 1, `tag` uses a tag that nobody reads.
    """

    def __init__(self, spec: str, subtask: int):
        self.spec = json.loads(spec)
        self.subtask = subtask
        self.total = 0
        self.announced: list[str] = []

    def process(self, buffer: bytes) -> bytes:
        """One batch."""
        request = frames.parse_request(buffer)
        states = [json.loads(state) if state else {"seen": 0, "told": []} for state in request.states()]
        timer = np.full(len(states), frames.NONE, np.int64)
        outputs: list[tuple[int, bytes]] = []
        records = zip(request.slot.tolist(), request.port.tolist(), request.records(), strict=True)
        for slot, port, record in records:
            key, state = request.keys[slot], states[slot]
            if port == frames.TIMER:
                fired = int.from_bytes(record, "little", signed=True)
                outputs.append(self._record(frames.SIGNAL, key, {"key": key.decode(), "timer": fired}))
                continue
            value = self._value(record)
            if port == frames.SIDE:
                time.sleep(self.spec.get("pause", 0))
                state["told"].append(value)
                continue
            state["seen"] += 1
            self.total += 1
            outputs += self._main(key, state, value, record)
            if value.startswith("timer "):
                timer[slot] = int(value.removeprefix("timer "))
        encoded = [json.dumps(state).encode() for state in states]
        encoded = [state + b" " * (-len(state) % 8) for state in encoded]
        return frames.build_response(
            [frame for _, frame in outputs],
            bytes(tag for tag, _ in outputs),
            np.array([len(state) for state in encoded], np.int32),
            b"".join(encoded),
            timer,
        )

    def _value(self, record: bytes) -> str:
        if self.spec.get("rows"):
            return frames.payload(record).decode()
        value = java.read_source(record).value
        try:
            return str(json.loads(value or b"")["value"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return "bad"

    def _main(self, key: bytes, state: dict[str, Any], value: str, record: bytes) -> list[tuple[int, bytes]]:
        if value == "boom":
            raise ValueError("planted in the stage")
        if value == "bad":
            source = java.read_source(record)
            headers = [(b"reason", b"bad"), (b"offset", str(source.offset).encode())]
            return [(frames.DEADLETTER, frames.sink(source.key, source.value, headers))]
        at = int.from_bytes(record[:8], "little", signed=True)
        if value == "row":
            return [(frames.ROW + 1, frames.row(at, b"to-" + key, b"from a row"))]
        if value == "tag":
            return [(77, b"")]
        decision = {
            "key": key.decode(), "seen": state["seen"], "total": self.total, "value": value, "at": at,
            "told": list(state["told"]), "models": self.announced, "stage": self.spec.get("stage", ""),
        }  # fmt: skip
        return [self._record(frames.DECISION, key, decision)]

    def _record(self, tag: int, key: bytes, body: object) -> tuple[int, bytes]:
        return tag, frames.sink(key, json.dumps(body).encode())

    def control(self, value: bytes) -> bytes:
        """Note an announcement, and say so."""
        self.announced.append(value.decode())
        note = self._record(frames.SIGNAL, b"control", {"announced": value.decode()})
        return frames.build_response([note[1]], bytes([note[0]]), np.empty(0, np.int32), b"", None)

    def snapshot(self, _: bytes) -> bytes:
        """The total."""
        return self.total.to_bytes(8, "little")

    def restore(self, snapshot: bytes) -> None:
        """Add a total."""
        self.total += int.from_bytes(snapshot, "little")

    def close(self, _: bytes) -> bytes:
        """Nothing to let go of."""
        return b""
