"""What `millrace bench` measures: latency at a steady rate, and how fast a full topic is drained.

A system under test reads one topic and writes another. Ours is a deployed job; the other one is a raw Kafka loop
(`tests/bench/raw_loop.py`). Both run at once on the same machine and take turns, so that a slow minute of the
machine hits both. CPU time is that of the processes that do the work: the TaskManagers, or the loop.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

import msgspec
import numpy as np

from models.artifact import Artifact
from schemas.errors import DefinitionError, Unavailable
from streaming import flink, jobs, kafka, load
from streaming.settings import Settings
from streaming.stack import Stack
from streaming.workloads import Reference, resolve

Say = Callable[[str], None]
Result = dict[str, float]

WARM_SECONDS = 60.0
"""Load before anything is measured: the JVM compiles what runs hot, in the background on the same two cores."""

WARM_SHARE = 0.2
"""The first share of a drained topic, which is not measured."""

RAW_LOOP = Path(__file__).parents[1] / "tests" / "bench" / "raw_loop.py"


class System(Protocol):
    """What is measured: it reads `events` and writes `decisions` while it is started."""

    name: str
    events: str
    decisions: str

    def start(self) -> None:
        """Begin with the oldest event that was not read yet."""

    def stop(self) -> None:
        """End."""

    def cpu(self) -> float:
        """CPU seconds that it has used so far."""


def process_cpu(pids: Sequence[int]) -> float:
    """User and system seconds of processes."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Ours:
    """A workload, deployed under a name of its own."""

    name = "millrace"

    def __init__(self, reference: Reference, stack: Stack, settings: Settings):
        self._stack, self._settings = stack, settings
        name = f"bench-{reference.name}-{secrets.token_hex(3)}"
        self.deployment = jobs.deployment(reference, stack, settings, name)
        topics = self.deployment.topics
        self.events, self.decisions, self.topics = topics.events, topics.decisions, topics.all()
        kafka.create_topics(stack.kafka, {name: {} for name in self.topics}, settings.parallelism)
        self._pids = [part.pid for part in stack.parts if part.name.startswith("taskmanager") and part.pid]
        if not self._pids:
            raise DefinitionError(
                "bench: found no TaskManager of the local stack, whose CPU time it measures; unset MILLRACE_FLINK"
            )

    def start(self) -> None:
        """Deploy."""
        self._id = jobs.deploy(self.deployment, self._stack, self._settings, fresh=True).id

    def stop(self) -> None:
        """Cancel the job, whose state nobody wants; a job that failed in between fails the bench."""
        failure = flink.failure(self._stack.flink, self._id)
        flink.cancel(self._stack.flink, self._id)
        for left in (Path("checkpoints", self.deployment.name), Path("flink", "changelog", self._id)):
            shutil.rmtree(self._settings.home / left, ignore_errors=True)
        if failure:
            raise Unavailable(f"bench: the job failed while it was measured: {failure}")

    def cpu(self) -> float:
        """Of all TaskManagers."""
        return process_cpu(self._pids)


class Raw:
    """The raw loop over the same events, with the same model."""

    name = "raw"

    def __init__(self, beside: Ours, model: bytes, brokers: str, folder: Path):
        self._brokers, self._folder = brokers, folder
        self.events, self.decisions = beside.events + ".raw", beside.decisions + ".raw"
        self.topics = (self.events, self.decisions)
        kafka.create_topics(brokers, {name: {} for name in self.topics})
        self._model = folder / "model.onnx"
        self._model.write_bytes(model)

    def start(self) -> None:
        """Start the process."""
        words = [
            "--brokers",
            self._brokers,
            "--input",
            self.events,
            "--output",
            self.decisions,
            "--model",
            str(self._model),
        ]
        log = (self._folder / "raw.log").open("ab")
        self._process = subprocess.Popen([sys.executable, str(RAW_LOOP), *words], stdout=log, stderr=log)

    def stop(self) -> None:
        """End the process; one that failed fails the bench."""
        self._process.send_signal(signal.SIGTERM)
        if self._process.wait(30):
            raise Unavailable(f"bench: the raw loop failed: {(self._folder / 'raw.log').read_text()[-2000:]}")

    def cpu(self) -> float:
        """Of the process."""
        return process_cpu([self._process.pid])


@contextmanager
def systems(reference: Reference, stack: Stack, settings: Settings, beside_raw: bool) -> Iterator[list[Ours | Raw]]:
    """The systems to measure; their topics are deleted at the end."""
    if beside_raw and reference.name != "reference":
        raise DefinitionError(f"--beside raw: the raw loop does what `reference` does, not {reference.name!r}")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ends:
        ours = Ours(reference, stack, settings)
        ends.callback(kafka.delete_topics, stack.kafka, ours.topics)
        found: list[Ours | Raw] = [ours]
        if beside_raw:
            model = resolve(reference).model
            assert isinstance(model, Artifact)  # `reference` has one
            raw = Raw(ours, model.onnx, stack.kafka, Path(folder))
            ends.callback(kafka.delete_topics, stack.kafka, raw.topics)
            found.append(raw)
        yield found


def spawn(verb: str, spec: msgspec.Struct) -> subprocess.Popen[bytes]:
    """A process of `streaming.load`."""
    return subprocess.Popen([sys.executable, "-m", "streaming.load", verb, msgspec.json.encode(spec).decode()])


def _await(process: subprocess.Popen[bytes], what: str, seconds: float) -> None:
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Unavailable(f"bench: the {what} did not end within {seconds:.0f} s") from None
    if code:
        raise Unavailable(f"bench: the {what} failed with exit code {code}")


