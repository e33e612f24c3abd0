"""The local stack: Kafka, Valkey and a Flink cluster as processes of this machine, stopped exactly.

`up` starts what is needed and dead, keeps what lives, and waits until all of it answers; ports and data last
from one start to the next. What runs is written to `home/stack.json`, so any later command finds, checks or
stops it. A service whose address is set (MILLRACE_KAFKA, _REDIS, _FLINK) is used instead of a local one.
"""

import fcntl
import json
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from schemas.errors import MillraceError, Unavailable
from streaming import jvm, parts, process
from streaming.parts import HOST, KINDS, Kind, Place
from streaming.process import Identity
from streaming.settings import Settings, shown

Progress = Callable[[str, str], None]
"""Told of each part's name and what happens to it: starting, ready, kept, stopping, stopped, failed."""


@dataclass(frozen=True, slots=True)
class Part:
    """One service; `process` and `log` are None where it runs elsewhere or was never started."""

    name: str
    address: str
    healthy: bool
    process: Identity | None = None
    log: Path | None = None

    @property
    def pid(self) -> int | None:
        """The process id on this machine, if it runs on it and lives."""
        return self.process.pid if self.process and self.process.alive() else None


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that is up: brokers `host:port`, Redis URL, Flink's REST URL and client configuration."""

    kafka: str
    redis: str
    flink: str
    flink_conf: Path
    parts: tuple[Part, ...]


@dataclass(slots=True)
class Entry:
    """What the state file holds of one part: `id` is its name in Flink, `given` the addresses it was told."""

    ports: list[int]
    id: str = ""
    process: Identity | None = None
    given: dict[str, str] | None = None

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.alive()


MADE = ("flink", "logs", "metrics", "checkpoints", "savepoints", "jobs", "models")
"""Folders that are made in a home, beside one for each part."""


class State:
    """The state file: entries by part name, written whole and at once after every change."""

    def __init__(self, home: Path) -> None:
        self.file = home / "stack.json"
        self.entries: dict[str, Entry] = {}
        self._lock = threading.Lock()
        try:
            self.entries = msgspec.json.decode(self.file.read_bytes(), type=dict[str, Entry])
            for name, entry in self.entries.items():
                if len(entry.ports) < _kind(name).ports:
                    raise ValueError(f"found ports {entry.ports} of {name}, expected {_kind(name).ports}")
        except FileNotFoundError:
            return
        except (ValueError, KeyError) as error:
            raise Unavailable(f"{self.file} is damaged ({error}); stop what runs by hand and delete it") from error

    def record(self, name: str, entry: Entry | None) -> None:
        """Set one entry, or none, and write the file."""
        with self._lock:
            self.entries.pop(name, None)
            self.entries |= {name: entry} if entry else {}
            text = json.dumps({name: asdict(entry) for name, entry in self.entries.items()}, indent=1)
            fresh = self.file.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(self.file)


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One `up`, `down` or `kill` at a time for each home."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "stack.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _kind(name: str) -> Kind:
    return KINDS[name.split("-")[0]]


def _silent(name: str, happening: str) -> None:
    """No progress wanted."""


def _needed(settings: Settings) -> list[str]:
    """Names of the parts that have to run here."""
    managers = [f"taskmanager-{i}" for i in range(settings.taskmanagers)]
    groups = [
        ([] if settings.kafka else ["kafka"]),
        ([] if settings.redis else ["valkey"]),
        ([] if settings.flink else ["jobmanager", *managers]),
    ]
    return [name for group in groups for name in group]


def _assign_ports(state: State, names: list[str]) -> None:
    """Ports for the parts that will be started: those of their last start, where they are still free."""
    dead = [name for name in names if name not in state.entries or not state.entries[name].alive]
    counts = [_kind(name).ports for name in dead]
    last = [
        state.entries[name].ports if name in state.entries else [0] * n for name, n in zip(dead, counts, strict=True)
    ]
    ports = process.free_ports(sum(counts), [port for group in last for port in group])
    for name, count in zip(dead, counts, strict=True):
        state.record(name, Entry(ports=ports[:count]))
        del ports[:count]


def _addresses(settings: Settings, state: State) -> dict[str, str]:
    """Where everything is or will be: kafka, redis (URL), rest, jobmanager (RPC)."""

    def local(name: str, index: int = 0) -> str:
        entry = state.entries.get(name)
        return f"{HOST}:{entry.ports[index]}" if entry else ""

    valkey, rest = local("valkey"), local("jobmanager")
    return {
        "kafka": settings.kafka or local("kafka"),
        "redis": settings.redis or (f"redis://{valkey}/0" if valkey else ""),
        "rest": urlsplit(settings.flink).netloc if settings.flink else rest,
        "jobmanager": local("jobmanager", 1),
    }


