"""An operator in a process of its own is called as if it stood here, says why it fails, and ends with its caller."""

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from models.snapshot import pack, unpack
from schemas import frames
from schemas.errors import MillraceError
from streaming.apart import Apart, Told, _Kept
from tests import java
from tests.world import wait


class Sum:
    """Adds bytes up."""

    def __init__(self, spec: str, told: Told):
        if spec == "bad":
            raise ValueError("a bad specification")
        self.total, self._told = 0, told

    def process(self, buffer: bytes) -> bytes:
        """The sum so far, and the process's id; of bytes that are a path, once something is there;
        of "stop", half an answer and no more."""
        record = frames.payload(frames.parse_request(buffer).records()[0])
        if record == b"stop":
            os.write(0, struct.pack("!i", 100) + b"not all of a message")
            os.kill(os.getpid(), signal.SIGSTOP)
        while record.startswith(b"/") and not Path(record.decode()).exists():
            time.sleep(0.01)
        if not record:
            raise ValueError("found nothing to add")
        self.total += sum(record)
        self._told("total", {"sum": float(self.total)})
        return msgspec.msgpack.encode([(7, f"{self.total} {os.getpid()}".encode())])

    def snapshot(self, _: bytes) -> bytes:
        """The sum."""
        return str(self.total).encode()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a sum."""
        self.total = int(snapshot)

    def hear(self, words: bytes) -> None:
        """Add a thousand for each byte of what an earlier one knew."""
        self.total += 1000 * sum(words)


SUM = f"{__name__}:Sum"
NOTHING = java.build_request([], [], [], [], [])
REACH = 1_000


@pytest.fixture
def heard() -> list[Any]:
    """What the operator told."""
    return []


@pytest.fixture
def apart(heard: list[Any]) -> Iterator[Apart]:
    """A sum in a process of its own."""
    made = Apart(SUM, "spec of it", lambda *words: heard.append(words), REACH)
    yield made
    made.close(b"")


def ask(apart: Apart, *records: bytes, at: int = 1) -> list[tuple[int, int]]:
    """Sums, and the id of the process that has them, of what has come by now of requests of one record each."""
    found = []
    for record in records or (None,):
        row = [] if record is None else [frames.row(at, b"", record)]
        request = java.build_request([0], [0], row, [b""], [b""]) if row else NOTHING
        outputs, states, _ = java.parse_response(apart.process(request))
        assert {tag for tag, _ in outputs} <= {7}
        assert states == ([] if record is None else [None])
        found += [(int(total), int(pid)) for total, pid in (frame.split() for _, frame in outputs)]
    return found


def come(apart: Apart, count: int) -> list[tuple[int, int]]:
    """The next sums, so many of them."""
    found, until = list[tuple[int, int]](), time.monotonic() + 120  # the other process is nice
    while len(found) < count and time.monotonic() < until:
        found += ask(apart)
        time.sleep(0.01)
    assert len(found) == count
    return found


def totals(apart: Apart, *records: bytes) -> list[int]:
    """The sums after each of `records`."""
    found = ask(apart, *records)
    return [total for total, _ in (*found, *come(apart, len(records) - len(found)))]


def test_calls_and_what_it_tells_come_through_in_order(apart: Apart, heard: list[Any]) -> None:
    """If this fails, a learner in its own process learns something else, or its metrics are lost."""
    assert totals(apart, bytes([1, 2, 3]), bytes([250] * 1_000_000)) == [6, 250_000_006]
    (_, pid), *others = (*(ask(apart, b"\x01") or come(apart, 1)), *ask(apart))
    assert (pid != os.getpid(), others) == (True, [])
    assert heard == [("total", {"sum": float(total)}) for total in (6, 250_000_006, 250_000_007)]


def test_one_that_takes_long_holds_nobody_up_and_loses_nothing(apart: Apart, tmp_path: Path) -> None:
    """If this fails, a model in the making stops the decisions, or what came meanwhile is learned twice or never."""
    assert totals(apart, b"\x05") == [5]
    early, until = apart.snapshot(b""), tmp_path / "go"
    slow = str(until).encode()
    began = time.monotonic()
    assert ask(apart, slow, *[b"\x01"] * 100) == []
    busy = apart.snapshot(b"")
    assert time.monotonic() - began < 10
    until.touch()
    expected = [5 + sum(slow) + i for i in range(101)]
    assert [total for total, _ in come(apart, 101)] == expected
    for state, total in ((busy, expected[-1]), (apart.snapshot(b""), expected[-1]), (early, 5)):
        again = Apart(SUM, "spec of it", lambda *_: None, REACH)
        again.restore(state)
        come(again, len(unpack(state, _Kept).since))  # with the first, where its snapshot had not come yet
        assert totals(again, b"\x02") == [total + 2]
        again.close(b"")


def test_one_that_stops_in_the_middle_of_an_answer_holds_nobody_up(apart: Apart) -> None:
    """If this fails, a learner that is stopped while it answers stops checkpoints, and in the end the decisions."""
    ((_, pid),) = ask(apart, b"\x05") or come(apart, 1)
    began = time.monotonic()
    assert ask(apart, b"stop") == ask(apart, *[b"\x01"] * 100) == []
    apart.snapshot(b"")
    assert time.monotonic() - began < 10
    os.kill(pid, signal.SIGKILL)


def test_what_was_said_is_in_a_checkpoint_or_told(apart: Apart, tmp_path: Path) -> None:
    """If this fails, a model that was announced while a checkpoint was taken is never announced after a crash."""
    until = tmp_path / "go"
    slow = str(until).encode()
    assert ask(apart, slow) == []
    apart.snapshot(b"")
    assert ask(apart) == []
    until.touch()
    wait(lambda: not apart._inbox.empty(), 10, "an answer")
    again = Apart(SUM, "spec of it", lambda *_: None, REACH)
    again.restore(apart.snapshot(b""))
    assert come(again, 1)[0][0] == sum(slow)
    again.close(b"")


def test_requests_of_an_earlier_one_are_understood(apart: Apart) -> None:
    """If this fails, rows of an earlier definition that nobody has learned yet are read as those of this one."""
    made = [Apart(SUM, "", lambda *_: None, REACH, words) for words in (b"\x01", b"\x02", b"\x01")]
    ask(made[0], b"\x05")
    state = pack(_Kept(b"", made[0]._since, made[0]._words))
    for number, later in enumerate(made[1:]):
        later.restore(state)
        assert [total for total, _ in come(later, 1)] == [1005 - 1000 * number]
    made[1]._keep(b"", made[0]._since)
    state = pack(_Kept(b"", made[1]._since, made[1]._words))
    apart.restore(state)
    assert [total for total, _ in come(apart, 1)] == [3005], "what it had heard itself is forgotten"
    for one in made:
        one.close(b"")


def test_nobody_gets_further_ahead_than_allowed(apart: Apart, tmp_path: Path) -> None:
    """If this fails, a backfill is decided by models of long ago, and what it has to learn is still to come."""
    until = tmp_path / "go"
    assert totals(apart, b"\x05") == [5]
    assert ask(apart, str(until).encode(), at=5_000) == []
    assert ask(apart, b"\x01", at=5_000 + REACH) == []
    timer = threading.Timer(0.5, until.touch)
    timer.start()
    found = ask(apart, b"\x01", at=5_001 + REACH)
    assert until.exists()
    assert len(found) >= 1


def test_a_backlog_is_bounded(apart: Apart, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, what is not learned fast enough fills the memory of a TaskManager and its checkpoints."""
    monkeypatch.setattr("streaming.apart.BACKLOG", 100_000)
    records = [b"\x01" * 30_000] * 20
    assert totals(apart, *records)[-1] == 600_000
    assert sum(map(len, apart._since)) <= 100_000


