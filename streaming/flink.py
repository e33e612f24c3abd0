"""Jobs on a Flink cluster: what one is made of, and how it is submitted, watched and stopped over REST.

A job is a value that knows nothing of workloads. The JobManager makes its graph
(`java/millrace/Deploy.java`), so a submission starts no JVM here. The cluster must have been started with
`jars.flink_lib()` as its library folder: from a job's own class loader a second Python job in the same
TaskManager fails.
"""

import json
import re
import secrets
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from io import BytesIO
from typing import Any, Literal

from schemas.errors import DefinitionError, MillraceError, Unavailable
from streaming import jars

_JAVA_FRAME = re.compile(r"\s*(at (?!.*\.py:)|\.\.\. \d+ more)")
TERMINAL = ("FINISHED", "CANCELED", "FAILED", "SUSPENDED")
HOPELESS = 3
"""A job that fails so often while it is waited for will not run by itself."""


@dataclass(frozen=True)
class Key:
    """How records are keyed: `row`, of a row frame; `record`, the Kafka key or where it is null the text
    field `field` of the JSON value; `json`, that field alone."""

    kind: Literal["record", "json", "row"]
    field: str = ""


@dataclass(frozen=True)
class Input:
    """A topic that stages read. `times`: with event times: only then can anything wait for it; wait_ms: how long its
    records may wait in the broker for more, where every reader takes its time: each fetch costs."""

    topic: str
    times: bool = False
    wait_ms: int = 0


@dataclass(frozen=True)
class Port:
    """What a stage reads: the topic `source`, or what the stage of uid `source` puts out under `tag`."""

    source: str
    key: Key
    tag: int | None = None


@dataclass(frozen=True)
class Stage:
    """One keyed Python stage: `opener` ("module:function") is called with `spec` and the subtask's index.

    control: a topic whose records all subtasks get; hold: main records wait for side records from before
    their event time; ttl_ms: how long the state of a silent key is kept, 0 for ever; rows: of how many keys Python
    keeps the states between two checkpoints, 0 where it gets and gives them with each batch; wait_ms: a main record
    of a key without a state waits in its stead, and Python is not called until something else comes for the key, or
    that much event time has passed (0: only for something else, -1: no record waits); from then on Python keeps it, in
    a state, and time passes for it when Python asks for a timer; pace_ms: how long Python is not called again unless a
    batch is full; records may wait a quarter of that in network buffers before it; asked: Python is called at each
    checkpoint even where nothing came, for what it has to say by then; parallelism: 0 for that of the job.
    """

    uid: str
    spec: str
    main: Port
    side: Port | None = None
    control: str | None = None
    hold: bool = False
    ttl_ms: int = 0
    rows: int = 0
    wait_ms: int = -1
    pace_ms: int = 0
    asked: bool = False
    parallelism: int = 0
    opener: str = "streaming.resident:open_stage"


@dataclass(frozen=True)
class Job:
    """Everything that a deployment is. Stages stand in the order in which they read one another.

    sinks: output tag → topic; batch, batch_bytes: limits of one call of Python; poll: most records of one
    fetch; buffer_ms: how long Flink holds an unfilled network buffer; skew_ms: how far after its record's
    timestamp an event time is believed; drift_ms: how far in event time one partition may run ahead of another
    while catching up (0: any): the records of that much time, and of the half second or so that it takes to hold
    a partition back, are what waits in memory and in checkpoints; start: where inputs are read from without
    a savepoint; state: the backend of keyed state, hashmap or rocksdb; restarts: failures in a row after which the
    job gives up (None: never); settings: of Flink.
    """

    name: str
    brokers: str
    inputs: tuple[Input, ...]
    stages: tuple[Stage, ...]
    sinks: Mapping[int, str]
    checkpoint_dir: str
    checkpoint_ms: int = 1000
    parallelism: int = 1
    max_parallelism: int = 128
    batch: int = 512
    batch_bytes: int = 4 << 20
    poll: int = 2000
    buffer_ms: int = 0
    skew_ms: int = 60_000
    drift_ms: int = 6 * 3_600_000
    start: Literal["earliest", "committed"] = "earliest"
    delivery: Literal["at-least-once", "exactly-once"] = "at-least-once"
    state: str = "hashmap"
    restarts: int | None = None
    savepoint: str | None = None
    python: str = sys.executable
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could only fail on the cluster."""
        topics = {entry.topic for entry in self.inputs}
        known: set[str] = set()
        for stage in self.stages:
            for port in (stage.main, stage.side):
                if port and port.source not in (topics if port.tag is None else known):
                    raise DefinitionError(
                        f"job {self.name!r}, stage {stage.uid!r}: reads {port.source!r}, "
                        f"expected one of {sorted(topics)} (topics) or {sorted(known)} (stages before it)"
                    )
            if stage.uid in known or stage.uid in topics:
                raise DefinitionError(f"job {self.name!r}: found the uid {stage.uid!r} twice, expected it once")
            if stage.rows and stage.wait_ms >= 0:
                raise DefinitionError(f"job {self.name!r}, stage {stage.uid!r}: found rows and wait_ms, expected one")
            if stage.hold and stage.side is None:
                raise DefinitionError(
                    f"job {self.name!r}, stage {stage.uid!r}: holds records, but has no side to wait for"
                )
            known.add(stage.uid)


def configuration(job: Job) -> dict[str, str]:
    """Flink's configuration of a job."""
    limit = "restart-strategy.exponential-delay.attempts-before-reset-backoff"
    return {
        "python.execution-mode": "thread",
        "python.executable": job.python,
        "python.client.executable": job.python,
        # Batches are ours: the operator's own bundles would only cut them.
        "python.fn-execution.bundle.time": "1000",
        "python.fn-execution.bundle.size": "1000000",
        "pipeline.object-reuse": "true",
        "pipeline.auto-watermark-interval": "50 ms",
        "execution.buffer-timeout.interval": f"{job.buffer_ms} ms",
        "execution.checkpointing.interval": f"{job.checkpoint_ms} ms",
        "execution.checkpointing.dir": job.checkpoint_dir,
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "state.backend.type": job.state,
        # RocksDB writes what changed to a checkpoint; TaskManagers manage no memory for it, so it is told a limit.
        "execution.checkpointing.incremental": str(job.state == "rocksdb").lower(),
        "state.backend.rocksdb.memory.fixed-per-slot": "128 mb",
        "restart-strategy.type": "none" if job.restarts == 0 else "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "100 ms",
        "restart-strategy.exponential-delay.max-backoff": "10 s",
        "restart-strategy.exponential-delay.backoff-multiplier": "2",
        "restart-strategy.exponential-delay.reset-backoff-threshold": "1 min",
        **({limit: str(job.restarts)} if job.restarts else {}),
        **job.settings,
    }