def _place(name: str, settings: Settings, state: State, given: Mapping[str, str]) -> Place:
    entry = state.entries[name]
    return Place(name, entry.id, settings.home / name, tuple(entry.ports), given, settings)


def _asked_at(name: str, state: State) -> str:
    """The address that answers for a part: the JobManager's for a TaskManager."""
    entry = state.entries.get("jobmanager" if name.startswith("taskmanager") else name)
    return f"{HOST}:{entry.ports[0]}" if entry else ""


def up(settings: Settings, progress: Progress = _silent) -> Stack:
    """Start what is needed and not running, all at once, and wait until every part answers.

    Unavailable names the part that did not come up with the end of its log; the others are left running.
    """
    with _locked(settings.home):
        state = State(settings.home)
        names = _needed(settings)
        silent = [_mistaken(name, where) for name, where in _elsewhere(settings).items() if not answers(name, where)]
        for name, entry in [*state.entries.items()]:
            if name.startswith("taskmanager") and name not in names and not entry.alive:  # there were more once
                state.record(name, None)
        _assign_ports(state, names)
        given = _addresses(settings, state)
        for name in names:
            if name.startswith("taskmanager") and not silent:  # nobody moves to a mistaken address
                _retire(name, state, given, progress)
        with ThreadPoolExecutor(max_workers=len(names) + 3) as pool:
            running = [pool.submit(_start, name, settings, state, given, progress) for name in names]
            errors = [error for done in as_completed(running) if (error := done.exception()) is not None]
        for error in errors:
            if not isinstance(error, MillraceError):
                raise error
        if errors or silent:
            raise Unavailable("\n".join([*map(str, errors), *silent]))
    return stack(settings)


def _retire(name: str, state: State, given: dict[str, str], progress: Progress) -> None:
    """Stop a TaskManager that was told addresses from before a service moved."""
    entry = state.entries[name]
    if entry.alive and entry.process and entry.given != given:
        progress(name, "moving")
        process.stop([entry.process], grace=10.0)


def _start(name: str, settings: Settings, state: State, given: dict[str, str], progress: Progress) -> None:
    """Start one part unless it lives, and wait until it answers."""
    entry, kind = state.entries[name], _kind(name)
    progress(name, "kept" if entry.alive else "starting")
    if not entry.alive:
        entry = Entry(entry.ports, f"{name}-{secrets.token_hex(3)}", given=given)
        state.record(name, entry)
        place = _place(name, settings, state, given)
        launch = kind.launch(place)
        entry.process = process.spawn(launch.command, launch.environment, place.output)
        state.record(name, entry)
    place = _place(name, settings, state, given)
    deadline = time.monotonic() + kind.seconds
    while not kind.healthy(_asked_at(name, state), entry.id):
        if not entry.alive or time.monotonic() > deadline:
            progress(name, "failed")
            why = f"did not answer within {kind.seconds:.0f} s" if entry.alive else "ended while it started"
            raise Unavailable(f"{name} {why}; from {parts.explanation(place)}")
        time.sleep(0.05)
    if entry.process:
        entry.process.give_way(*jvm.COMPILING)
    progress(name, "ready")


def _elsewhere(settings: Settings) -> dict[str, str]:
    """Services used instead of local ones, by the part they stand for."""
    chosen = {"kafka": settings.kafka, "valkey": settings.redis, "jobmanager": settings.flink}
    return {name: address for name, address in chosen.items() if address}


def _mistaken(name: str, address: str) -> str:
    """What to say of a service that is to be used and does not answer."""
    variable = {"kafka": "MILLRACE_KAFKA", "valkey": "MILLRACE_REDIS", "jobmanager": "MILLRACE_FLINK or --flink"}[name]
    service = {"kafka": "Kafka", "valkey": "Redis", "jobmanager": "Flink"}[name]
    found = f"found nobody at {shown(address)} who answers, expected {service}"
    return f"{variable}: {found}; correct it, or unset it to use the one that `millrace up` starts here"


def answers(name: str, address: str) -> bool:
    """Whether the service at `address`, which stands for the part `name`, is well."""
    if name == "valkey":
        from operators.redis import Link  # not before it is needed

        link = Link(address, "return 1", 1.0)  # as jobs do: with the password, and allowed to load a script
        link.connect()
        well = link.up
        link.close()
        return well
    return KINDS[name].healthy(address, name)


