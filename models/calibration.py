"""Calibration: scores become probabilities, learned online from labels that came later.

Behind the join of outcomes and before losses are compared: a model that was trained on thinned negatives, or of
another month, orders events well and states wrong probabilities; a Brier score punishes that, and the promotion
test refuses it. Platt scaling (1999) is p' = 1 / (1 + exp(-(a · logit(p) + b))), learned here one example at a time by
online Newton steps, at 1/n like the batch fit; `slope` and `intercept` can be folded into a compiled model.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.kernels.evaluation import platt
from models.snapshot import pack, unpack
from schemas.errors import DefinitionError

F64 = NDArray[np.float64]
CLIP = 1e-6  # scores are served with six digits


class _State(msgspec.Struct, tag="platt/1"):
    memory: float
    fit: NDArray[np.float64]


class Platt:
    """Online Platt scaling that starts with p' = p. `memory`: examples after which one counts 1/e; inf forgets none."""

    def __init__(self, memory: float = np.inf):
        if not memory >= 1:
            raise DefinitionError(f"Platt(memory={memory!r}): expected a number of examples, 1 or more")
        self._s = _State(float(memory), np.array([1.0, 0.0, 1.0, 0.0, 1.0]))

    @property
    def slope(self) -> float:
        """Factor of the log-odds, above 0."""
        return float(self._s.fit[0])

    @property
    def intercept(self) -> float:
        """What is added to the log-odds."""
        return float(self._s.fit[1])

    def __call__(self, scores: F64) -> F64:
        """Calibrated probabilities of scores f64[k] in 0–1, as known now."""
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-(self.slope * _logit(scores) + self.intercept))))

    def learn(self, scores: F64, labels: NDArray[np.bool_], weight: F64 | None = None) -> F64:
        """Learn `k` examples in order; returns what each would have been calibrated to before its own label, f64[k].

        scores f64[k] in 0–1, NaN for an example to leave out (NaN comes back); labels bool[k]; weight f64[k].
        """
        s = self._s
        out, rows = np.full(len(scores), np.nan), np.flatnonzero(np.isfinite(scores))
        w = np.ones(len(rows)) if weight is None else np.asarray(weight, np.float64)[rows]
        out[rows] = platt(s.fit, _logit(scores[rows]), labels[rows].astype(np.float64), w, np.exp(-1 / s.memory))
        return out

    def snapshot(self) -> bytes:
        """The state, for `Platt.restore`."""
        return pack(self._s)

    @classmethod
    def restore(cls, data: bytes) -> "Platt":
        """The one that `snapshot` made `data` of; raises ModelRejected for other bytes."""
        s = unpack(data, _State)
        made = cls(s.memory)
        made._s = s
        return made


def _logit(scores: F64) -> F64:
    p = np.clip(scores, CLIP, 1 - CLIP)
    return np.asarray(np.log(p / (1 - p)))