@dataclass(frozen=True)
class Slice:
    """What one turn gave: latencies f64[k] ms of what came, how many were sent, CPU seconds."""

    latencies: np.ndarray[tuple[int], np.dtype[np.float64]]
    sent: int
    cpu: float


def turn(system: System, workload: str, brokers: str, first: int, rate: float, seconds: float) -> Slice:
    """Send to one system at `rate` for `seconds`, and time what comes back."""
    count = int(rate * seconds)
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "came.npy")
        ends = kafka.end_offsets(brokers, system.decisions)
        reader = spawn("read", load.Read(brokers, system.decisions, first, count, seconds + 30, out, ends))
        start = time.time_ns() + 2_000_000_000 + count * 5_000  # both processes are ready by then
        sender = spawn("send", load.Send(brokers, system.events, workload, first, count, rate, start))
        time.sleep(max(0.0, (start - time.time_ns()) / 1e9))
        before = system.cpu()
        _await(sender, "sender", seconds + 60)
        used = system.cpu() - before
        _await(reader, "reader", 60)
        came = np.load(out)
    due = start + np.arange(count) * (1e9 / rate)
    arrived = came > 0
    return Slice((came[arrived] - due[arrived]) / 1e6, count, used)


def latency(
    reference: Reference, stack: Stack, settings: Settings, rate: float, seconds: float, beside_raw: bool, say: Say
) -> dict[str, Result]:
    """Latency from due to received, by system: `seconds` in all for each, in turns where there are two."""
    turns = max(2, round(seconds / 10)) if beside_raw else 1
    with systems(reference, stack, settings, beside_raw) as found, ExitStack() as ends:
        for system in found:
            say(f"starting {system.name}")
            system.start()
            ends.callback(system.stop)
        first, slices = 0, {system.name: list[Slice]() for system in found}
        for system in found:
            say(f"warming {system.name} for {WARM_SECONDS:.0f} s")
            first += turn(system, reference.name, stack.kafka, first, rate, WARM_SECONDS).sent
        for number in range(turns):
            for system in found:
                say(f"{system.name}: turn {number + 1} of {turns}, {rate:,.0f} events a second")
                taken = turn(system, reference.name, stack.kafka, first, rate, seconds / turns)
                slices[system.name].append(taken)
                first += taken.sent
    return {name: _latency_figures(parts, rate) for name, parts in slices.items()}


def _latency_figures(parts: Sequence[Slice], rate: float) -> Result:
    latencies = np.concatenate([part.latencies for part in parts])
    sent = sum(part.sent for part in parts)
    p50, p90, p99, p999 = (
        np.percentile(latencies, [50, 90, 99, 99.9]).tolist() if len(latencies) else [float("nan")] * 4
    )
    return {
        "rate": rate, "sent": sent, "received": len(latencies), "p50_ms": round(p50, 2), "p90_ms": round(p90, 2),
        "p99_ms": round(p99, 2), "p999_ms": round(p999, 2),
        "cpu_us_per_event": round(sum(part.cpu for part in parts) / sent * 1e6, 2),
    }  # fmt: skip


def drain(
    reference: Reference, stack: Stack, settings: Settings, count: int, beside_raw: bool, say: Say, rounds: int = 3
) -> dict[str, Result]:
    """Events a second through a topic that holds `count` before the system starts: the median of `rounds`, behind one
    that is not counted."""
    figures: dict[str, list[Result]] = {}
    for number in range(rounds + 1):
        what = f"round {number} of {rounds}" if number else "warming"
        with systems(reference, stack, settings, beside_raw) as found:
            for system in found:
                say(f"{what}: filling {count:,} events for {system.name}")
                _await(spawn("send", load.Send(stack.kafka, system.events, reference.name, 0, count)), "sender", 600)
                say(f"{what}: draining them through {system.name}")
                figures.setdefault(system.name, []).append(_drain(system, stack.kafka, count))
    return {name: {key: median(r[key] for r in runs) for key in runs[0]} for name, (_, *runs) in figures.items()}


def _drain(system: System, brokers: str, count: int) -> Result:
    """One drain, measured from `WARM_SHARE` of the topic to its end."""
    warm: tuple[float, int, float] | None = None
    system.start()
    try:
        moved, done = time.monotonic(), 0
        while done < count:
            now = sum(kafka.end_offsets(brokers, system.decisions).values())
            moved, done = (time.monotonic(), now) if now > done else (moved, done)
            if time.monotonic() - moved > 60:
                raise Unavailable(f"bench: {system.name} decided {done:,} of {count:,} events, and none for a minute")
            if warm is None and done >= count * WARM_SHARE:
                warm = (time.monotonic(), done, system.cpu())
            time.sleep(0.02)
        assert warm is not None
        seconds, events, cpu = time.monotonic() - warm[0], done - warm[1], system.cpu() - warm[2]
    finally:
        system.stop()
    if not events:
        raise DefinitionError(f"--drain {count}: too few events to measure; try 1000000")
    return {
        "events": count,
        "events_per_second": round(events / seconds),
        "cpu_us_per_event": round(cpu / events * 1e6, 2),
    }


def ratios(figures: dict[str, Result]) -> Result:
    """Ours over the raw loop's, figure by figure."""
    ours, raw = figures["millrace"], figures["raw"]
    return {
        name: round(ours[name] / raw[name], 3) for name in ours if name not in ("rate", "sent", "received", "events")
    }
