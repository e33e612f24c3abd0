"""Watching for drift: does the world still look as the champion knew it, and does it err as it used to?

Beside the teacher, which hands it every example. What is usual is learned of one champion lineage's first weeks; later
windows are compared with it, column by column, and the champion's loss is watched by ADWIN.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.drift import Adwin, Reference, Signal, Watch, loss
from models.promotion import settled
from models.rules import DriftRule
from models.snapshot import pack, unpack
from operators.kernels.ids import hash_ids
from schemas.time import MILLISECONDS

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

DAY = MILLISECONDS["d"]

USUAL_DAYS, USUAL_ROWS, USUAL_SHARE = 14, 2_000, 8
"""What is usual is what one champion lineage saw in so many days and rows, of one example in so many: two whole
weeks, so that a Sunday is no drift."""


class _State(msgspec.Struct, tag="watching/1"):
    adwin: bytes
    watch: bytes
    reference: bytes
    usual: NDArray[np.float64]
    first: float = np.inf


class Watching:
    """Of one workload with the columns `inputs`, whose labels of either kind are known `settle` ms after their event.
    Pure; goes on from `state`, a snapshot."""

    def __init__(self, rule: DriftRule, inputs: tuple[str, ...], settle: int, state: bytes | None = None):
        self.rule, self._inputs, self._settle = rule, inputs, settle
        self._watch: Watch | None = None
        self.reset()
        if state:
            s = unpack(state, _State)
            self._adwin, self._usual = Adwin("log-loss", rule.delta, s.adwin), s.usual
            self._first = s.first
            if s.watch:
                self._watch = Watch(rule, msgspec.json.decode(s.reference, type=Reference), s.watch)

    def reset(self) -> None:
        """Another champion: what is usual is to be learned anew."""
        self._adwin = Adwin("log-loss", self.rule.delta)
        self._watch, self._first = None, np.inf
        self._usual = np.empty((0, len(self._inputs) + 2))

    def add(
        self, ids: list[str], inputs: F64, champion: F64, labels: NDArray[np.bool_], at: I64, known: I64
    ) -> list[Signal]:
        """Take `k` examples: rows f64[k, inputs], the champion's scores f64[k], labels bool[k], and the times i64[k] of
        the events and of the labels, ms. Returns what moved, in what the champion saw."""
        seen = np.isfinite(champion)
        seen, self._first = settled(self._first, seen, at, known, self._settle)
        found = self._adwin.add(loss(champion[seen], labels[seen]), known[seen])
        both = np.column_stack((inputs, champion))
        if self._watch is not None:
            found += self._watch.add(both[seen], at[seen])  # without weights, as what is usual was learned
        else:
            self._usually(both, at, seen & (hash_ids(ids) % USUAL_SHARE == 0))
        return found

    def _usually(self, rows: F64, at: I64, some: NDArray[np.bool_]) -> None:
        """Learn what is usual, until there is enough of it to watch for drift."""
        self._usual = np.concatenate((self._usual, np.column_stack((rows, at))[some]))
        times = self._usual[:, -1]
        if len(times) >= USUAL_ROWS and times.max() - times.min() >= USUAL_DAYS * DAY:
            first = self._usual[np.argsort(times, kind="stable")]
            reference = Reference.of(first[:, :-1], (*self._inputs, "score"), first[:, -1].astype(np.int64))
            self._watch, self._usual = Watch(self.rule, reference), self._usual[:0]

    def snapshot(self) -> bytes:
        """The state; `Watching(rule, inputs, settle, snapshot)` goes on from it."""
        watch, reference = b"", b""
        if self._watch:
            watch, reference = self._watch.snapshot(), msgspec.json.encode(self._watch.reference)
        return pack(_State(self._adwin.snapshot(), watch, reference, self._usual, self._first))
