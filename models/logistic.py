"""Logistic regression at work: one row of numbers that learns each example as River's does, and folds into ONNX."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from models.kernels import logistic as kernels
from models.learning import F32, F64, Arrays, Learning, Settings, same

if TYPE_CHECKING:
    from models.compile import Calibration


class LogisticLearning(Learning):
    """`rate` is the step of weights and intercept."""

    def __init__(self, name: str, settings: Settings, inputs: tuple[str, ...], rate: float, l2: float):
        super().__init__(name, settings, inputs)
        self._rate, self._l2 = rate, l2
        self._state = np.zeros(2 + 3 * len(inputs))

    def _scores(self, rows: F32) -> F64:
        out = np.empty(len(rows))
        kernels.raw_scores(self._state, rows, out)
        return np.asarray(np.exp(-np.logaddexp(0.0, -out)))

    def _learn(self, ids: Sequence[str], rows: F32, y: F64, weight: F64) -> None:
        kernels.learn(self._state, rows, y, weight, self._rate, self._l2)

    def _arrays(self) -> Arrays:
        return {"state": self._state}

    def _take(self, arrays: Arrays) -> None:
        state = same(arrays, self._arrays())["state"]
        if not np.isfinite(state).all():
            raise ValueError("found nan or inf, expected numbers")
        self._state[:] = state

    def _onnx(self, calibration: "Calibration") -> bytes:
        from models import compile as compiler

        if not self._state[0]:
            raise self._nothing()
        mean, variance, weight = self._state[2:].reshape(3, -1)
        folded = np.divide(weight, np.sqrt(variance), out=np.zeros_like(weight), where=variance > 0)
        return compiler.linear(folded, float(self._state[1] - folded @ mean), calibration)
