"""Processes of the local stack: started detached, known by pid and start time, stopped exactly.

A pid alone may be another process by tomorrow; a pid with its start time and boot id is one process for ever.
"""

import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for ever: pid, start time (clock ticks since boot), and the boot it belongs to."""

    pid: int
    ticks: int
    boot: str

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return identify(self.pid) == self

    def signal(self, number: int) -> None:
        """Send a signal to this very process; nothing happens once it is gone."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def give_way(self, threads: str, nice: int) -> None:
        """Let its threads whose names begin with `threads` run when others need not."""
        for name in Path(f"/proc/{self.pid}/task").glob("*/comm"):
            with suppress(OSError):  # it has ended, or gives way by more
                if name.read_text().startswith(threads):
                    os.setpriority(os.PRIO_PROCESS, int(name.parent.name), nice)


def identify(pid: int) -> Identity | None:
    """The identity of a running process; None if there is none, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The name in parentheses may hold anything; of the fields after it, state is the 1st, threads the 18th,
    # start the 20th.
    tail = stat[stat.rindex(")") + 2 :].split()
    # A process whose first thread has ended holds its ports until its last one has.
    if tail[0] in "ZX" and int(tail[17]) <= 1:
        reap(pid)
        return None
    return Identity(pid, int(tail[19]), boot)


def reap(pid: int) -> None:
    """Collect a dead child; somebody else's is theirs to collect."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def spawn(command: Iterable[str | Path], environment: Mapping[str, str], log: Path) -> Identity:
    """Start a process in a session of its own, out of reach of Ctrl-C; its output is appended to `log`."""
    argv = [str(word) for word in command]
    executable = shutil.which(argv[0])
    if executable is None:
        raise FileNotFoundError(argv[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    pid = os.posix_spawn(executable, argv, dict(environment), file_actions=actions, setsid=True)
    identity = identify(pid)
    # A process that is gone already keeps its pid until it is collected: ticks 0 matches nothing alive.
    return identity or Identity(pid, 0, "")


def stop(processes: Iterable[Identity], grace: float) -> list[Identity]:
    """SIGTERM to all, SIGKILL after `grace` seconds to those left; returns the ones that had to be killed."""
    left = [process for process in processes if process.alive()]
    for process in left:
        process.signal(signal.SIGTERM)
    left = until_gone(left, grace)
    for process in left:
        process.signal(signal.SIGKILL)
    until_gone(left, 10.0)
    return left


def until_gone(processes: Iterable[Identity], seconds: float) -> list[Identity]:
    """Wait for processes to end; returns those that have not."""
    deadline = time.monotonic() + seconds
    left = [process for process in processes if process.alive()]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [process for process in left if process.alive()]
    return left


SERVED = range(20_000, 32_768)
"""Ports of services lie below those that systems give to outgoing connections: else a client that tries to reach a
service while it is down may be given the very port that it calls, and the service has to come back elsewhere."""


def free_ports(count: int, wanted: Iterable[int] = ()) -> list[int]:
    """`count` different ports of 127.0.0.1 that are free now: the wanted ones where they are, any others where not."""
    ports: list[int] = []
    with ExitStack() as held:
        for wish in [*wanted, *[0] * count][:count]:
            sock = held.enter_context(socket.socket())
            # Servers set this too: a port whose old connections linger in TIME_WAIT is free to them.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Two that only bind do not see each other, hence `ports`.
            chances = (random.choice(SERVED) for _ in SERVED)
            ports.append(next(p for p in chain([wish], chances) if p and p not in ports and _bound(sock, p)))
    return ports


def _bound(sock: socket.socket, port: int) -> bool:
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def tail(log: Path, lines: int = 15) -> str:
    """The lines of a log that explain a failure: the last error and its causes, or just the last lines."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 65_536))
            text = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        return f"({error})"
    told = [line for line in text if not line.startswith(("\tat ", "\t... "))]
    marks = [i for i, line in enumerate(told) if any(m in line for m in ("ERROR", "FATAL", "Caused by"))]
    start = max(0, len(told) - lines)
    if marks and marks[-1] < start:
        start = max(0, marks[-1] - 3)
    return "\n".join(told[start : start + lines])
