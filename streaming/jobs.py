"""Plan → job: deploying a workload to a Flink cluster, and stopping it so that it can go on where it was."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from schemas import frames
from schemas.errors import DefinitionError, MillraceError, Unavailable
from schemas.time import duration
from schemas.topics import MODELS, Topics
from streaming import flink, kafka, resident, signals
from streaming.flink import Input, Job, Key, Port
from streaming.plan import Plan, check_model, plan, state_ttl
from streaming.resident import StageSpec
from streaming.serving import Services
from streaming.settings import Settings
from streaming.stack import Stack
from streaming.workloads import Reference, resolve

RUNNING = ("CREATED", "RUNNING", "RESTARTING", "INITIALIZING", "RECONCILING")
JOIN, EXAMPLES, LEARN = "join", "examples", "learn"

PACE = 50
"""Milliseconds between two calls of a stage beside the way of an event: stages share an interpreter lock, and each call
may cost one that decides some time."""

TURN = 2
"""The same of the first of the stages that an event passes, where there are several: without it, they call Python for
two or three records each at moderate load, and nothing is left of the processor for what comes besides. Those behind it
get what it gives, in its turns."""

RESIDENT_BYTES = 128 << 20
"""What a stage may keep in Python of states that are in use, on each TaskManager."""


@dataclass(frozen=True)
class Deployment:
    """A workload on its way to a cluster: topics may be others than the workload's own (benches use theirs)."""

    reference: Reference
    plan: Plan
    topics: Topics
    services: Services

    @property
    def name(self) -> str:
        """The name of the job."""
        return self.topics.name


def deployment(reference: Reference, stack: Stack, settings: Settings, name: str = "") -> Deployment:
    """The deployment of `reference` beside the services of `stack`, under the workload's name or another."""
    workload = resolve(reference)
    compiled = plan(workload)
    check_model(compiled)
    folder, models = str(settings.home / "metrics"), settings.models
    counts = settings.delivery != "exactly-once"  # transactions that a crash ends are undone: nothing was said
    services = Services(stack.redis, folder, settings.metrics_port, settings.metrics_host, models, stack.kafka, counts)
    return Deployment(reference, compiled, Topics(name or workload.name), services)


def to_job(deployment: Deployment, brokers: str, settings: Settings, savepoint: str | None = None) -> Job:
    """The job that runs `deployment`."""
    topics, compiled = deployment.topics, deployment.plan
    since = _remembered(settings, deployment.name) // 1_000_000

    def spec(stage: int) -> str:
        of = StageSpec(deployment.reference, stage, deployment.services, topics.name, since)
        return msgspec.json.encode(of).decode()

    stages = _features(compiled, topics, spec)
    learns = compiled.workload.learning is not None
    if compiled.workload.follows:
        stages[-1] = replace(stages[-1], control=MODELS)
    if learns:
        stages += _learning(compiled, topics, spec)
    truths = bool(compiled.labelled) or learns
    timed = truths or len(compiled.stages) > 1
    return Job(
        name=deployment.name,
        brokers=brokers,
        inputs=(Input(topics.events, timed), *((Input(topics.outcomes, True, PACE),) if truths else ())),
        stages=tuple(stages),
        sinks={
            frames.DECISION: topics.decisions,
            frames.DEADLETTER: topics.deadletters,
            frames.SIGNAL: topics.signals,
            frames.EXAMPLE: topics.examples,
            frames.MODEL: MODELS,
        },
        checkpoint_dir=(settings.home / "checkpoints" / deployment.name).as_uri(),
        checkpoint_ms=settings.checkpoint,
        parallelism=settings.parallelism,
        batch=settings.batch,
        poll=settings.max_poll_records,
        buffer_ms=settings.buffer_timeout,
        skew_ms=duration(compiled.workload.skew),
        delivery="exactly-once" if settings.delivery == "exactly-once" else "at-least-once",
        state=settings.state,
        savepoint=savepoint,
    )