def test_an_error_there_comes_here_with_its_traceback(apart: Apart) -> None:
    """If this fails, a learner that fails says nothing of why."""
    assert totals(apart, b"\x07") == [7]
    with pytest.raises(MillraceError, match=r"(?s)in process.*ValueError: found nothing to add"):
        totals(apart, b"")
    with pytest.raises(MillraceError, match="snapshot"):
        apart.restore(b"no snapshot")
    for spec, state, expected in (("bad", b"", "a bad specification"), ("", b"no number", "invalid literal")):
        bad = Apart(SUM, spec, lambda *_: None, REACH)
        bad.restore(pack(_Kept(state, [], [])))
        with pytest.raises(MillraceError, match=f"(?s)ValueError: {expected}"):
            totals(bad, b"\x07")
        bad.close(b"")


def test_the_end_of_its_process_is_an_error_of_the_next_call(apart: Apart) -> None:
    """If this fails, a job whose learner was killed hangs, or goes on without it."""
    ask(apart, b"\x01")
    ((_, pid),) = come(apart, 1)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(MillraceError, match="ended with exit code -9"):
        totals(apart, b"\x01")


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """If this fails, a killed TaskManager leaves a process behind that may go on changing the registry."""
    code = (
        f"import sys, os, signal; sys.path[:0] = {sys.path!r}\n"
        "from streaming.apart import Apart\n"
        f"apart = Apart({SUM!r}, '', print, 0)\n"
        "from tests.unit.streaming.test_apart import ask, come\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str((ask(apart, b'0') or come(apart, 1))[0][1]))\n"
        "ask(apart, b'/nowhere')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    pid, until = int((tmp_path / "pid").read_text()), time.monotonic() + 20
    while (running := Path(f"/proc/{pid}").exists()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not running
