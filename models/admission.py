"""Admission: what a model passes before it may be loaded where events are decided.

Between the registry and `onnx.Session`. ONNX Runtime is native code, and a model can make it crash, hang or take all
memory; so a process of its own tries the model first, under limits, and only a verdict comes back. The checks of what
a model contains and of its golden rows are those of `onnx`; here are rows that nobody has seen, and the time it takes.
"""

import math
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from models import interpreter
from models.artifact import Artifact
from models.onnx import Session
from schemas.errors import ModelRejected

MEMORY = 1 << 30  # bytes that the trial may take beyond what Python with ONNX Runtime has taken
STACK = 512 << 10  # bytes; half of a JVM's thread: ONNX Runtime descends into trees by recursion
BATCHES = (1, 512)  # rows, each batch within the budget
REPEATS = 5  # of which the fastest counts
PASSED = "passed"  # the verdict; silence is none
FAR = 1e9  # as large as a feature gets here: larger sums leave float32
NICE = 10  # never before those who decide, not even while it imports
MAIN = "from models import admission; admission.main()"


class Trial(msgspec.Struct, frozen=True):
    """What the trial process is told: the artifact, `sha256` of its bytes, and limits: ms a batch, s of CPU, bytes."""

    name: str
    onnx: bytes
    sha256: str
    features: tuple[str, ...]
    baseline: tuple[float, ...]
    golden: list[list[float]]
    expected: list[float]
    budget_ms: float
    seconds: float
    memory: int


def admit(
    artifact: Artifact, *, features: tuple[str, ...], budget_ms: float, timeout_s: float = 20.0, memory: int = MEMORY
) -> Session:
    """A session of `artifact`, ready to score; ModelRejected, with the reason, where any check fails.

    `features` are the columns that the workload serves, `budget_ms` what a batch of 1 and of 512 rows may take. The
    trial ends after `timeout_s` of wall-clock or CPU time, whichever comes first. Blocks for about a second, without
    the interpreter lock: call it from a thread. On a GPU the budget is checked here, after the trial on the CPU.
    """
    unknown = [name for name in artifact.features if name not in features]
    if unknown:
        raise ModelRejected(
            f"model {artifact.version}: reads {unknown[0]!r}, expected one of {', '.join(features)}; "
            "train it on examples of this workload"
        )
    gpu = Path("/dev/nvidiactl").exists()
    trial = Trial(
        artifact.name, artifact.onnx, artifact.sha256, artifact.features, artifact.baseline, artifact.golden.tolist(),
        artifact.expected.tolist(), math.inf if gpu else budget_ms, timeout_s, memory,
    )  # fmt: skip
    verdict = _tried(trial)
    if verdict != PASSED:
        verdict = verdict.removeprefix(f"model {artifact.version}, ").removeprefix(f"model {artifact.version}: ")
        raise ModelRejected(f"model {artifact.version}, in its trial: {verdict}; what serves stays")
    session = Session(artifact, artifact.sha256)
    if gpu:
        _in_time(session, budget_ms, time.perf_counter)
    return session


