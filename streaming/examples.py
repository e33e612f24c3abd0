"""Examples: what was served for an event, beside the truth about it. They are what models are trained on.

A file is either Parquet (`.parquet`, one column a feature) or JSON lines: `{"event", "at", "key", "label",
"label_at", "features": {name: value}}`; with "weight", where fewer were kept of some, as the examples topic has it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.metrics import HEAVIEST
from schemas.errors import DefinitionError
from streaming.engine import Events

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
META = ("event", "at", "key", "label", "label_at")

Truth = Mapping[str, tuple[int, bool]]
"""Outcomes by event id: (known since, label)."""


class Example(msgspec.Struct, frozen=True):
    """One line of a JSON-lines file."""

    event: str
    at: int
    key: str
    label: bool
    label_at: int
    features: dict[str, float | None]  # None: missing
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Examples:
    """`n` examples: event ids, at and label_at i64[n] ms, key, label f64[n] 0 or 1, X f32[n, f] by `names`, weight
    f64[n], how many each stands for."""

    names: tuple[str, ...]
    event: Sequence[str]
    key: Sequence[str]
    at: I64
    label_at: I64
    label: F64
    X: NDArray[np.float32]
    weight: F64

    def columns(self, names: Sequence[str]) -> NDArray[np.float32]:
        """X of some features, f32[n, len(names)]; DefinitionError where one is missing."""
        missing = [name for name in names if name not in self.names]
        if missing:
            raise DefinitionError(f"examples: found no feature {missing[0]!r}, only {', '.join(self.names)}")
        return np.ascontiguousarray(self.X[:, [self.names.index(name) for name in names]])


class ExampleWriter:
    """Writes the examples of a replay step by step; close it, or use it in `with`."""

    def __init__(self, path: Path, names: tuple[str, ...], truth: Truth):
        if not path.parent.is_dir():
            raise DefinitionError(f"examples {path}: found no folder {path.parent} to write them to")
        self._names = names
        self._truth = truth
        self._lines: BinaryIO | None = None
        self._parquet: pq.ParquetWriter | None = None
        self.count = 0
        if path.suffix == ".parquet":
            fields = [("event", pa.string()), ("at", pa.int64()), ("key", pa.string()), ("label", pa.bool_())]
            fields += [("label_at", pa.int64()), *((name, pa.float32()) for name in names)]
            self._parquet = pq.ParquetWriter(path, pa.schema(fields))
        else:
            self._lines = path.open("wb")
        self._buffer: list[pa.Table] = []

    def __enter__(self) -> "ExampleWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, events: Events, columns: F64) -> None:
        """Write those of `events` that have an outcome, with their `columns` f64[k, names]."""
        truth = [self._truth.get(id) for id in events.ids]
        rows = [i for i, known in enumerate(truth) if known is not None]
        known = [pair for pair in truth if pair is not None]
        self.count += len(rows)
        if not rows:
            return
        ids, keys = [events.ids[i] for i in rows], [events.entities[0][i] for i in rows]
        at = events.at[rows]
        if self._lines is not None:
            values = zip(ids, at.tolist(), keys, known, columns[rows].tolist(), strict=True)
            for id, time, key, (since, label), row in values:
                line = Example(id, time, key, label, since, dict(zip(self._names, row, strict=True)))
                self._lines.write(msgspec.json.encode(line) + b"\n")
            return
        assert self._parquet is not None
        arrays = [ids, at, keys, [label for _, label in known], [since for since, _ in known]]
        features = list(columns[rows].astype(np.float32).T)
        self._buffer.append(pa.table([pa.array(a) for a in arrays] + features, schema=self._parquet.schema))
        if len(self._buffer) >= 64:
            self._drain()

    def _drain(self) -> None:
        if self._buffer and self._parquet is not None:
            self._parquet.write_table(pa.concat_tables(self._buffer))
        self._buffer.clear()

    def close(self) -> None:
        """Finish the file."""
        self._drain()
        for file in (self._parquet, self._lines):
            if file is not None:
                file.close()


def read_examples(*paths: Path) -> Examples:
    """Read files of examples, in the order of event time; of several about one event the first counts."""
    for path in paths:
        if not path.exists():
            raise DefinitionError(f"examples {path}: no such file; `millrace replay W --examples {path}` writes one")
    parts = [_read_parquet(path) if path.suffix == ".parquet" else _read_lines(path) for path in paths]
    if any(part.names != parts[0].names for part in parts):
        raise DefinitionError(f"examples {paths}: found different features in them, expected the same")
    columns = ([getattr(part, name) for part in parts] for name in ("at", "label_at", "label", "X", "weight"))
    ids, keys = (list(chain.from_iterable(getattr(part, name) for part in parts)) for name in ("event", "key"))
    whole = Examples(parts[0].names, ids, keys, *(np.concatenate(column) for column in columns))
    first = {id: row for row, id in reversed([*enumerate(ids)])}
    return _order(whole, np.array(sorted(first.values())))


def _read_parquet(path: Path) -> Examples:
    try:
        return _of_table(path, pq.read_table(path))
    except (pa.ArrowException, OSError, ValueError) as error:  # damaged, wherever that shows
        raise DefinitionError(f"examples {path}: {error}") from error


def _of_table(path: Path, table: pa.Table) -> Examples:
    if not len(table):
        raise DefinitionError(f"examples {path}: found none")
    names = tuple(name for name in table.column_names if name not in META)
    if not names or len(names) + len(META) != len(table.column_names):
        raise DefinitionError(f"examples {path}: found columns {table.column_names}, expected {META} and features")
    X = np.column_stack([_column(path, table, name, pa.float64()).astype(np.float32) for name in names])
    at, since = (_column(path, table, name, pa.int64()) for name in ("at", "label_at"))
    label = _column(path, table, "label", pa.float64())
    if not ((label == 0) | (label == 1)).all():
        raise DefinitionError(f"examples {path}: found labels {np.unique(label)[:4]}, expected 0 and 1")
    return Examples(names, table["event"].to_pylist(), table["key"].to_pylist(), at, since, label, X, np.ones(len(at)))


def _column(path: Path, table: pa.Table, name: str, kind: pa.DataType) -> NDArray[Any]:
    """A column as numbers of `kind`, where a time is in ms and a truth 0 or 1; what is missing is one of a feature."""
    column, where = table[name], f"examples {path}, column {name!r}"
    try:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ms"), safe=False)
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        found = column.cast(kind, safe=pa.types.is_integer(kind))
    except pa.ArrowException as error:
        raise DefinitionError(f"{where}: found {column.type}, expected {kind}: {error}") from error
    if name in META and found.null_count:
        raise DefinitionError(f"{where}: found {found.null_count} values missing, expected none")
    return np.asarray(found.to_numpy())


def _read_lines(path: Path) -> Examples:
    decoder, lines = msgspec.json.Decoder(Example), []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                lines.append(decoder.decode(line))
            except msgspec.DecodeError as error:
                raise DefinitionError(f"examples {path}:{number}: {error}") from error
    if not lines:
        raise DefinitionError(f"examples {path}: found none")
    names = tuple(lines[0].features)
    for number, example in enumerate(lines, start=1):
        if tuple(example.features) != names:
            found = tuple(example.features)
            raise DefinitionError(f"examples {path}:{number}: found features {found}, expected {names}")
        if not 0 < example.weight <= HEAVIEST:
            expected = f"a number above 0, at most {HEAVIEST:g}: one over the share that was kept"
            raise DefinitionError(f"examples {path}:{number}: found weight {example.weight}, expected {expected}")
    return Examples(
        names, [e.event for e in lines], [e.key for e in lines],
        np.array([e.at for e in lines], np.int64), np.array([e.label_at for e in lines], np.int64),
        np.array([e.label for e in lines], np.float64),
        np.array([list(e.features.values()) for e in lines], np.float32), np.array([e.weight for e in lines]),
    )  # fmt: skip


def _order(examples: Examples, rows: I64) -> Examples:
    """Those at `rows`, by event time."""
    if len(rows) == len(examples.at) and (np.diff(examples.at) >= 0).all():
        return examples
    order = rows[np.argsort(examples.at[rows], kind="stable")]
    pick, e = order.tolist(), examples
    return Examples(
        e.names, [e.event[i] for i in pick], [e.key[i] for i in pick], e.at[order], e.label_at[order], e.label[order],
        e.X[order], e.weight[order],
    )  # fmt: skip
