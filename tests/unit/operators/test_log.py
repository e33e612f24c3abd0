"""The log of a table: a state and what came behind it are the state that came of both, and it stays short."""

import struct
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators import log as logs
from operators.features import Keyed, by, count, label_mean, label_rate, mean, since
from operators.kernels.tables import Rows
from operators.keyed import EntityFeatures, compile_features, conform_rows
from operators.log import MOST, Log
from schemas.errors import MillraceError

HOUR = 3_600_000
START = 1_500_000_000_000
KEYS = 4

Record = tuple[int, int, int, int, bool, int, float]
"""Key, port, time, time of the event, label, id and amount."""

RECORDS = st.lists(
    st.tuples(
        st.integers(0, KEYS - 1), st.integers(0, 1), st.integers(0, 500), st.integers(0, 500), st.booleans(),
        st.integers(1, 40), st.floats(0, 1e4) | st.just(float("nan")),
    ),
    max_size=40,
)  # fmt: skip


def declared(*fields: str) -> Keyed:
    """Folds of events and of labels over some fields."""
    windowed = [mean(field, "1d", "7d") for field in fields]
    return by("card", count("6h", "7d"), label_rate("1d"), since(), label_mean("amount"), *windowed, ids=16)


def rows(records: list[Record], slot: dict[int, int], columns: int = 1) -> Rows:
    """As a table takes them; every column has the amount."""
    k, at = len(records), [START + r[2] * HOUR for r in records]
    origin = [START + r[3] * HOUR if r[1] else a for r, a in zip(records, at, strict=True)]
    return conform_rows(
        Rows(
            np.array([slot[r[0]] for r in records], np.int32), np.array([r[1] for r in records], np.uint8),
            np.array(at, np.int64), np.array(origin, np.int64), np.array([float(r[4]) for r in records]),
            np.array([r[5] for r in records], np.uint64),
            np.array([[r[6]] * columns for r in records]).reshape(k, columns),
        )
    )  # fmt: skip


def fold(features: EntityFeatures, states: NDArray[np.float64], came: Rows) -> NDArray[np.bool_]:
    """Fold records into states."""
    return features.update(states, came, np.empty((len(came.slot), len(features.names))))


def packed(features: EntityFeatures, states: NDArray[np.float64]) -> bytes:
    """Stored form."""
    return features.pack(states)[0].tobytes()


class Stored:
    """Keyed state, as Flink has it: a state and a log for each key."""

    def __init__(self) -> None:
        self.state, self.log = dict.fromkeys(range(KEYS), b""), dict.fromkeys(range(KEYS), b"")

    def take(self, keys: list[int], written: NDArray[np.int64], lengths: NDArray[np.int32]) -> None:
        """What was handed over of keys."""
        place, blob = 0, written.tobytes()
        for key, length in zip(keys, lengths.tolist(), strict=True):
            if length != -1:
                part, place = blob[place : place + abs(length)], place + abs(length)
                (self.state if length > 0 else self.log)[key] = part
                self.log[key] = part if length < 0 else b""
        assert place == len(blob)

    def read(self, features: EntityFeatures, log: Log, key: int) -> NDArray[np.float64]:
        """The row of a key."""
        states = features.unpack(self.state[key], np.array([len(self.state[key])], np.int32))
        if self.log[key]:
            length = np.array([len(self.log[key])], np.int32)
            fold(features, states, conform_rows(log.read(self.log[key], length, np.zeros(1, np.int32))))
        return states