def _features(compiled: Plan, topics: Topics, spec: Callable[[int], str]) -> list[flink.Stage]:
    """The stages that an event passes, one for each entity, behind the join of labels where any of them needs it."""
    events, outcomes = Port(topics.events, Key("json", "id")), Port(topics.outcomes, Key("json", "event"))
    stages, ttl = [], state_ttl(compiled)
    if compiled.labelled:
        stages.append(flink.Stage(JOIN, spec(-1), events, outcomes, ttl_ms=ttl, wait_ms=0, pace_ms=PACE))
    for stage in compiled.stages:
        main = Port(topics.events, Key("record", stage.entity))
        if stage.index:
            main = Port(compiled.stages[stage.index - 1].entity, Key("row"), frames.ROW + stage.index)
        side = Port(JOIN, Key("row"), frames.ROW + stage.index) if stage.features.labelled else None
        stages.append(
            flink.Stage(
                stage.entity, spec(stage.index), main, side, hold=side is not None, ttl_ms=ttl,
                rows=RESIDENT_BYTES // (8 * stage.features.width), pace_ms=0 if stage.index or stage.last else TURN,
            )
        )  # fmt: skip
    return stages


def _learning(compiled: Plan, topics: Topics, spec: Callable[[int], str]) -> list[flink.Stage]:
    """The stages of the learning loop: decisions wait for their outcomes, and examples are learned from."""
    assert compiled.workload.learning is not None
    horizon = compiled.workload.learning.horizon
    served = Port(compiled.stages[-1].entity, Key("row"), frames.PENDING)
    outcomes, taught = Port(topics.outcomes, Key("json", "event")), Port(EXAMPLES, Key("row"), frames.LESSON)
    counted = Port(compiled.stages[-1].entity, Key("row"), frames.LESSON)
    return [
        flink.Stage(
            EXAMPLES, spec(resident.EXAMPLES), served, outcomes, hold=True, ttl_ms=state_ttl(compiled), wait_ms=horizon,
            pace_ms=PACE,
        ),
        flink.Stage(LEARN, spec(resident.LEARN), taught, counted, pace_ms=PACE, asked=True, parallelism=1),
    ]  # fmt: skip


def running(address: str, name: str) -> flink.Running | None:
    """The job `name` on the cluster, if one runs."""
    return next((job for job in flink.jobs(address) if job.name == name and job.state in RUNNING), None)


@dataclass(frozen=True)
class Deployed:
    """A job that runs: its id, the savepoint or checkpoint that it went on from, and how many records, by topic, were
    deleted that came after the last stop: nobody read them."""

    id: str
    savepoint: str | None
    unread: Mapping[str, int]


def deploy(deployment: Deployment, stack: Stack, settings: Settings, fresh: bool = False) -> Deployed:
    """Create the topics, submit the job and wait until every task runs; where it does not, nothing is left running.

    It goes on from its newest state, as `newest` finds it; `fresh` starts from the oldest event instead.
    """
    existing = running(stack.flink, deployment.name)
    if existing is not None:
        raise MillraceError(
            f"job {deployment.name!r} runs already ({existing.id}, {existing.state}); "
            f"`millrace stop {deployment.name}` stops it with a savepoint, the next deploy goes on from there"
        )
    partitions = settings.parallelism
    kafka.create_topics(stack.kafka, {name: {} for name in deployment.topics.all()}, partitions)
    kafka.create_topics(stack.kafka, {MODELS: {"cleanup.policy": "compact"}})
    if fresh:
        _remember(settings, deployment.name, None)
    savepoint, before = newest(deployment.name, settings), overrides(deployment.name, settings)
    unread = _unread(deployment.topics, stack.kafka, settings) if savepoint else {}
    _complete(savepoint, _record(settings, f"{deployment.name}.from"))
    _tell(deployment, stack.kafka, fresh)  # before it can be interrupted
    try:
        id = flink.submit(to_job(deployment, stack.kafka, settings, savepoint), stack.flink)
    except MillraceError as error:
        if savepoint is None or before is None or "not available in the new program" not in str(error):
            raise
        other = before != deployment.reference.set
        changed = f"it ran with {as_options(before)}" if other else "its definition has changed"
        raise DefinitionError(
            f"deploy {deployment.name}: found stages in {savepoint} that it has not now, as {changed}; expected "
            "the same again, or --fresh, which begins with the oldest event"
        ) from error
    _note(_overrides(settings, deployment.name), json.dumps(deployment.reference.set))
    try:
        flink.wait_running(stack.flink, id)
    except MillraceError:
        with suppress(MillraceError):  # the reason why it does not run is the one to tell
            flink.cancel(stack.flink, id)
        raise
    _record(settings, f"{deployment.name}.ends").unlink(missing_ok=True)
    return Deployed(id, savepoint, unread)


