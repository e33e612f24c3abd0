"""Every setting of this installation: typed, read once from the environment, frozen.

Each field has a twin `MILLRACE_<FIELD>`. This is the one module that reads `os.environ`; processes that the
stack starts get the same settings back through `Settings.environment()`, so that a job inside a TaskManager
and the command that deployed it agree.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from schemas.errors import DefinitionError

PREFIX = "MILLRACE_"
Parser = Callable[[str], Any]


def setting(default: Any, about: str, parse: Parser, expected: str) -> Any:
    """A field with its one-line description, the parser of its twin, and what a right value looks like."""
    metadata = {"about": about, "parse": parse, "expected": expected}
    return field(default=default, metadata=metadata)


def number(default: int, about: str, least: int, most: int) -> Any:
    """An integer field within [least, most]."""

    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError(text)
        return value

    return setting(default, about, parse, f"a whole number from {least} to {most}")


def matching(about: str, pattern: str, expected: str, default: str | None = None) -> Any:
    """A text field whose whole value matches `pattern`."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return text

    return setting(default, about, parse, expected)


def folder(text: str) -> Path:
    """An absolute path, with `~` expanded."""
    return Path(text).expanduser().absolute()


def place(text: str) -> str:
    """A URL, or an absolute path."""
    return text if "://" in text else str(folder(text))


REDIS = r"rediss?://([^\s/@]*@)?([^\s/:@]+|\[[^\s\]]+\])(:\d+)?([/?]\S*)?"


@dataclass(frozen=True, slots=True)
class Settings:
    """What differs between two installations of Millrace. Times are milliseconds, memory is MiB."""

    home: Path = setting(Path(".millrace"), "folder of the local stack: data, logs, state", folder, "a folder")
    cache: Path = setting(Path("~/.cache/millrace"), "folder of downloaded and compiled jars", folder, "a folder")
    kafka: str | None = matching(
        "brokers to use instead of a local one", r"[^\s:,/]+:\d+(,[^\s:,/]+:\d+)*", "host:port[,host:port]"
    )
    redis: str | None = matching(
        "Redis to use instead of a local Valkey", REDIS, "a URL such as redis://localhost:6379/0"
    )
    flink: str | None = matching(
        "REST address of a Flink cluster to use instead of a local one",
        r"https?://[^\s/]+/?",
        "a URL such as http://localhost:8081",
    )
    registry: str | None = setting(
        None, "registry of models to use instead of `models` in the home", place, "a folder or an fsspec URL"
    )
    taskmanagers: int = number(1, "TaskManager processes that `up` starts", 1, 64)
    slots: int = number(4, "task slots of each local TaskManager: jobs that fit beside one another", 1, 64)
    heap: int = number(2048, "heap of each local TaskManager, MiB (keyed state lives there)", 256, 262_144)
    parallelism: int = number(1, "parallelism of a deployed job", 1, 128)
    checkpoint: int = number(1000, "checkpoint interval, ms", 100, 3_600_000)
    state: str = matching(
        "where keyed state lives: in the heap, or, where more waits for outcomes than fits there, on disk",
        "hashmap|rocksdb",
        "hashmap or rocksdb",
        "hashmap",
    )
    buffer_timeout: int = number(0, "how long Flink holds an unfilled network buffer, ms", 0, 10_000)
    batch: int = number(512, "most records in one call of Python", 1, 65_536)
    max_poll_records: int = number(2000, "most records of one Kafka poll", 1, 100_000)
    delivery: str = matching(
        "guarantee of the output topics",
        "at-least-once|exactly-once",
        "at-least-once or exactly-once",
        "at-least-once",
    )
    redis_timeout: int = number(20, "time-out of one round trip to Redis, ms", 1, 60_000)
    metrics_port: int = number(0, "Prometheus port of a TaskManager; 0: any that is free", 0, 65_535)
    metrics_host: str = matching(
        "address on which TaskManagers serve their metrics",
        r"[\w.:-]+",
        "a host name or address",
        "127.0.0.1",
    )

    def __post_init__(self) -> None:
        """Folders given in code are made absolute too: services run elsewhere than the command."""
        for name in ("home", "cache"):
            object.__setattr__(self, name, folder(str(getattr(self, name))))

    @property
    def models(self) -> str:
        """The registry that jobs follow."""
        return self.registry or str(self.home / "models")

    def environment(self) -> dict[str, str]:
        """The environment twins that make `read` give these settings again."""
        values = ((PREFIX + f.name.upper(), getattr(self, f.name)) for f in fields(self))
        return {variable: str(value) for variable, value in values if value is not None}


def home_folder(start: Path) -> Path:
    """The nearest `.millrace` in `start` or above it, as git looks for its own; else a new one here."""
    found = (parent / ".millrace" for parent in (start, *start.parents))
    return next((path for path in found if path.is_dir()), start / ".millrace")


def read(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment. DefinitionError names the variable, what was found and expected."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {"home": home_folder(Path.cwd())}
    for f in fields(Settings):
        variable = PREFIX + f.name.upper()
        text = environ.get(variable, "").strip()
        if not text:
            continue
        try:
            values[f.name] = f.metadata["parse"](text)
        except ValueError as error:
            about, expected = f.metadata["about"], f.metadata["expected"]
            raise DefinitionError(
                f"{variable} ({about}): found {text!r}, expected {expected}; correct or unset it"
            ) from error
    return Settings(**values)


def shown(url: str) -> str:
    """`url` without its password, to be printed."""
    return re.sub(r"(?<=:)[^:@/]+(?=@)", "…", url)


def chosen() -> dict[str, str]:
    """The variables that are set and say how a job runs, not where."""
    where = {PREFIX + name for name in ("HOME", "CACHE", "KAFKA", "REDIS", "FLINK")}
    names = {PREFIX + f.name.upper() for f in fields(Settings)} - where
    return {name: text for name in sorted(names) if (text := os.environ.get(name, "").strip())}


def unknown(environ: Mapping[str, str] | None = None) -> list[str]:
    """Variables that look like settings and are none: most likely misspelt."""
    names = {PREFIX + f.name.upper() for f in fields(Settings)}
    return sorted(v for v in (os.environ if environ is None else environ) if v.startswith(PREFIX) and v not in names)


def inherited() -> dict[str, str]:
    """The environment of this process, for the processes it starts."""
    return dict(os.environ)