def describe(job: Job) -> str:
    """The job as the JSON that `Deploy` reads."""
    # A dead letter carries the original bytes, however many: no client may refuse what the topic takes.
    producer = {"acks": "all", "linger.ms": "0", "max.request.size": str(16 << 20)}
    if job.delivery == "exactly-once":
        # Longer than any restart; the broker allows no more than this by default.
        producer["transaction.timeout.ms"] = "900000"
    entries = "name brokers inputs stages sinks parallelism max_parallelism batch batch_bytes skew_ms drift_ms start"
    whole = asdict(job)
    document = {name: whole[name] for name in entries.split()} | {
        "exactly_once": job.delivery == "exactly-once",
        "consumer": {"max.poll.records": str(job.poll), "isolation.level": "read_committed"},
        "producer": producer,
        "settings": configuration(job),
        "fingerprint": jars.fingerprint(),
    }
    return json.dumps(document)


def submit(job: Job, address: str) -> str:
    """Start `job` on the cluster whose REST API is at `address` (http://host:port); returns the job's id.

    Topics that it reads must exist. MillraceError with the cluster's reason where it refuses.
    """
    body: dict[str, object] = {"entryClass": "millrace.Deploy", "programArgsList": [describe(job)]}
    if job.savepoint:
        # A checkpoint that a job left behind is its successor's to delete, a savepoint is somebody's.
        owned = job.savepoint.rsplit("/", 1)[-1].startswith("chk-")
        body |= {"savepointPath": job.savepoint, "claimMode": "CLAIM" if owned else "LEGACY"}
    uploaded = _upload(address)
    try:
        return str(_call(address, "POST", f"/jars/{uploaded}/run", body, seconds=60.0)["jobid"])
    finally:
        _call(address, "DELETE", f"/jars/{uploaded}")


@dataclass(frozen=True)
class Running:
    """A job that a cluster knows: its state is Flink's word for it; when it `started`, and `since` when it is in that
    state, are ms since the epoch."""

    id: str
    name: str
    state: str
    started: int
    since: int


def jobs(address: str) -> list[Running]:
    """Every job of the cluster, also those that ended, the newest first."""
    found = [
        Running(job["jid"], job["name"], job["state"], job["start-time"], job["last-modification"])
        for job in _call(address, "GET", "/jobs/overview")["jobs"]
    ]
    return sorted(found, key=lambda job: -job.started)


def state(address: str, job: str) -> str:
    """State of a job: RUNNING, RESTARTING, FAILED, CANCELED, FINISHED …"""
    return str(_call(address, "GET", f"/jobs/{job}/status")["status"])


