"""Options that several commands share, and the way results and progress are printed."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from schemas.errors import DefinitionError

if TYPE_CHECKING:
    from schemas.records import Event
    from streaming.plan import Plan



def _console(stderr: bool) -> Console:
    """As wide as the terminal; what goes to a file or another program is not folded, as nobody could take it apart."""
    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=10_000)


out, err = _console(stderr=False), _console(stderr=True)

Name = Annotated[
    str, typer.Argument(metavar="WORKLOAD", help="A name that `millrace list` shows, or the path of a .py file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Override a parameter that the workload declares; repeatable."),
]


def overrides(pairs: Iterable[str] | None) -> dict[str, str]:
    """`NAME=VALUE` pairs as a mapping."""
    parsed = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise DefinitionError(f"--set {pair}: expected NAME=VALUE, as --set review=0.4")
        parsed[name] = value
    return parsed


def compiled(name: str, pairs: Iterable[str] | None = None) -> "Plan":
    """The plan of workload `name`."""
    from streaming.plan import plan
    from streaming.workloads import load

    return plan(load(name, overrides(pairs)))


def to_json(result: Mapping[str, object]) -> str:
    """`result` as JSON, in which what is no finite number is null."""
    return msgspec.json.format(msgspec.json.encode(result, enc_hook=float), indent=0).decode()


def show(result: Mapping[str, object], as_json: bool, text: str) -> None:
    """Print `result` as JSON, or `text`."""
    if as_json:
        print(to_json(result))
    else:
        out.print(text, highlight=False, soft_wrap=True)


@contextmanager
def progress(title: str, total: int | None, quiet: bool = False) -> Iterator[tuple[Progress, TaskID]]:
    """A progress bar on standard error; none where that is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as bar:
        yield bar, bar.add_task(title, total=total)


def count_lines(path: Path) -> int:
    """Lines of a file, for a progress bar."""
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def read_events(path: Path, kind: "type[Event]") -> Iterator[bytes]:
    """Events of a file: JSON lines, or a CSV file whose columns are the fields."""
    from schemas.codec import Decoder
    from schemas.records import Event
    from streaming import tables

    if path.suffix.lower() == ".csv":
        return tables.events(path, kind)
    lines = read_lines(path)
    first = [*islice(lines, 1)]
    for event in Decoder(Event).batch(first)[0]:  # what is none becomes a dead letter
        tables.check_seconds(f"{path}:1", event.at)
    return chain(first, lines)


def read_lines(path: Path) -> Iterator[bytes]:
    """Lines of a JSON-lines file without their newline; empty ones are left out."""
    with path.open("rb") as file:
        for line in file:
            if stripped := line.rstrip(b"\r\n"):
                yield stripped
