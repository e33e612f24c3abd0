"""An operator in a process of its own is called as if it stood here, says why it fails, and ends with its caller."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.snapshot import pack
from schemas import frames
from schemas.errors import MillraceError
from streaming.apart import Apart, Behind, Told


class Sum:
    """Adds bytes of records up."""

    def __init__(self, spec: str, told: Told):
        if spec == "bad":
            raise ValueError("a bad specification")
        self.total, self._told = 0, told

    def process(self, buffer: bytes) -> bytes:
        """The sum after each record, and the process's id."""
        out = []
        for record in frames.parse_request(buffer).records():
            if record == b"hang":
                time.sleep(60)
            if record == b"wait":
                time.sleep(0.2)
            if not record:
                raise ValueError("found nothing to add")
            self.total += sum(record)
            out.append(f"{self.total} {os.getpid()}".encode())
        self._told("total", {"sum": float(self.total)})
        return frames.build_response(out, bytes([frames.SIGNAL]) * len(out), np.full(1, -1, np.int32), b"", None)

    def snapshot(self, _: bytes) -> bytes:
        """The sum."""
        return str(self.total).encode()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a sum."""
        self.total = int(snapshot)


SUM = f"{__name__}:Sum"
Make = Callable[..., Apart]


@pytest.fixture
def heard() -> list[Any]:
    """What the operator told, and how far it was behind."""
    return []


@pytest.fixture
def make(heard: list[Any]) -> Iterator[Make]:
    """Makes sums in processes of their own."""
    made: list[Apart] = []

    def one(spec: str = "spec of it", **options: int) -> Apart:
        made.append(Apart(SUM, spec, lambda *words: heard.append(words), heard.append, **options))
        return made[-1]

    yield one
    for apart in made:
        apart.close(b"")


def request(*records: bytes) -> bytes:
    """A micro-batch of records of one key."""
    n = len(records)
    keys = [b""] * bool(n)
    return frames.build_request([0] * n, [0] * n, records, keys, keys, [0] * len(keys), [0] * len(keys))


def put_out(apart: Apart, *records: bytes) -> list[list[int]]:
    """What comes out with one answer, each the sum and the id of the process that has it."""
    outputs, states, _ = frames.parse_response(apart.process(request(*records)))
    assert states == [None] * bool(records)
    return [[int(word) for word in frame.split()] for tag, frame in outputs if tag == frames.SIGNAL]


def sums(apart: Apart, number: int, *records: bytes) -> list[int]:
    """The next `number` sums at least, which come when they are there, after adding `records`."""
    found, until = [total for total, _ in put_out(apart, *records)], time.monotonic() + 20
    while len(found) < number and time.monotonic() < until:
        found += [total for total, _ in put_out(apart)]
        time.sleep(0.01)
    return found


def test_it_works_behind_what_it_is_asked(make: Make, heard: list[Any]) -> None:
    """If this fails, decisions wait for what learns, it learns something else, or its metrics are lost."""
    apart = make()
    began = time.monotonic()
    assert put_out(apart, b"wait", b"\x01") == []  # its process has to start first
    assert put_out(apart, b"\xfa" * 1_000_000) == put_out(apart, b"\x02") == []
    assert time.monotonic() - began < 0.2
    assert heard == [1, 2, 3]
    wait = sum(b"wait")
    assert sums(apart, 4) == [wait, wait + 1, wait + 250_000_001, wait + 250_000_003]
    told = [one[1]["sum"] for one in heard if isinstance(one, tuple)]
    assert told == [wait + 1, wait + 250_000_001, wait + 250_000_003]
    assert heard[-1] == 0


@pytest.mark.parametrize("done", [0, 1, 3, 5])
def test_a_checkpoint_has_all_it_was_asked(make: Make, done: int) -> None:
    """If this fails, what was on its way to the learner at a checkpoint is lost after a crash, or learned twice."""
    apart = make()
    heard = list[int]()
    for number in range(1, 6):
        heard += sums(apart, number - len(heard) if number <= done else 0, bytes([number]))
        if number == 3:
            apart.snapshot(b"")  # asks for one of the process, which comes later
    again = make()
    again.restore(apart.snapshot(b""))
    while (total := sums(again, 1)[-1]) < 15:
        continue
    assert (total, sums(again, 1, b"\x06")) == (15, [21])
    heard += sums(apart, 5 - len(heard))
    assert heard == [1, 3, 6, 10, 15]
    apart.snapshot(b"")
    assert sums(apart, 1, b"\x06") == [21]
    kept = apart.snapshot(b"")
    assert len(kept) < 200, "what the process has said it knows is not kept as well"
    last = make()
    last.restore(kept)
    assert sums(last, 1 + (b"\x06" in kept), b"\x00")[-1] == 21


def test_who_asks_too_much_waits(make: Make) -> None:
    """If this fails, a learner that cannot keep up fills the memory."""
    apart, heard = make(room=3000), []
    for _ in range(20):
        heard += [total for total, _ in put_out(apart, b"\x01" * 1000)]
        assert len(apart.snapshot(b"")) < 6000
    assert len(heard) >= 14
    assert (heard + sums(apart, 20 - len(heard))) == [1000 * i for i in range(1, 21)]


def test_an_error_there_comes_here_with_its_traceback(make: Make) -> None:
    """If this fails, a learner that fails says nothing of why."""
    apart = make()
    put_out(apart, b"")
    with pytest.raises(MillraceError, match=r"(?s)in process.*ValueError: found nothing to add"):
        sums(apart, 1)
    broken = make()
    broken.restore(pack(Behind(b"no number", [])))
    with pytest.raises(MillraceError, match=r"(?s)in restore.*ValueError: invalid literal"):
        sums(broken, 1)
    bad = make("bad")
    with pytest.raises(MillraceError, match=r"(?s)ValueError: a bad specification"):
        sums(bad, 1)


def test_the_end_of_its_process_is_an_error_of_the_next_call(make: Make) -> None:
    """If this fails, a job whose learner was killed hangs, or goes on without it."""
    apart = make()
    put_out(apart, b"\x01")
    while not (found := put_out(apart)):
        time.sleep(0.01)
    os.kill(found[0][1], signal.SIGKILL)
    with pytest.raises(MillraceError, match="ended with exit code -9"):
        sums(apart, 1)


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """If this fails, a killed TaskManager leaves a process behind that may go on changing the registry."""
    code = (
        f"import sys, os, signal; sys.path[:0] = {sys.path!r}\n"
        "from streaming.apart import Apart\n"
        f"from {__name__} import put_out\n"
        f"apart = Apart({SUM!r}, '', print, print)\n"
        "put_out(apart, b'0')\n"
        "while not (found := put_out(apart)): pass\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(found[0][1]))\n"
        "put_out(apart, b'hang')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    pid, until = int((tmp_path / "pid").read_text()), time.monotonic() + 20
    while (running := Path(f"/proc/{pid}").exists()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not running
