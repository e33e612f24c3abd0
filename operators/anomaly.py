"""Anomaly detection a sensor at a time: `Detector(alarms="1/7d")` is what a workload declares.

Each reading is scored by `DETECTORS` side by side, of which some are for one value and some for several. Their excesses
over their own rolling extremes are combined, and the score is 1 - p of that among the sensor's own recent ones. The
alarm's threshold keeps a declared budget of alarms, and verdicts move it.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from operators.kernels import anomaly as A
from operators.kernels import anomaly_many as many
from operators.kernels import anomaly_one as one
from operators.kernels import anomaly_step
from schemas.errors import DefinitionError
from schemas.time import duration

Floats = NDArray[np.float64]

VERSION = 4
"""Of the layout of a state and of what its numbers mean."""

DETECTORS = ("level", "forecast", "seasonal", "drift", "spread", "half_space",
             "shape", "stuck", "distance", "shift", "jump")  # fmt: skip
FLAGS = ("gap", "duplicate", "late", "stuck", "scale", "missing", "repeat", "renamed", "ignored")
"""What bit 0, 1, … of the column `flags` says of a reading."""
STATES = ("ok", "warming", "cannot")
"""What 0, 1, … in the column `state` says of a decision."""


@dataclass(frozen=True)
class Detector:
    """Scores a sensor's readings by what it did before.

    alarms: how many false alarms a sensor may give, as "1/7d"; values: most values of a reading (0: only sensors with
    one value; up to 16); warming: readings before the first alarm; damping: readings over which a surprise damps
    those that follow it.
    """

    alarms: str = "1/7d"
    values: int = 0
    warming: int = 128
    damping: int = 200

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[1-9]\d*/.+", self.alarms):
            raise DefinitionError(f"Detector(alarms={self.alarms!r}): expected alarms a time, as '1/7d'")
        duration(self.alarms.split("/")[1], f"Detector(alarms={self.alarms!r})")
        for name, least, most in (("values", 0, many.LIMIT), ("warming", 64, 100_000), ("damping", 2, 100_000)):
            found = getattr(self, name)
            if not isinstance(found, int) or not least <= found <= most:
                raise DefinitionError(f"Detector({name}={found!r}): expected a whole number from {least} to {most}")

    named = "values"
    """Event field whose names are told too: values are matched by name, one that is absent is missing."""
    labelled = True
    """A verdict (label false: the alarm was none) raises its sensor's threshold, a confirmed alarm lowers it."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Columns it writes.

        score 0-1; alarm 0 or 1; state (STATES); flags (bits, FLAGS); threshold (least score of an alarm); then how
        far each detector, and with several values each value, was beyond its bounds (0: within).
        """
        each = tuple(f"value_{i}" for i in range(self.values))
        return ("score", "alarm", "state", "flags", "threshold", *DETECTORS, *each)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Numeric event fields that it reads: `value`; with several values those too, by name, and their number."""
        each = tuple(f"values.{i}" for i in range(self.values))
        return ("value", *each, "values.n") if self.values else ("value",)

    @property
    def words(self) -> int:
        """float64 words of one sensor's state."""
        return max(one.WORDS, many.WORDS) if self.values else one.WORDS

    @cached_property
    def fingerprint(self) -> str:
        """Changes with whatever makes an old state unreadable."""
        return hashlib.sha256(f"anomaly {VERSION} {self.words} {self.values}".encode()).hexdigest()[:16]

    @property
    def rate(self) -> float:
        """Alarms a millisecond."""
        count, time = self.alarms.split("/")
        return int(count) / duration(time)

    @cached_property
    def _rules(self) -> Floats:
        return np.array([self.rate, self.warming, self.damping], np.float64)

    @cached_property
    def _zero(self) -> Floats:
        """States of a sensor with one value and of one with several that have just begun, f64[2, words]."""
        zero = np.zeros((2, self.words))
        zero[:, A.LENGTH] = A.FIRST
        zero[:, [A.RECORD, *range(A.NOW, A.BOUND)]] = -np.inf
        zero[:, A.BOUND : A.TAIL] = np.nan
        singles = zero.view(np.float32)
        singles[0, 2 * A.RINGS : 2 * one.OWN] = singles[1, 2 * A.RINGS : 2 * many.OWN] = -np.inf
        singles[0, 2 * one.DAY : 2 * one.BASIS] = np.nan
        zero[0, one.LAST] = np.nan
        zero[0, [one.INVERSE + A.cell(i, i) for i in range(one.INPUTS)]] = 100.0
        zero[1, many.LAST : many.LAST + many.LIMIT] = np.nan
        for matrix in (many.LEVELS, many.CHANGES) if self.values else ():
            zero[1, [matrix + A.cell(i, i) for i in range(many.LIMIT)]] = 1.0
        return zero

    def zero(self, states: Floats) -> None:
        """Set states f64[u, words] to those of sensors never seen."""
        states[:, : self.words] = self._zero[0]

    def step(
        self, states: Floats, slot: NDArray[np.int32], port: NDArray[np.uint8], at: NDArray[np.int64], label: Floats,
        columns: Floats, fresh: NDArray[np.bool_], out: Floats,
    ) -> None:  # fmt: skip
        """Score k rows in order into out f64[k, f]; row i is of the sensor states[slot[i]].

        port 0: a reading, columns f64[k, c] by `inputs` at ms, then numbers that stand for the names of its values
        (without those its first, second … value is meant); port 1: a verdict (label 1 or 0). Rows that are not fresh
        are left out.
        """
        rows = (slot, port, at, label, fresh)
        anomaly_step.step(states.reshape(-1), states.shape[1], rows, columns, self._zero, self._rules, out)
