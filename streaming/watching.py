"""Watching for drift: does the world still look as the champion knew it, and does it err as it used to?

Beside the teacher, which hands it every example. Windows of event time are compared, column by column, with what is
usual, which is what the champion was trained on; and the champion's loss is watched by ADWIN.
"""

from collections.abc import Mapping

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

USUAL_DAYS, USUAL_ROWS, USUAL_MOST = 14, 2_000, 4_096
"""What is usual is learned of so many days and rows: two whole weeks, so that a Sunday is no drift. Where there are
more rows than the last, every second one stays, by chance."""

AT, KNOWN, HASH = -3, -2, -1
"""Columns of the rows of which is learned what is usual, behind the inputs."""


class _State(msgspec.Struct, tag="watching/3"):
    losses: dict[str, tuple[bytes, float]]
    watch: bytes
    reference: bytes
    recent: NDArray[np.float64]
    said: dict[str, NDArray[np.float64]]
    share: int
    begun: float


class Watching:
    """Of one workload with the columns `inputs`, whose labels of either kind are known `settle` ms after their event.
    Pure; goes on from `state`, a snapshot.

    The loss of each lineage is followed, also of those in shadow, and that of the champion told of. What is usual in
    columns is what the champion was trained on, where a `Reference` tells, or else the newest examples that it
    has said anything of, in shadow too: of one that was learned here, those were the last that it learned.
    """

    def __init__(self, rule: DriftRule, inputs: tuple[str, ...], settle: int, state: bytes | None = None):
        self.rule, self._inputs, self._settle = rule, inputs, settle
        self._recent = np.empty((0, len(inputs) - AT))
        self._said: dict[str, F64] = {}
        self._share, self._begun = 1, np.inf
        self._losses: dict[str, tuple[Adwin, float]] = {}  # and since when there are settled ones
        self._watch: Watch | None = None
        self.reset("")
        if state:
            s = unpack(state, _State)
            self._recent, self._said, self._share, self._begun = s.recent, s.said, s.share, s.begun
            self._losses = {name: (Adwin("log-loss", rule.delta, x), first) for name, (x, first) in s.losses.items()}
            if s.watch:
                self._watch = Watch(rule, msgspec.json.decode(s.reference, type=Reference), s.watch)

    def reset(self, champion: str, reference: Reference | None = None) -> None:
        """Another champion, with what is known of its training."""
        self._watch = None
        if reference is not None and reference.names == (*self._inputs, "score"):
            self._watch = Watch(self.rule, reference)
        self._usually(champion)

    def add(
        self, ids: list[str], inputs: F64, scores: Mapping[str, F64], champion: str, labels: NDArray[np.bool_],
        at: I64, known: I64,
    ) -> list[Signal]:  # fmt: skip
        """Take `k` examples: rows f64[k, inputs], what each lineage said of them f64[k], labels bool[k], and the times
        i64[k] of the events and of the labels, ms. Returns what moved, in what the champion saw."""
        with np.errstate(over="ignore"):
            inputs = inputs.astype(np.float32).astype(np.float64)  # as models read them, and were trained on them
        begun, self._begun = settled(self._begun, np.ones(len(at), np.bool_), at, known, self._settle)
        found = list[Signal]()
        for name, said in scores.items():
            adwin, first = self._losses.get(name) or (Adwin("log-loss", self.rule.delta), np.inf)
            seen, first = settled(first, np.isfinite(said), at, known, self._settle)
            changed = adwin.add(loss(said[seen], labels[seen]), known[seen])
            self._losses[name] = adwin, first
            if name == champion:
                found += changed
                if self._watch is not None:  # without weights, as what is usual was learned
                    found += self._watch.add(np.column_stack((inputs, said))[seen], at[seen])
        hashes = (hash_ids(ids) >> np.uint64(16)).astype(np.float64)
        some = begun & (hashes % self._share == 0)
        self._keep(np.column_stack((inputs, at, known, hashes))[some], {name: x[some] for name, x in scores.items()})
        self._usually(champion)
        return found

    def _keep(self, rows: F64, scores: Mapping[str, F64]) -> None:
        """Keep the newest rows: of the days that tell what is usual, or of more where those have too few."""
        old, new = np.full(len(self._recent), np.nan), np.full(len(rows), np.nan)
        names = sorted({*self._said, *scores})
        said = {name: np.concatenate((self._said.get(name, old), scores.get(name, new))) for name in names}
        rows = np.concatenate((self._recent, rows))
        stays = rows[:, KNOWN] >= rows[:, KNOWN].max(initial=0) - (USUAL_DAYS + 1) * DAY
        if (there := stays.sum()) < USUAL_ROWS:
            stays[-USUAL_MOST:] = True
            self._share = max(self._share // 2, 1) if 2 * there < USUAL_ROWS else self._share
        while stays.sum() > USUAL_MOST:
            self._share *= 2
            stays &= rows[:, HASH] % self._share == 0
        self._recent = rows[stays]
        self._said = {name: x[stays] for name, x in said.items() if np.isfinite(x[stays]).any()}
        self._losses = {name: x for name, x in self._losses.items() if name in self._said or name in scores}

    def _usually(self, champion: str) -> None:
        """Learn what is usual, where there is enough of it to watch for drift."""
        if self._watch is not None or champion not in self._said:
            return
        both = np.column_stack((self._recent[:, :AT], self._said[champion], self._recent[:, AT:]))
        both = both[np.isfinite(self._said[champion])]
        if len(both) >= USUAL_ROWS and np.ptp(both[:, KNOWN]) >= USUAL_DAYS * DAY:
            at = np.maximum.accumulate(both[:, AT]).astype(np.int64)  # as they come to the watch
            self._watch = Watch(self.rule, Reference.of(both[:, :AT], (*self._inputs, "score"), at))

    def snapshot(self) -> bytes:
        """The state; `Watching(rule, inputs, settle, snapshot)` goes on from it."""
        watch, reference = b"", b""
        if self._watch:
            watch, reference = self._watch.snapshot(), msgspec.json.encode(self._watch.reference)
        losses = {name: (adwin.snapshot(), first) for name, (adwin, first) in self._losses.items()}
        return pack(_State(losses, watch, reference, self._recent, self._said, self._share, self._begun))
