"""An operator in a process of its own is called as if it stood here, says why it fails, and ends with its caller."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import MillraceError
from streaming.apart import Apart, Told


class Sum:
    """Adds bytes up."""

    def __init__(self, spec: str, told: Told):
        if spec == "bad":
            raise ValueError("a bad specification")
        self.total, self._told = 0, told

    def process(self, buffer: bytes) -> bytes:
        """The sum so far, and the process's id."""
        if buffer == b"hang":
            time.sleep(60)
        if not buffer:
            raise ValueError("found nothing to add")
        self.total += sum(buffer)
        self._told("total", {"sum": float(self.total)})
        return f"{self.total} {os.getpid()}".encode()

    def snapshot(self, _: bytes) -> bytes:
        """The sum."""
        return str(self.total).encode()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a sum."""
        self.total = int(snapshot)


SUM = f"{__name__}:Sum"


@pytest.fixture
def heard() -> list[Any]:
    """What the operator told."""
    return []


@pytest.fixture
def apart(heard: list[Any]) -> Iterator[Apart]:
    """A sum in a process of its own."""
    made = Apart(SUM, "spec of it", lambda *words: heard.append(words))
    yield made
    made.close(b"")


def added(apart: Apart, buffer: bytes) -> tuple[int, int]:
    """The sum, and the id of the process that has it."""
    total, pid = apart.process(buffer).split()
    return int(total), int(pid)


def test_calls_and_what_it_tells_come_through_in_order(apart: Apart, heard: list[Any]) -> None:
    """If this fails, a learner in its own process learns something else, or its metrics are lost."""
    apart.restore(b"1000")
    total, pid = added(apart, bytes([1, 2, 3]))
    assert (total, pid != os.getpid()) == (1006, True)
    assert added(apart, bytes([250] * 1_000_000))[0] == 250_001_006
    assert apart.snapshot(b"") == b"250001006"
    assert heard == [("total", {"sum": 1006.0}), ("total", {"sum": 250_001_006.0})]


def test_an_error_there_comes_here_with_its_traceback(apart: Apart) -> None:
    """If this fails, a learner that fails says nothing of why."""
    with pytest.raises(MillraceError, match=r"(?s)in process.*ValueError: found nothing to add"):
        apart.process(b"")
    assert added(apart, b"\x07")[0] == 7
    apart.restore(b"no number")
    with pytest.raises(MillraceError, match=r"(?s)in restore.*ValueError: invalid literal"):
        apart.process(b"\x07")
    bad = Apart(SUM, "bad", lambda *_: None)
    with pytest.raises(MillraceError, match=r"(?s)ValueError: a bad specification"):
        bad.process(b"\x07")
    bad.close(b"")


def test_the_end_of_its_process_is_an_error_of_the_next_call(apart: Apart) -> None:
    """If this fails, a job whose learner was killed hangs, or goes on without it."""
    os.kill(added(apart, b"\x01")[1], signal.SIGKILL)
    with pytest.raises(MillraceError, match="ended with exit code -9"):
        apart.process(b"\x01")


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """If this fails, a killed TaskManager leaves a process behind that may go on changing the registry."""
    code = (
        f"import sys, os, signal; sys.path[:0] = {sys.path!r}\n"
        "from streaming.apart import Apart\n"
        f"apart = Apart({SUM!r}, '', print)\n"
        f"open({str(tmp_path / 'pid')!r}, 'wb').write(apart.process(b'0').split()[1])\n"
        "apart._send('process', b'hang')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    pid, until = int((tmp_path / "pid").read_text()), time.monotonic() + 20
    while (running := Path(f"/proc/{pid}").exists()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not running
