"""Rows of earlier definitions: decisions wait for their outcomes for weeks, and features come and go meanwhile.

A row is stored with the number of its layout, which is the names of its columns; what has the rows keeps the names.
"""

import zlib
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.snapshot import pack, unpack
from schemas.errors import ModelRejected

F64 = NDArray[np.float64]


def relaid(rows: F64, names: Sequence[str], now: Sequence[str]) -> F64:
    """Rows f64[k, names] with the columns `now`: NaN where one was not there."""
    if tuple(names) == tuple(now):
        return rows
    out = np.full((len(rows), len(now)), np.nan)
    for column, name in enumerate(now):
        if name in names:
            out[:, column] = rows[:, names.index(name)]
    return out


class _State(msgspec.Struct, tag="layouts/1"):
    known: dict[int, tuple[str, ...]]


class Layouts:
    """The layout of the columns `names`, which is that of today, and those before it."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._known = dict[int, tuple[str, ...]]()
        self.add(self.names)

    def add(self, names: tuple[str, ...]) -> None:
        """Know the layout of these columns, too."""
        self._known[number(names)] = names

    def of(self, layout: int, width: int) -> tuple[str, ...]:
        """The columns of rows of `width` values; ModelRejected where nobody knows their layout."""
        names = self._known.get(layout, ())
        if len(names) != width:
            what = f"found a row of {width} values in layout {layout}, expected one of {sorted(self._known)}"
            raise ModelRejected(f"{what}; deploy the definition that served it once more")
        return names

    def today(self, layout: int, rows: F64) -> F64:
        """Rows f64[k, d] of one layout, with the columns of today's."""
        return relaid(rows, self.of(layout, rows.shape[1]), self.names)

    def snapshot(self) -> bytes:
        """All of them."""
        return pack(_State(self._known))

    def restore(self, data: bytes) -> None:
        """Take up those of a snapshot, too."""
        self._known |= unpack(data, _State).known


def number(names: Sequence[str]) -> int:
    """By which rows tell their layout: few are ever used together."""
    return zlib.crc32("\0".join(names).encode())
