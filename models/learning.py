"""A learner at work: the part that all of them share, between declaration (`learners`) and arithmetic (`kernels`).

Rows are rounded to float32 before anything is learned or predicted, as they come to ONNX: so the learner and what
it is compiled to see the same numbers, and fall on the same side of a threshold.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.snapshot import pack, unpack
from schemas.errors import DefinitionError, ModelRejected

if TYPE_CHECKING:
    from models.compile import Calibration

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
Arrays = dict[str, NDArray[np.generic]]
LIMIT = 1 << 28  # bytes of a state
HEAVIEST = 1e6  # weight of an example
Settings = Mapping[str, float | int | str | None]


class _State(msgspec.Struct, tag="learner/1"):
    name: str
    settings: dict[str, float | int | str | None]
    inputs: tuple[str, ...]
    learned: int
    refused: int
    arrays: dict[str, NDArray[np.float64]]  # of any number type


class Learning(ABC):
    """What lives in a resident operator. Not for two threads at once.

    learned   examples given to `learn`, also those that a learner thins out
    refused   those of them with a NaN, an infinity or no label 0 or 1,
              or a weight that is not above 0 and at most 1e6: nothing was learned from those
    """

    def __init__(self, name: str, settings: Settings, inputs: tuple[str, ...]):
        if not inputs or len(set(inputs)) < len(inputs):
            raise DefinitionError(f"learner {name!r}: found inputs {inputs}, expected one or more different names")
        self.name, self.settings, self.inputs = name, dict(settings), inputs
        self.learned = self.refused = 0

    def predict(self, x: NDArray[np.floating[Any]]) -> F64:
        """f64[k], the probability of class 1 of rows float[k, d], as known now."""
        return self._scores(self._rows(x))

    def learn(self, ids: Sequence[str], x: NDArray[np.floating[Any]], y: F64, weight: F64) -> None:
        """Learn `k` examples in their order: event ids, rows float[k, d], labels f64[k] 0 or 1, weights f64[k]."""
        rows, k = self._rows(x), len(ids)
        if len(rows) != k or y.shape != (k,) or weight.shape != (k,):
            found = f"{k} ids, rows {rows.shape}, labels {y.shape}, weights {weight.shape}"
            raise DefinitionError(f"learner {self.name!r}: found {found}, expected one of each an example")
        good = np.isfinite(rows).all(axis=1) & ((y == 0) | (y == 1)) & (weight > 0) & (weight <= HEAVIEST)
        self.learned += k
        if not good.all():
            self.refused += int(k - good.sum())
            ids = [ids[i] for i in np.flatnonzero(good)]
            rows, y, weight = rows[good], y[good], weight[good]
        self._learn(ids, rows, np.asarray(y, np.float64), np.asarray(weight, np.float64))

    def snapshot(self) -> bytes:
        """Everything learned, for `restore`; equal states give equal bytes."""
        counts = self.learned, self.refused
        data = pack(_State(self.name, self.settings, self.inputs, *counts, self._arrays()))  # type: ignore[arg-type]
        return zlib.compress(data, 1)

    def restore(self, data: bytes) -> None:
        """Take up a snapshot of the same declaration; ModelRejected, and nothing changed, for any other bytes."""
        try:
            state = unpack(_unzipped(data), _State)
        except zlib.error as error:
            what = f"found {error}, expected the bytes that `snapshot` gave"
            raise ModelRejected(f"snapshot of learner {self.name!r}: {what}; start without it, or replay") from error
        for part, found in (("name", state.name), ("settings", state.settings), ("inputs", state.inputs)):
            expected = getattr(self, part)
            if found != expected:
                what = f"found {part} {found!r}, expected {expected!r}"
                raise ModelRejected(f"snapshot of learner {self.name!r}: {what}; start without it, or replay")
        try:
            self._take(dict(state.arrays))
        except (KeyError, IndexError, ValueError) as error:
            raise ModelRejected(f"snapshot of learner {self.name!r}: {error!r}; start without it, or replay") from error
        self.learned, self.refused = state.learned, state.refused

    def compile(self, name: str, rows: F32, slope: float = 1.0, intercept: float = 0.0) -> Artifact:
        """The model as of now, sigmoid(slope · logit(p) + intercept), checked on canary rows float[n, d].

        They become the golden rows and the baseline. Raises ModelRejected where ONNX scores differently, and before
        there is anything to compile.
        """
        from models.compile import Calibration, checked  # brings onnx and ONNX Runtime

        calibration, canary = Calibration(slope, intercept), self._rows(rows)
        if not len(canary) or not np.isfinite(canary).all():
            raise ModelRejected(f"learner {self.name!r}: found {len(canary)} canary rows, expected some, all finite")
        recipe = {"how": f"models.learners.{self.name}", "settings": self.settings, "learned": self.learned}
        recipe |= {"calibration": [slope, intercept]}
        scores = calibration(self._scores(canary))
        return checked(name, self._onnx(calibration), self.inputs, canary, scores, recipe)

    def _rows(self, x: NDArray[np.floating[Any]]) -> F32:
        if x.ndim != 2 or x.shape[1] != len(self.inputs):
            raise DefinitionError(f"learner {self.name!r}: found rows {x.shape}, expected [k, {len(self.inputs)}]")
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(x, np.float32)

    def _nothing(self) -> ModelRejected:
        return ModelRejected(f"learner {self.name!r}: found {self.learned} examples, expected more; compile it later")

    @abstractmethod
    def _scores(self, rows: F32) -> F64: ...

    @abstractmethod
    def _learn(self, ids: Sequence[str], rows: F32, y: F64, weight: F64) -> None: ...

    @abstractmethod
    def _arrays(self) -> Arrays: ...

    @abstractmethod
    def _take(self, arrays: Arrays) -> None:
        """Check the arrays and take them; KeyError, IndexError or ValueError where they cannot be this learner's."""

    @abstractmethod
    def _onnx(self, calibration: "Calibration") -> bytes: ...


def _unzipped(data: bytes) -> bytes:
    """At most LIMIT bytes of a whole zlib stream, which has a checksum; zlib.error for anything else."""
    stream = zlib.decompressobj()
    found = stream.decompress(data, LIMIT)
    if not stream.eof or stream.unused_data:
        raise zlib.error(f"{len(data)} bytes, cut, with more behind them, or of more than {LIMIT}")
    return found


def same(arrays: Arrays, like: Arrays) -> Arrays:
    """`arrays`, if they have the names, dtypes and shapes of `like`; else ValueError."""
    found, expected = ({n: (a.dtype.str, a.shape) for n, a in part.items()} for part in (arrays, like))
    if found != expected:
        raise ValueError(f"found arrays {found}, expected {expected}")
    return arrays
