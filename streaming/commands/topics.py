"""Commands on topics: publish files to them, tail decisions from them."""

import heapq
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import typer

from schemas.errors import DefinitionError
from schemas.topics import Topics
from streaming import kafka, stack
from streaming.commands import options
from streaming.commands.options import Json, Name, Set, read_lines
from streaming.settings import read

if TYPE_CHECKING:
    from streaming.workload import Workload


class Line(NamedTuple):
    """One record of a file: event time, topic, key, value."""

    at: int
    topic: str
    key: bytes | None
    value: bytes


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("publish")(publish_command)
    app.command("tail")(tail_command)


def lines(workload: "Workload", events: Path | None, outcomes: Path | None, topics: Topics) -> Iterator[Line]:
    """Records of both files in the order of event time (within each file: in its order), keyed as they must be."""
    parts = []
    if events is not None:
        values = options.read_events(events, workload.event)
        parts.append(_read(values, topics.events, workload.blocks[0].entity))
    if outcomes is not None:
        parts.append(_read(read_lines(outcomes), topics.outcomes, "event"))
    return heapq.merge(*parts, key=lambda line: line.at)


def _read(values: Iterable[bytes], topic: str, field: str) -> Iterator[Line]:
    """Records of `values`. One that has no key or time is published as it is: the job says what is wrong with it."""
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
        msgspec.defstruct("KeyAndTime", [(field, str), ("at", int)])
    )
    at = 0
    for value in values:
        key = None
        try:
            record = decoder.decode(value)
            key, at = getattr(record, field).encode(), max(at, record.at)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        yield Line(at, topic, key, value)


def publish_command(
    workload: Name,
    events: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Events: JSON lines, .csv.")] = None,
    outcomes: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Outcomes, JSON lines.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Records a second; default: no limit.")] = None,
    set: Set = None,
    as_json: Json = False,
) -> None:
    """Publish files to the topics of a workload, merged by event time.

    Example: millrace publish fraud --events data/events.jsonl --outcomes data/outcomes.jsonl --rate 1000
    """
    if events is None and outcomes is None:
        raise typer.BadParameter("name a file: --events FILE, --outcomes FILE or both")
    from streaming.workloads import load

    definition = load(workload, options.overrides(set))
    if outcomes is not None and definition.outcome is None:
        raise DefinitionError(f"--outcomes: workload {definition.name!r} declares no outcome=, and no job reads any")
    if events is not None and events.suffix.lower() == ".csv":
        _check_rows(events, definition)
    chosen = read()
    brokers = stack.brokers(chosen)
    kafka.create_topics(brokers, {name: {} for name in definition.topics.all()}, chosen.parallelism)
    total = sum(options.count_lines(path) for path in (events, outcomes) if path is not None)
    sent = 0
    began = time.monotonic()
    with kafka.Producer(brokers) as producer, options.progress("publish", total, as_json) as (bar, task):
        for line in lines(definition, events, outcomes, definition.topics):
            if rate is not None and (wait := began + sent / rate - time.monotonic()) > 0:
                producer.flush()
                time.sleep(wait)
            sent += producer.publish(line.topic, [(line.key, line.value, ())])
            bar.advance(task)
    seconds = time.monotonic() - began
    result = {"records": sent, "seconds": round(seconds, 2)}
    options.show(result, as_json, f"{sent:,} records in {seconds:.1f} s\nNext: millrace tail {workload}")


def _check_rows(path: Path, workload: "Workload") -> None:
    """Read a CSV file to its end, so that a row in it that can't be read is found before others are published."""
    try:
        deque(options.read_events(path, workload.event), maxlen=0)
    except DefinitionError as error:
        raise DefinitionError(f"{error}; nothing was published: correct it, and publish the file again") from error


def tail_command(
    workload: Name,
    beginning: Annotated[bool, typer.Option("--from-beginning", help="Start with the oldest.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    deadletters: Annotated[bool, typer.Option(help="Dead letters instead of decisions.")] = False,
) -> None:
    """Print decisions as they come, one JSON object a line; stop with Ctrl-C.

    Example: millrace tail fraud --from-beginning --limit 10
    """
    from streaming.workloads import load

    topics = load(workload).topics
    brokers = stack.brokers(read())
    topic = topics.deadletters if deadletters else topics.decisions
    printed = 0
    try:
        for batch in kafka.records(brokers, topic, "earliest" if beginning else "latest", until=None, batch=500):
            for record in batch:
                print(_deadletter(record) if deadletters else (record.value or b"").decode(), flush=True)
                printed += 1
                if printed == limit:
                    return
    except KeyboardInterrupt:
        return


def _deadletter(record: kafka.Record) -> str:
    headers = {name: (value or b"").decode() for name, value in record.headers}
    value = None if record.value is None else record.value[:2000].decode(errors="replace")
    return msgspec.json.encode(headers | {"value": value}).decode()
