"""The learners of a workload at work, each with the calibration of what it says: whom the teacher gives examples.

A learner is known by the name of the lineage that it compiles to, `W-name`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.calibration import Platt
from models.learners import Learner
from models.learning import Learning
from models.snapshot import pack, unpack
from schemas.errors import ModelRejected

F64 = NDArray[np.float64]

MEMORY = 100_000.0
"""Examples after which one counts 1/e in a calibration."""

CANARY = 512
"""Newest rows on which a learner and what it is compiled to must agree."""


class _State(msgspec.Struct, tag="pupils/2"):
    learners: dict[str, bytes]
    platts: dict[str, bytes]
    ranges: dict[str, tuple[int, int]]
    inputs: tuple[str, ...]
    canary: NDArray[np.float32]


class Pupils:
    """Those of `declared`, by lineage, on rows of the columns `inputs`. Pure; at first they have learned nothing."""

    def __init__(self, declared: Mapping[str, Learner], inputs: tuple[str, ...]):
        self._declared, self._inputs = declared, inputs
        self._learners: dict[str, Learning] = {}
        self._platts: dict[str, Platt] = {}
        self._ranges: dict[str, tuple[int, int]] = {}  # event times of what each has been given, ms
        self._canary = np.empty((0, len(inputs)), np.float32)
        self.start(declared)

    def start(self, names: Collection[str]) -> None:
        """Let these begin with nothing learned."""
        for name in names:
            self._learners[name] = self._declared[name].start(self._inputs)
            self._platts[name] = Platt(MEMORY)
            self._ranges.pop(name, None)

    def learned(self) -> dict[str, int]:
        """How many examples each has been given."""
        return {name: learner.learned for name, learner in self._learners.items()}

    def learn(
        self, ids: Sequence[str], rows: F64, labels: NDArray[np.bool_], weight: F64, at: NDArray[np.int64]
    ) -> dict[str, F64]:
        """Learn `k` examples: rows f64[k, inputs], labels bool[k], weight f64[k], event times i64[k] ms. What each said
        of them before it did, f64[k]; NaN of a row that is not finite, which teaches nothing."""
        with np.errstate(over="ignore"):
            finite = np.isfinite(small := rows.astype(np.float32)).all(axis=1)
        self._canary = np.concatenate((self._canary, small[finite]))[-CANARY:]
        begin, end = int(at.min()), int(at.max())
        said = {name: np.full(len(labels), np.nan) for name in self._learners}
        for name, learner in self._learners.items():
            scores = learner.predict(small[finite])
            said[name][finite] = self._platts[name].learn(scores, labels[finite], weight[finite])
            learner.learn(ids, rows, labels.astype(np.float64), weight)
            first, last = self._ranges.get(name, (begin, end))
            self._ranges[name] = min(first, begin), max(last, end)
        return said

    def compile(self, name: str) -> Artifact:
        """The model of one as of now, its range in its recipe; ModelRejected where there is none, or it says something
        else than the learner."""
        platt = self._platts[name]
        made = self._learners[name].compile(name, self._canary, platt.slope, platt.intercept)
        return replace(made, recipe={**made.recipe, "range": self._ranges.get(name)})

    def snapshot(self) -> bytes:
        """The state, for `restore`."""
        learners = {name: learner.snapshot() for name, learner in self._learners.items()}
        platts = {name: platt.snapshot() for name, platt in self._platts.items()}
        return pack(_State(learners, platts, self._ranges, self._inputs, self._canary))

    def restore(self, data: bytes) -> dict[str, str]:
        """Go on from a snapshot; of whom it says nothing starts anew. Those whose snapshot is not taken up, with why:
        their declaration has changed, or is gone."""
        state, refused = unpack(data, _State), dict[str, str]()
        for name, snapshot in state.learners.items():
            try:
                if name not in self._learners:
                    raise ModelRejected(f"found a snapshot of {name!r}, expected one of {', '.join(self._learners)}")
                self._learners[name].restore(snapshot)
                self._platts[name] = Platt.restore(state.platts[name])
                if name in state.ranges:
                    self._ranges[name] = state.ranges[name]
            except ModelRejected as error:
                refused[name] = str(error)
        if state.inputs == self._inputs:
            self._canary = state.canary
        return refused
