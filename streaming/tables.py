"""CSV files as events: the columns are named as the fields of an event, and each row becomes the JSON of one.

`at` may be milliseconds since the epoch or a date and time (ISO 8601; UTC where it names no zone); a row without an
`id` gets `row-N-` and a checksum of the row. Rows are events in the order in which they came, the oldest first. Columns
that are no fields are kept, as text. An empty cell is a missing field.
"""

import csv
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from schemas.errors import DefinitionError
from schemas.records import Event

FLAGS = {"true": True, "1": True, "false": False, "0": False}


def _may_be(type: msgspec.inspect.Type, kind: Any) -> bool:
    return any(isinstance(option, kind) for option in getattr(type, "types", (type,)))


def events(path: Path, kind: type[Event]) -> Iterator[bytes]:
    """The rows of a CSV file with a header, as JSON values of `kind`; DefinitionError names line and column.

    What is no number where a number belongs is passed on as it is: it becomes a dead letter with its reason.
    """
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    kinds = msgspec.inspect.IntType | msgspec.inspect.FloatType, msgspec.inspect.BoolType
    numbers, flags = ({f.name for f in info.fields if _may_be(f.type, kind)} for kind in kinds)
    fields = {field.name for field in info.fields}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        try:
            header = rows.fieldnames or ()
            missing = [f.name for f in info.fields if f.required and f.name not in (*header, "id")]
            if missing:
                raise DefinitionError(
                    f"{path}:1: found the columns {', '.join(header) or 'none'}, expected {missing[0]!r} among them "
                    f"({kind.__name__} has {', '.join(sorted(fields))})"
                )
            lines = ((rows.line_num, {name: cell for name, cell in row.items() if cell}) for row in rows)
            first = list(islice(lines, 1000))
            _check_times(path, [_value("at", cells.get("at", "")) for _, cells in first])
            for number, (line, cells) in enumerate(chain(first, lines), start=1):
                if None in cells:
                    raise DefinitionError(f"{path}:{line}: found more cells than the header has columns")
                found = {
                    n: _value(n, c) if n in numbers else FLAGS.get(c.lower(), c) if n in flags else c
                    for n, c in cells.items()
                }
                row = crc32(msgspec.json.encode(found))  # another file's row of this number is another event
                yield msgspec.json.encode({"id": f"row-{number}-{row:08x}", **found})
        except (UnicodeDecodeError, csv.Error) as error:
            expected = f"expected text in UTF-8, at most {csv.field_size_limit():,} characters a cell"
            raise DefinitionError(f"{path}:{rows.line_num + 1}: {error}; {expected}") from error


def check_seconds(where: str, at: int, otherwise: str = "") -> None:
    """Refuse the time of a first event that is one of our days in seconds."""
    if 10**9 <= at < 10**10:
        expected = f"expected milliseconds: seconds with three zeros behind{otherwise}"
        raise DefinitionError(f"{where}: found `at` {at}, in 1970, {expected}")


def _check_times(path: Path, first: list[object]) -> None:
    """Refuse seconds, which are times in 1970, and rows with the newest first, which would each come late."""
    times = [at for at in first if isinstance(at, int)]
    if times:
        check_seconds(f"{path}:2", times[0], ", or a date and time")
    if len(times) > 2 and times[-1] < times[0] and all(after <= before for before, after in pairwise(times)):
        raise DefinitionError(
            f"{path}:2: found rows with the newest first, expected the oldest first, as they came; to turn them round: "
            f"(head -1 {path}; tail -n +2 {path} | tac) > turned.csv"
        )


def _value(name: str, cell: str) -> object:
    if name == "at":
        digits = len(cell) if cell.isdecimal() else 0
        return _first(cell, *([_iso] if digits == 8 else [_whole, _iso]))  # 20241231
    return _first(cell, int, float)


def _iso(text: str) -> int:
    return round(_utc(datetime.fromisoformat(text)).timestamp() * 1000)


def _whole(text: str) -> int:
    return int(text.removesuffix(".0"))


def _utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _first(cell: str, *readers: Callable[[str], int | float]) -> object:
    """What the first of `readers` that can makes of `cell`; the cell itself where none can."""
    for read in readers:
        try:
            return read(cell)
        except ValueError:
            continue
    return cell