@given(st.lists(st.tuples(RECORDS, st.sets(st.integers(0, KEYS - 1)), st.booleans()), max_size=12))
def test_a_state_and_its_log_are_the_state(batches: list[tuple[list[Record], set[int], bool]]) -> None:
    """If this fails, a job that was killed goes on with states that never were."""
    features = compile_features(declared("amount"))
    log, stored, same = Log(features.inputs, features.width), Stored(), {key: key for key in range(KEYS)}
    states, told = features.zero(KEYS), 0
    log.resize(KEYS)
    log.begin(np.arange(KEYS, dtype=np.int32))
    for records, keys, moves in batches:
        came = rows(records, same)
        log.enter(came, fold(features, states, came))
        handed = np.array(sorted(keys), np.int32)
        due = log.due(handed)
        stored.take(sorted(keys), *log.write(handed, due, *features.pack(states[due])))
        for key in sorted(keys):
            told += stored.log[key] != b""
            restored = stored.read(features, log, key)
            assert packed(features, restored) == packed(features, states[key : key + 1])
            if moves:  # its row was wanted for another key in between
                states[key] = restored[0]
                log.begin(np.array([key], np.int32))
    assert max(map(len, stored.log.values())) <= (3 + MOST * 6) * 8


def test_what_is_written() -> None:
    """If this fails, a checkpoint has other records than came, or writes states again of which little changed."""
    features = compile_features(declared("amount"))
    log = Log(features.inputs, features.width)
    log.resize(2)
    log.begin(np.array([0, 1], np.int32))
    states, both = features.zero(2), np.array([1, 0], np.int32)
    due = log.due(both)
    assert due.tolist() == [1, 0]
    state, length = features.pack(states[due])
    written, lengths = log.write(both, due, state, length)
    assert (written.tobytes(), lengths.tolist()) == (state.tobytes(), length.tolist())
    records: list[Record] = [(0, 0, 5, 0, False, 7, 2.5), (0, 1, 6, 2, True, 8, 1.5), (0, 0, 5, 0, False, 7, 2.5)]
    came = rows(records, {0: 0})
    log.enter(came, fold(features, states, came))
    for _ in range(2):  # what is handed over again is in place of what was
        due = log.due(both)
        assert not len(due)
        written, lengths = log.write(both, due, *features.pack(states[due]))
        naive = struct.pack("<3q", 2, 1, crc32(b"amount"))
        naive += struct.pack("<3qdqd", 0, START + 5 * HOUR, START + 5 * HOUR, 0.0, 7, 2.5)
        naive += struct.pack("<3qdqd", 1, START + 6 * HOUR, START + 2 * HOUR, 1.0, 8, 1.5)
        assert (written.tobytes(), lengths.tolist()) == (naive, [-1, -len(naive)])
    many = rows([(0, 0, 9, 0, False, 100 + i, 1.0) for i in range(MOST)], {0: 0})
    log.enter(many, fold(features, states, many))
    assert log.due(both).tolist() == [0]


def test_an_old_state_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a state expires while its key is in use."""
    log, both = Log(("amount",), 1000), np.array([0, 1], np.int32)
    log.resize(2)
    log.begin(both)
    assert log.due(both).tolist() == [0, 1]
    assert log.due(both).tolist() == []
    monkeypatch.setattr(logs, "OLD", -1.0)
    assert log.due(both).tolist() == [0, 1]


def test_a_log_of_another_declaration() -> None:
    """If this fails, a new declaration reads one field's numbers as another's."""
    before, after = (compile_features(declared(*fields)) for fields in (("amount", "fee"), ("amount", "tip")))
    log, here = Log(before.inputs, before.width), np.zeros(1, np.int32)
    log.resize(1)
    came = rows([(0, 0, 5, 0, False, 7, 2.5)], {0: 0}, columns=2)
    log.enter(came, np.ones(1, np.bool_))
    written, length = log.write(here, here[:0], np.empty(0, np.uint64), here[:0])
    read = Log(after.inputs, after.width).read(written.tobytes(), -length, here)
    assert before.inputs == ("amount", "fee")
    assert (read.columns[0, 0], np.isnan(read.columns[0, 1])) == (2.5, True)
    assert (read.at.tolist(), read.ids.tolist(), read.port.tolist()) == ([START + 5 * HOUR], [7], [0])
    with pytest.raises(MillraceError, match="damaged"):
        log.read(written.tobytes()[:-8], -length - 8, here)