def status(settings: Settings) -> list[Part]:
    """Every part that is needed or was started, asked now, all at once."""
    state = State(settings.home)
    elsewhere = _elsewhere(settings)
    here = [name for name in {**dict.fromkeys(_needed(settings)), **state.entries} if name not in elsewhere]

    def local(name: str) -> Part:
        entry = state.entries.get(name)
        if entry is None:
            return Part(name, "", healthy=False)
        place = _place(name, settings, state, {})
        healthy = entry.alive and _kind(name).healthy(_asked_at(name, state), entry.id)
        return Part(name, _asked_at(name, state), healthy, entry.process, place.log)

    order = list(KINDS)
    with ThreadPoolExecutor(max_workers=16) as pool:
        found = pool.map(local, here)
        others = pool.map(lambda name: Part(name, shown(elsewhere[name]), answers(name, elsewhere[name])), elsewhere)
        return sorted([*found, *others], key=lambda part: (order.index(part.name.split("-")[0]), part.name))


def rest(settings: Settings, found: Sequence[Part]) -> str | None:
    """Where Flink is asked, if the JobManager among the `found` parts answers."""
    there = next((part.address for part in found if part.name == "jobmanager" and part.healthy), None)
    return there and (settings.flink or f"http://{there}").rstrip("/")


def stack(settings: Settings, needs: Collection[str] = tuple(KINDS)) -> Stack:
    """Addresses of the stack that is up; Unavailable names the parts that are not, of the kinds that it `needs`."""
    found, elsewhere = status(settings), _elsewhere(settings)
    wanted = {*_needed(settings), *elsewhere}
    needed = (part for part in found if part.name in wanted and part.name.split("-")[0] in needs)
    down_now = [part.name for part in needed if not part.healthy]
    told = [_mistaken(name, elsewhere[name]) for name in down_now if name in elsewhere]
    if here := [name for name in down_now if name not in elsewhere]:
        told.append(f"{', '.join(here)} in {settings.home} not up; run `millrace up`")
    if told:
        raise Unavailable("\n".join(told))
    given = _addresses(settings, State(settings.home))
    rest = settings.flink or f"http://{given['rest']}"
    return Stack(given["kafka"], given["redis"], rest.rstrip("/"), settings.home / "flink" / "conf", tuple(found))


def brokers(settings: Settings) -> str:
    """The address of Kafka, whatever else is up; Unavailable where it is not."""
    return stack(settings, ("kafka",)).kafka


def down(settings: Settings, wipe: bool = False, progress: Progress = _silent) -> list[str]:
    """Stop exactly what was started here; data stays unless `wipe`. Returns the names of what was running."""
    if not settings.home.exists():
        return []
    with _locked(settings.home):
        state = State(settings.home)
        living = {name: entry.process for name, entry in state.entries.items() if entry.alive and entry.process}
        # Flink first: a broker that still has clients waits for them.
        for group in (("taskmanager", "jobmanager"), ("kafka", "valkey")):
            chosen = {name: identity for name, identity in living.items() if name.startswith(group)}
            for name in chosen:
                progress(name, "stopping")
            process.stop(chosen.values(), grace=15.0)
            for name in chosen:
                progress(name, "stopped")
        for name in living:
            with suppress(OSError):  # the disk is full: that it is dead is seen without
                state.record(name, Entry(state.entries[name].ports))
                jvm.adopt(settings.home / name, settings.cache)
        if wipe:
            _wipe(settings.home, state)
    return list(living)


def _wipe(home: Path, state: State) -> None:
    """Delete what was made in the home, and the folder itself where nothing else is in it."""
    made = [*state.entries, *MADE, state.file.name, "stack.new"] if state.file.exists() else []
    made += [path.name for path in home.glob("demo-*.html")] if made else []
    for path in (home / name for name in (*made, "stack.lock")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with suppress(OSError):  # somebody else's files
        home.rmdir()


def kill(settings: Settings, name: str, number: int = signal.SIGKILL) -> Identity:
    """Send a signal to one part, at once and without mercy: how faults are made. Returns what it was."""
    entry = State(settings.home).entries.get(name)
    if entry is None or entry.process is None or not entry.alive:
        raise Unavailable(f"no {name} runs in {settings.home}")
    entry.process.signal(number)
    if number == signal.SIGKILL:
        process.until_gone([entry.process], 10.0)
    return entry.process
