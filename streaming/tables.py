"""CSV files as events: the columns are named as the fields of an event, and each row becomes the JSON of one.

`at` may be milliseconds since the epoch or a date and time (ISO 8601; UTC where it names no zone); a row without an
`id` gets `row-N`. Columns that are no fields are kept, as text. An empty cell is a missing field.
"""

import csv
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from schemas.errors import DefinitionError
from schemas.records import Event


def events(path: Path, kind: type[Event]) -> Iterator[bytes]:
    """The rows of a CSV file with a header, as JSON values of `kind`; DefinitionError names line and column.

    What is no number where a number belongs is passed on as it is: it becomes a dead letter with its reason.
    """
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    texts = {field.name for field in info.fields if isinstance(field.type, msgspec.inspect.StrType)}
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
            for number, row in enumerate(rows, start=1):
                if None in row:
                    raise DefinitionError(f"{path}:{rows.line_num}: found more cells than the header has columns")
                cells = {name: cell for name, cell in row.items() if cell}
                found = {n: c if n in texts or n not in fields else _value(n, c) for n, c in cells.items()}
                if number == 1 and isinstance(at := found.get("at"), int) and 10**9 <= at < 10**10:
                    raise DefinitionError(
                        f"{path}:2: found `at` {at}, in 1970, expected milliseconds; seconds with three zeros behind, "
                        "or a date and time"
                    )
                yield msgspec.json.encode({"id": f"row-{number}", **found})
        except (UnicodeDecodeError, csv.Error) as error:
            expected = f"expected text in UTF-8, at most {csv.field_size_limit():,} characters a cell"
            raise DefinitionError(f"{path}:{rows.line_num + 1}: {error}; {expected}") from error


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
