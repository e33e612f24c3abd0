"""Features of one entity, compiled: the second and third stages on the way of an event.

`compile_features` lays out a key's row and fills the tables of `operators.kernels.tables`. A row (float64):
the newest time, the heads of five rings, the label accumulators, the rings, the panes; it only exists while a
batch is worked on. Its stored form (`operators.kernels.state`) has only what is used, and survives a change
of the declarations.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import DTypeLike, NDArray

from operators.features import Aggregate, Keyed
from operators.kernels import folds, keyed, state
from operators.kernels import tables as T
from operators.kernels.tables import Bits, Floats, Rows, Spec, Table
from schemas.errors import MillraceError
from schemas.time import duration

Cell = tuple[float | int, ...]

KINDS = {"count": T.COUNT, "label_rate": T.COUNT, "distinct": T.DISTINCT, "quantile": T.QUANTILE}
MOMENTS = {"sum": T.SUM, "mean": T.MEAN, "var": T.VARIANCE, "std": T.STD, "min": T.MINIMUM, "max": T.MAXIMUM}
PANE_WORDS = (1, folds.EXTENT_WORDS, folds.REGISTER_WORDS, folds.DIGEST_WORDS)
BLOCK_WORDS = (2, 2, folds.MOMENT_WORDS, 3, 2)
ROW_DTYPES = tuple(
    np.dtype(t) for t in (np.int32, np.uint8, np.int64, np.int64, np.float64, np.uint64, np.float64)
)


@dataclass(frozen=True, eq=False, slots=True)
class EntityFeatures:
    """The compiled features of one entity.

    `names`: the f output columns. `inputs`: the c event fields that `Rows.columns` holds, for events and
    labels. `labelled`: whether labels are read at all. `width`: float64 words of a key's row. `fingerprint`:
    of all that decides what a state means. `named`: no field's names are told to folds.
    """

    named = ""
    entity: str
    names: tuple[str, ...]
    inputs: tuple[str, ...]
    labelled: bool
    width: int
    fingerprint: str
    spec: Spec
    sections: Table
    magic: np.uint64
    scratch: int

    def update(self, states: Floats, rows: Rows, out: Floats) -> NDArray[np.bool_]:
        """Fold k records, in order, into `states` f64[u, width] in place; features to `out` f64[k, f].

        Returns fresh bool[k]: False for the duplicate of an event or label, which changes nothing and whose
        features are 0. Rows of labels in `out` are left as they are.
        """
        fresh = np.empty(len(rows.slot), np.bool_)
        rows = conform_rows(rows)
        keyed.update(self.spec, states.reshape(-1), rows, out, fresh, self.scratch)
        return fresh

    def zero(self, keys: int) -> Floats:
        """Rows of keys of which nothing is known yet, f64[keys, width]."""
        return self.unpack(b"", np.zeros(keys, np.int32))

    def pack(self, states: Floats) -> tuple[Bits, NDArray[np.int32]]:
        """Stored form of rows f64[u, width]: one after the other, u64 words; bytes of each, i32[u]."""
        return state.pack(states.reshape(-1), len(states), self.width, self.spec.rings, self.sections, self.magic)

    def unpack(self, stored: bytes | memoryview, lengths: NDArray[np.int32]) -> Floats:
        """Rows f64[u, width] of stored states, one after the other, of `lengths` i32[u] bytes (0: nothing
        yet).

        What an earlier declaration stored is kept as far as this one knows it. Raises MillraceError for bytes
        that are not a state of this entity.
        """
        u = len(lengths)
        states = np.empty((u, self.width))
        words = np.frombuffer(stored, np.uint64)
        words.flags.writeable = False
        bad, reason = state.unpack(
            words, conform(lengths, np.int32), states.reshape(-1), self.width, self.spec.rings, self.sections,
            self.magic,
        )  # fmt: skip
        if bad >= 0:
            found = "a state of something else" if reason == state.FOREIGN else "damaged bytes"
            raise MillraceError(
                f"state of {self.entity}, number {bad} of {u}: found {found} ({int(lengths[bad])} bytes),"
                " expected what pack() wrote; restore an earlier checkpoint, or drop the state and replay"
            )
        return states


def conform(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """`array` as the kernels are compiled for: of `dtype`, contiguous, aligned, writeable; copied if need be."""
    return array if array.dtype == dtype and array.flags.carray else np.array(array, dtype, order="C")


def conform_rows(rows: Rows) -> Rows:
    """`rows` with every column as the kernels are compiled for."""
    arrays: tuple[NDArray[Any], ...] = rows
    return Rows._make(map(conform, arrays, ROW_DTYPES))


class Layout:
    """Gives out the words of a row and names the sections they are stored in."""

    def __init__(self, entity: str) -> None:
        self.entity = entity
        self.words = 1 + 2 * 5
        self.rings: list[Cell] = [(1 + 2 * ring, 0, 0, 1, 0) for ring in range(5)]
        self.sections: list[Cell] = []
        self.texts: list[str] = []
        self.section("clock", T.WORDS, 0, 1, fill=-math.inf)

    def section(
        self, text: str, kind: int, offset: int, words: int, ring: int = 0, column: int = 0, fill: float = 0.0
    ) -> None:
        """Name a section; equal names mean equal contents, in any version of the declarations."""
        self.texts.append(text)
        self.sections.append((crc32(text.encode()), kind, offset, words, ring, column, fill))

    def block(self, text: str, words: int) -> int:
        """Words of an accumulator, all zero at first."""
        self.section(text, T.WORDS, self.words, words)
        self.words += words
        return self.words - words

    def ring(self, ring: int, text: str, capacity: int, columns: Sequence[str], timed: bool) -> None:
        """A ring with room to move a quarter of its capacity."""
        span = 1 + capacity + max(8, capacity // 4)
        self.rings[ring] = (1 + 2 * ring, self.words, capacity, span, len(columns))
        for j, column in enumerate(columns):
            kind = T.COLUMN if timed else T.PLAIN
            self.section(f"{text}.{column}", kind, self.words, capacity, ring, j)
            self.words += span

    def panes(self, ring: int, text: str, fold: int, length: int, delay: int, reach: int) -> tuple[int, int, int]:
        """Panes of `fold` words for a window and events late by the lateness: where, how many, of how many ms."""
        pane = max(math.ceil(length / 12), math.ceil(reach / 60))
        number = math.ceil(reach / pane) + 2
        words = number * (1 + fold)
        self.section(f"{text},{length},{delay},{pane}", T.PANES, self.words, words, ring, fill=reach)
        self.words += words
        return self.words - words, number, pane


Window = tuple[int, int, int, str, float, int]
"""Ring, kind, delay, field ("" for the events themselves), quantile, length: the order of the aggregates."""


class Compiler:
    """Fills the tables for one declaration; `features` is the result."""

    def __init__(self, declared: Keyed, dedupe: bool) -> None:
        self.declared = declared
        self.layout = Layout(declared.entity)
        self.folds = declared.aggregates
        self.event_fields = sorted(
            {a.field for a in self.folds if a.field is not None and not a.fold.startswith("label_")}
        )
        self.label_fields = sorted({a.field for a in self.folds if a.field is not None and a.fold.startswith("label_")})
        self.decays = sorted(
            {(a.field or "", duration(s)) for a in self.folds if a.fold.startswith("decayed_") for s in a.spans}
        )
        self.blocks: dict[tuple[int, str, int, int], int] = {}
        self.windows: dict[Window, Cell] = {}
        self.plan_blocks()
        self.plan_rings(dedupe)
        self.columns = int(self.layout.rings[T.EVENTS][4])
        self.scratch = 2 * self.columns + self.label_words
        self.bounds = sorted({(w[0], w[2], w[5]) for w in self.wanted()})
        self.plan_windows()

    def wanted(self) -> list[Window]:
        """Every window that some feature reads, in table order."""
        found: set[Window] = set()
        for a in self.folds:
            if a.fold in KINDS or a.fold in MOMENTS:
                found.update(self.window(a, span) for span in a.spans)
            if a.fold == "label_rate":
                found.update((T.FRAUDS, *self.window(a, span)[1:]) for span in a.spans)
        return sorted(found)

    def window(self, a: Aggregate, span: str) -> Window:
        """The window over the event ring that a feature reads."""
        return T.EVENTS, KINDS.get(a.fold, T.MOMENTS), a.delay, a.field or "", a.x, duration(span)

    def plan_blocks(self) -> None:
        """One accumulator for each fold over all known labels; features that read the same share it."""
        begin = self.layout.words
        for a in self.folds:
            of = -1 if a.of is None else int(a.of)
            if a.fold in ("label_mean", "label_std", "label_max"):
                self.block(T.LABEL_MOMENTS, a.field or "", of)
            elif a.fold == "label_since":
                self.block(T.LAST, "", of)
            elif a.fold == "label_smoothed":
                self.block(T.TALLY, "", -1)
            elif a.fold == "label_decay":
                self.block(T.LABEL_DECAY, "", 1, duration(a.spans[0]))
            elif a.fold in ("label_run", "label_run_age"):
                self.block(T.LAST, "", 0)
                self.block(T.RUN, "", -1)
        self.label_base, self.label_words = begin, self.layout.words - begin

    def block(self, kind: int, field: str, of: int, half: int = 0) -> None:
        """One accumulator, once."""
        key = (kind, field, of, half)
        if key not in self.blocks:
            self.blocks[key] = self.layout.block(f"label,{key}", BLOCK_WORDS[kind])

    def plan_rings(self, dedupe: bool) -> None:
        """The rings that these features need."""
        declared, names = self.declared, {a.fold for a in self.folds}
        if dedupe:
            self.layout.ring(T.IDS, "ids", declared.ids, ("id",), False)
        if any(not fold.startswith("label_") or fold == "label_rate" for fold in names):
            decays = [f"decayed({field},{half})" for field, half in self.decays]
            self.layout.ring(T.EVENTS, "events", declared.ring, ("at", *self.event_fields, *decays), True)
        if declared.labelled:
            columns = ("known", "origin", "id", "of", *self.label_fields)
            self.layout.ring(T.LABEL_IDS, "label_ids", declared.ids, ("id",), False)
            self.layout.ring(T.PENDING, "pending", declared.labels, columns, False)
        if names & {"label_rate", "label_run", "label_run_age"}:
            self.layout.ring(T.FRAUDS, "frauds", declared.ring, ("at",), True)

    def plan_windows(self) -> None:
        """Panes and a place in the scratch for each window; a longer window of moments continues a shorter one."""
        spread = {self.window(a, s)[:5] for a in self.folds if a.fold in ("var", "std") for s in a.spans}
        lateness = self.declared.lateness
        before: Window | None = None
        for w in self.wanted():
            ring, kind, delay, field, x, length = w
            column = 1 + self.event_fields.index(field) if field else 0
            reach = length + delay + lateness
            spreads = w[:5] in spread
            words = folds.MOMENT_WORDS if spreads else PANE_WORDS[kind]
            text = f"panes,{ring},{kind},{field},{x},{words}"
            panes, number, pane = self.layout.panes(ring, text, words, length, delay, reach)
            shared = kind == T.MOMENTS and before is not None and before[:5] == w[:5]
            bound = self.bounds.index((ring, delay, length))
            self.windows[w] = (
                kind, ring, column, bound, self.scratch, words, panes, number, shared, spreads,
                pane, reach, x
            )  # fmt: skip
            self.scratch += 1 if kind == T.QUANTILE else words
            before = w

    def output(self, a: Aggregate, span: str) -> Cell:
        """One output column: what to read where in the scratch, and its settings."""
        if a.fold in KINDS or a.fold in MOMENTS or a.fold == "label_rate":
            w = self.window(a, span)
            acc = int(self.windows[w][4])
            if a.fold == "label_rate":
                return T.RATE, self.windows[(T.FRAUDS, *w[1:])][4], acc, 0.0, 0.0
            return MOMENTS.get(a.fold, T.VALUE), acc, 0, 0.0, 0.0
        if a.fold == "since":
            return T.SINCE, 0, 0, a.x, 0.0
        if a.fold == "previous":
            return T.FINITE, 1 + self.event_fields.index(a.field or ""), 0, 0.0, 0.0
        if a.fold.startswith("decayed_"):
            place = self.decays.index((a.field or "", duration(span)))
            return T.VALUE, self.columns + 1 + len(self.event_fields) + place, 0, 0.0, 0.0
        return self.label_output(a, 2 * self.columns - self.label_base)

    def label_output(self, a: Aggregate, shift: int) -> Cell:
        """One output column that reads the copy of the label accumulators, `shift` away from those of the row."""
        of = -1 if a.of is None else int(a.of)
        if a.fold == "label_since":
            return T.LABEL_SINCE, shift + self.blocks[T.LAST, "", of, 0], 0, a.x, 0.0
        if a.fold == "label_smoothed":
            return T.SMOOTHED, shift + self.blocks[T.TALLY, "", -1, 0], 0, a.x, a.y
        if a.fold == "label_decay":
            half = duration(a.spans[0])
            return T.DECAYED_LABELS, shift + self.blocks[T.LABEL_DECAY, "", 1, half], 0, float(half), 0.0
        if a.fold in ("label_run", "label_run_age"):
            op = T.VALUE if a.fold == "label_run" else T.RUN_AGE
            return op, shift + self.blocks[T.RUN, "", -1, 0], 0, 0.0, 0.0
        block = self.blocks[T.LABEL_MOMENTS, a.field or "", of, 0]
        return MOMENTS[a.fold.removeprefix("label_")], shift + block, 0, 0.0, 0.0

    def spec(self, inputs: tuple[str, ...]) -> Spec:
        """The tables."""
        d, rings = self.declared, self.layout.rings
        outputs = [self.output(a, span) for a in d.aggregates for span in a.spans or ("",)]
        blocks = [
            (kind, offset, T.OF + 1 + self.label_fields.index(field) if field else 0, of, half)
            for (kind, field, of, half), offset in self.blocks.items()
        ]
        decays = [
            (1 + len(self.event_fields) + k, 1 + self.event_fields.index(field) if field else -1, half)
            for k, (field, half) in enumerate(self.decays)
        ]
        run, legit = (self.blocks.get(key, -1) for key in ((T.RUN, "", -1, 0), (T.LAST, "", 0, 0)))
        sketches = [w for w in self.windows.values() if w[0] in (T.DISTINCT, T.QUANTILE)]
        sort = max([0, *(int(rings[int(w[1])][3] + w[7] * folds.CENTROIDS) for w in sketches)])
        layout = (
            self.layout.words, self.label_base, self.label_words, run, legit, self.scratch, sort, d.lateness,
            max([0, *(delay + length for _, delay, length in self.bounds)]) + d.lateness
        )  # fmt: skip
        return Spec(
            rings=np.array(rings, T.RING),
            windows=np.array([(ring, length, delay) for ring, delay, length in self.bounds], T.WINDOW),
            aggregates=np.array(list(self.windows.values()), T.AGGREGATE),
            decayed=np.array(decays, T.DECAYED),
            blocks=np.array(blocks, T.BLOCK),
            outputs=np.array(outputs, T.OUTPUT),
            event_inputs=np.array([inputs.index(field) for field in self.event_fields], np.int64),
            label_inputs=np.array([inputs.index(field) for field in self.label_fields], np.int64),
            layout=np.array(layout, np.int64),
        )

    def features(self) -> EntityFeatures:
        """What the tables make."""
        d = self.declared
        spec = self.spec(d.fields)
        sections = np.array(self.layout.sections, T.SECTION)
        texts = ";".join(self.layout.texts)
        tables = b"".join(np.asarray(table).tobytes() for table in spec)
        fingerprint = hashlib.sha256(f"{d.entity};{d.names};{texts};".encode() + tables).hexdigest()
        magic = np.uint64(crc32(f"millrace state 1 of {d.entity}".encode()) << 32 | crc32(texts.encode()))
        scratch = int(spec.layout[T.SORT] + 2 * spec.layout[T.SORT_CAP])
        return EntityFeatures(
            d.entity, d.names, d.fields, d.labelled, self.layout.words, fingerprint, spec, sections, magic, scratch
        )


def compile_features(declared: Keyed, dedupe: bool = True) -> EntityFeatures:
    """Compile `by(...)`. `dedupe`: whether this stage is the one that suppresses an event's duplicates."""
    return Compiler(declared, dedupe).features()