def _unread(topics: Topics, brokers: str, settings: Settings) -> dict[str, int]:
    """How many records, by topic, are gone that came after the last stop."""
    path = _record(settings, f"{topics.name}.ends")
    ends = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[int, int]]) if path.exists() else {}
    unread = {}
    for topic, end in ends.items():
        begin = kafka.start_offsets(brokers, topic)
        unread[topic] = sum(max(0, begin.get(partition, 0) - offset) for partition, offset in end.items())
    return {topic: count for topic, count in unread.items() if count}


def _tell(deployment: Deployment, brokers: str, fresh: bool) -> None:
    """Signal how decisions from now on wait for their outcomes, and whether they are made anew: the ledger asks."""
    ends = kafka.end_offsets(brokers, deployment.topics.decisions)
    anew = kafka.end_offsets(brokers, deployment.topics.examples) if fresh else None
    rule, topics = deployment.plan.workload.learning, deployment.topics
    deployed = (rule.horizon, rule.share, rule.exploration is not None) if rule else (0, 1.0, False)
    detail = msgspec.structs.asdict(signals.Deployed(*deployed, ends, anew))
    signal = signals.Signal("deployed", deployment.plan.workload.name, time.time_ns() // 1_000_000, detail)
    with kafka.Producer(brokers) as producer:
        producer.publish(topics.signals, [(signal.workload.encode(), signals.encode_signal(signal), ())])


def newest(name: str, settings: Settings) -> str | None:
    """Where job `name` can go on: at the savepoint of its last `stop`, or at the last checkpoint or savepoint since
    then of a run that ended otherwise, as with its JobManager. None where it has to begin with the oldest event."""
    since = _remembered(settings, name)
    savepoint = _saved(_record(settings, name)) if since else None
    kept = settings.home / "savepoints" / name  # where that of a stop that was interrupted may be
    found = chain(_checkpoints(settings.home / "checkpoints" / name, "*/chk-*"), _checkpoints(kept, "*"))
    taken, checkpoint = max(found, default=(0, None))
    return checkpoint.as_uri() if checkpoint is not None and taken > since else savepoint


class _Saved(msgspec.Struct):
    savepoint: str | None


def _saved(record: Path) -> str | None:
    """What `_remember` noted in `record`; Unavailable where that is damaged."""
    try:
        return msgspec.json.decode(record.read_bytes(), type=_Saved).savepoint
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unavailable(
            f"{record} is damaged ({error}); write the newest savepoint there as {{\"savepoint\": \"file:///…\"}}, or "
            "deploy with --fresh, which begins with the oldest event"
        ) from error


def _complete(start: str | None, record: Path) -> None:
    """Give the checkpoint `start` the files of what its job went on from, which `record` says, and note `start` there.

    Until a job has written its whole state anew, its checkpoints name files of the savepoint that it began with as if
    they lay beside them (FLINK-39964); a JobManager knows better for as long as it lives. Flink deletes checkpoints
    that jobs went on from, so all are noted back to the savepoint, which nobody deletes.
    """
    if start is None:
        record.unlink(missing_ok=True)
        return
    folder, before = Path(unquote(urlsplit(start).path)), list[str]()
    if record.exists() and folder.name.startswith("chk-"):
        before = [one for one in record.read_text().splitlines() if one != str(folder)]
    for file in chain.from_iterable(Path(one).glob("*-*") for one in before):  # each is named by a UUID
        try:
            (folder / file.name).hardlink_to(file)
        except FileExistsError:
            continue
        except OSError:  # on another disk
            shutil.copyfile(file, folder / file.name)
    _note(record, "\n".join([*before, str(folder)]))


def _checkpoints(folder: Path, names: str) -> Iterator[tuple[int, Path]]:
    """When each checkpoint below `folder` was taken, and where it is. Flink names `_metadata` last: those are whole."""
    for metadata in folder.glob(f"{names}/_metadata"):
        with suppress(FileNotFoundError):  # that of a stopped job may be on its way out
            yield metadata.stat().st_mtime_ns, metadata.parent


def stop(name: str, stack: Stack, settings: Settings, folder: str | None = None) -> str:
    """Stop job `name` with a savepoint below `folder` (default: the home folder); returns the savepoint's path.

    A job that recovers from a crash is waited for; MillraceError with the cause where it does not recover.
    """
    job = _running(name, stack)
    target = folder or (settings.home / "savepoints" / name).as_uri()
    try:
        savepoint = _savepoint(stack.flink, job.id, target)
    except MillraceError as error:
        way = f"`millrace stop {name} --cancel` ends it without one; the next deploy goes on from its last checkpoint"
        raise type(error)(f"{error}; {way}") from error
    _remember(settings, name, savepoint)
    topics = Topics(name)
    with suppress(MillraceError):  # no Kafka, which may be why it is stopped: then nobody knows
        ends = {topic: kafka.end_offsets(stack.kafka, topic) for topic in (topics.events, topics.outcomes)}
        _note(_record(settings, f"{name}.ends"), msgspec.json.encode(ends).decode())
    return savepoint


def cancel(name: str, stack: Stack, settings: Settings) -> str | None:
    """End job `name` as it is; returns the savepoint or checkpoint that the next deploy goes on from."""
    flink.cancel(stack.flink, _running(name, stack).id)
    return newest(name, settings)


def _running(name: str, stack: Stack) -> flink.Running:
    job = running(stack.flink, name)
    if job is None:
        ended = ", ".join(f"{j.name} {j.state}" for j in flink.jobs(stack.flink)) or "none at all"
        raise DefinitionError(f"no job {name!r} runs on {stack.flink}; it knows {ended}")
    return job


def _savepoint(address: str, job: str, folder: str) -> str:
    """The savepoint that a job stopped with; tried once more where a part had died that still counted as running."""
    flink.wait_running(address, job, seconds=30.0)
    try:
        return flink.stop_with_savepoint(address, job, folder)
    except Unavailable:  # it takes too long: so would another
        raise
    except MillraceError:
        flink.wait_running(address, job, seconds=30.0)
        return flink.stop_with_savepoint(address, job, folder)


def _remember(settings: Settings, name: str, savepoint: str | None) -> None:
    """Note where job `name` goes on, None for the beginning; older checkpoints no longer count."""
    _note(_record(settings, name), msgspec.json.encode(_Saved(savepoint)).decode())


def _remembered(settings: Settings, name: str) -> int:
    """When that was noted, ns since the epoch; 0: never."""
    record = _record(settings, name)
    return record.stat().st_mtime_ns if record.exists() else 0


def overrides(name: str, settings: Settings) -> dict[str, str] | None:
    """What parameters job `name` was last deployed with; None where nothing is known of it."""
    path = _overrides(settings, name)
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str]) if path.exists() else None
    except ValueError as error:
        raise Unavailable(f"{path} is damaged ({error}); delete it: it says with which --set {name!r} ran") from error


def expect(name: str, settings: Settings, command: str | None) -> None:
    """Note that job `name` should be there, and the `command` that deploys it; None: that it should not."""
    path = _record(settings, f"{name}.runs")
    if command is None:
        path.unlink(missing_ok=True)
    else:
        _note(path, command)


def expected(settings: Settings) -> dict[str, str]:
    """The commands that deploy the jobs which should be there, by their names."""
    found = sorted((settings.home / "jobs").glob("*.runs.json"))
    return {path.name.removesuffix(".runs.json"): path.read_text() for path in found}


def as_options(overrides: Mapping[str, str]) -> str:
    """Parameters as a command takes them."""
    return " ".join(f"--set {name}={value}" for name, value in overrides.items()) or "no --set"


def _overrides(settings: Settings, name: str) -> Path:
    """A file of its own: the time of the record of savepoints says which checkpoints count."""
    return _record(settings, f"{name}.set")


def _note(record: Path, text: str) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(text)


def _record(settings: Settings, name: str) -> Path:
    """Where the last savepoint of job `name` is remembered."""
    return settings.home / "jobs" / f"{name}.json"