def _tried(trial: Trial) -> str:
    """PASSED, or why `trial` failed."""
    argv, message = interpreter.command(MAIN, NICE), msgspec.msgpack.encode(trial)
    limit = f"{trial.seconds:g} s"
    try:
        done = subprocess.run(argv, input=message, capture_output=True, timeout=trial.seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"found no end after {limit}, expected a verdict"
    except OSError as error:
        return f"it could not start: {error}"
    if done.returncode == 0 and done.stdout:
        return done.stdout.decode(errors="replace")
    said = (done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
    if done.returncode == -signal.SIGXCPU:
        return f"found more than {limit} of CPU time, expected a verdict"
    if done.returncode < 0:
        crash = signal.Signals(-done.returncode).name
        return f"found a crash ({crash}: are its trees hundreds deep?), expected a verdict; it said: {said[:300]}"
    return f"found exit code {done.returncode}, expected a verdict; it said: {said[:300]}"


def main() -> None:
    """The trial process: a `Trial` on standard input, PASSED or the reason of its failure on standard output."""
    trial = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Trial)
    _limit(trial.seconds, trial.memory)
    threading.stack_size(STACK)
    threading.Thread(target=_judge, args=(trial,)).start()


def _judge(trial: Trial) -> None:
    try:
        attempt(trial)
        sys.stdout.write(PASSED)
    except ModelRejected as error:
        sys.stdout.write(str(error))
    except MemoryError:
        sys.stdout.write(f"found no memory left, expected less than {trial.memory >> 20} MiB to do")


def _limit(seconds: float, memory: int) -> None:
    """From here on: so much CPU time and memory more, no file, no core dump."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    cpu = math.ceil(time.process_time() + seconds)
    limits = {
        resource.RLIMIT_AS: pages * resource.getpagesize() + memory,
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most + 1 if kind == resource.RLIMIT_CPU else most))


def attempt(trial: Trial) -> None:
    """Load the model of `trial` in this process and check all of it; ModelRejected where it fails."""
    golden = np.array(trial.golden, np.float64).astype(np.float32)
    expected = np.array(trial.expected, np.float64)
    artifact = Artifact(trial.name, trial.onnx, trial.features, trial.baseline, golden, expected)
    session = Session(artifact, trial.sha256, device="cpu")
    rows = _unseen(artifact)
    scores = session.score(rows)
    alone = np.array([session.score(row[None])[0] for row in rows])
    missing = np.isnan(rows).any(axis=1) & np.isnan(scores)  # which is no answer, and told as such
    for bad, right in (
        (~((scores >= 0) & (scores <= 1) | missing), "numbers from 0 to 1 for whatever comes"),
        ((alone != scores) & ~missing, "what it gives for that row alone"),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            found = f"score {scores[row]} for features {rows[row].tolist()} ({bad.sum()} of {len(rows)} rows)"
            raise ModelRejected(f"found {found}, expected {right}")
    # Not `process_time`, which moves by ticks of the scheduler once RLIMIT_CPU is set; the session has no other thread.
    _in_time(session, trial.budget_ms, time.thread_time)


def _unseen(artifact: Artifact) -> NDArray[np.float32]:
    """Rows float32[n, f]: at random up to three times as wide as the golden ones; all of one kind; one feature far off,
    or missing."""
    low, high = artifact.golden.min(axis=0).astype(np.float64), artifact.golden.max(axis=0).astype(np.float64)
    wide, f = high - low, len(low)
    usual = np.array(artifact.baseline, np.float64)
    random = np.random.default_rng(0).uniform(low - wide, high + wide, (256, f))
    same = np.array([0.0, 1.0, -1.0, 1e-30, FAR, -FAR, np.nan])[:, None].repeat(f, axis=1)
    far = np.repeat(usual[None], 3 * f, axis=0)
    for i, value in enumerate((FAR, -FAR, np.nan)):
        far[i * f + np.arange(f), np.arange(f)] = value
    rows: NDArray[np.float64] = np.concatenate((random, same, [usual, low, high], far))
    return rows.astype(np.float32)


def _in_time(session: Session, budget_ms: float, clock: Callable[[], float]) -> None:
    """ModelRejected where a batch takes longer than `budget_ms`; the fastest of a few, by `clock` in s."""
    golden = session.artifact.golden
    for size in BATCHES:
        rows, best = np.resize(golden, (size, golden.shape[1])), math.inf
        for _ in range(REPEATS):
            began = clock()
            session.score(rows)
            best = min(best, 1000 * (clock() - began))
        if best > budget_ms:
            raise ModelRejected(
                f"found {best:.2f} ms for a batch of {size}, expected at most {budget_ms:g} (the budget); "
                "make it smaller"
            )