def wait_running(address: str, job: str, seconds: float = 60.0) -> None:
    """Return once every task of the job runs; MillraceError with the cause where it keeps failing.

    Failures from before the call do not count: a job that has recovered from them is as good as any.
    """

    def look() -> dict[str, Any]:
        # Not `/jobs/<id>`, which the JobManager answers from a cache that may be three seconds old.
        found: dict[str, dict[str, Any]] = {one["jid"]: one for one in _call(address, "GET", "/jobs/overview")["jobs"]}
        return found[job]

    # By the JobManager's clock. To ask for the failures would fill that cache just before those that matter.
    began = look()["last-modification"]

    def running() -> bool:
        found = look()
        if found["state"] in TERMINAL:
            raise MillraceError(f"job {found['name']!r} is {found['state']}, expected RUNNING: {failure(address, job)}")
        restarts = failures(address, job, began) if found["state"] == "RESTARTING" else []
        unreached = "RecipientUnreachableException"  # a TaskManager may still come
        if sum(unreached not in one["stacktrace"] for one in restarts) >= HOPELESS:
            raise MillraceError(
                f"job {found['name']!r} failed {HOPELESS} times, expected it to run: {failure(address, job)}"
            )
        tasks = found["tasks"]
        return bool(tasks["total"] and tasks["running"] == tasks["total"])

    if not _poll(running, seconds):
        raise Unavailable(
            f"job {job}: found it {state(address, job)} after {seconds:g} s, expected every task to run; "
            f"last failure: {failure(address, job) or 'none; are there free task slots?'}"
        )


def failure(address: str, job: str) -> str:
    """Why a job failed last: the root cause with its Python traceback; empty where nothing failed."""
    entries = failures(address, job)
    return root_cause(entries[0]["stacktrace"]) if entries else ""


def failures(address: str, job: str, since: int = -1) -> list[dict[str, Any]]:
    """The last failures of a job after `since` (ms since the epoch), the newest first."""
    found = _call(address, "GET", f"/jobs/{job}/exceptions")
    entries = found.get("exceptionHistory", {}).get("entries", [])
    return [entry for entry in entries if entry["timestamp"] > since]


def root_cause(trace: str) -> str:
    """The innermost cause in a Java stack trace, without Java frames; a Python error as Python names it."""
    cause = re.split(r"^\s*Caused by: ", trace, flags=re.MULTILINE)[-1]
    lines = [line for line in cause.strip().splitlines() if not _JAVA_FRAME.match(line)]
    return re.sub(r"^pemja\.core\.PythonException: <class '([\w.]+)'>", r"\1", "\n".join(lines))


def cancel(address: str, job: str, seconds: float = 30.0) -> None:
    """Cancel a job and wait until it has ended."""
    _call(address, "PATCH", f"/jobs/{job}?mode=cancel")
    if not _poll(lambda: state(address, job) in TERMINAL, seconds):
        raise Unavailable(
            f"job {job}: found it {state(address, job)} {seconds:g} s after it was to end, expected its end"
        )


def stop_with_savepoint(address: str, job: str, folder: str, seconds: float = 120.0) -> str:
    """Stop a job after a last savepoint below `folder` (a URI or an absolute path); returns its path."""
    body = {"targetDirectory": folder, "drain": False}
    request = _call(address, "POST", f"/jobs/{job}/stop", body)["request-id"]
    answer: dict[str, Any] = {}

    def completed() -> bool:
        answer.update(_call(address, "GET", f"/jobs/{job}/savepoints/{request}"))
        return bool(answer["status"]["id"] == "COMPLETED")

    if not _poll(completed, seconds):
        raise Unavailable(f"job {job}: found no savepoint after {seconds:g} s, expected one in {folder}; it still runs")
    operation = answer["operation"]
    if "location" not in operation:
        reason = root_cause(operation["failure-cause"]["stack-trace"])
        failed = failure(address, job) or "none"
        raise MillraceError(
            f"job {job}: found no savepoint in {folder}, expected one: {reason}; the job's last failure: {failed}"
        )
    return str(operation["location"])


def _poll(done: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _upload(address: str) -> str:
    """Upload a jar of nothing but a manifest: every class comes from the cluster's library folder."""
    jar = BytesIO()
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\nMain-Class: millrace.Deploy\n")
    boundary = secrets.token_hex(16)
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="jarfile"; filename="millrace.jar"\r\n'
        "Content-Type: application/x-java-archive\r\n\r\n"
    )
    data = head.encode() + jar.getvalue() + f"\r\n--{boundary}--\r\n".encode()
    try:
        answer = _send(address, "POST", "/jars/upload", data, f"multipart/form-data; boundary={boundary}", 30.0)
    except MillraceError as error:
        raise type(error)(f"{error} (a cluster takes jobs where `web.submit.enable` is true)") from error
    return str(answer["filename"]).rsplit("/", 1)[-1]


def _call(address: str, method: str, path: str, body: object = None, seconds: float = 10.0) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    return _send(address, method, path, data, "application/json", seconds)


def _send(address: str, method: str, path: str, data: bytes | None, content: str, seconds: float) -> dict[str, Any]:
    url = address.rstrip("/") + path
    request = urllib.request.Request(url, data, {"Content-Type": content}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return dict(json.loads(answer.read() or b"{}"))
    except urllib.error.HTTPError as error:
        raise MillraceError(f"Flink at {address}: {method} {path} answered {error.code}: {_reason(error)}") from error
    except OSError as error:
        raise Unavailable(
            f"Flink at {address}: found no answer to {method} {path} ({error}), expected a JobManager: "
            "start one with `millrace up`, or correct the address"
        ) from error


def _reason(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        reasons = json.loads(text)["errors"]
    except (ValueError, KeyError, TypeError):
        return text
    return root_cause(str(reasons[-1]))
