"""The keyed states that a stage keeps from call to call."""

import numpy as np
from numpy.typing import NDArray

from operators.kernels.tables import Rows
from operators.keyed import conform_rows
from operators.log import Log
from schemas.frames import Request
from streaming.plan import Stage

F64 = NDArray[np.float64]


class Table:
    """The states of a stage's keys, a row for each: Java says which key has which row, and when it wants them back:
    whole, or what came for them since they were."""

    def __init__(self, stage: Stage):
        features = stage.features
        self._features = features
        names = [f"name {i}" for _, room in stage.names for i in range(room)]
        self._log = Log((*features.inputs, *names), features.width)
        self.states = np.empty((0, features.width))
        self.keys: list[str] = []

    def admit(self, request: Request) -> None:
        """Give rows to the keys that come in."""
        rows = request.rows
        if not len(rows):
            return
        room = int(rows.max()) + 1
        if room > len(self.states):
            more = np.empty((max(room, 2 * len(self.states)), self._features.width))
            more[: len(self.states)] = self.states
            self.keys += [""] * (len(more) - len(self.keys))
            self.states = more
            self._log.resize(len(more))
        self.states[rows] = self._features.unpack(request.state_bytes(), request.state_length)
        for row, key in zip(rows.tolist(), request.keys, strict=True):
            self.keys[row] = key.decode(errors="replace")
        if request.log_length.any():
            came = conform_rows(self._log.read(request.log_bytes(), request.log_length, rows))
            self._features.update(self.states, came, np.empty((len(came.slot), len(self._features.names))))
        self._log.begin(rows)

    def fold(self, rows: Rows, out: F64) -> NDArray[np.bool_]:
        """Fold records into their rows; features to `out`. Which of them were fresh."""
        rows = conform_rows(rows)
        fresh = self._features.update(self.states, rows, out)
        self._log.enter(rows, fresh)
        return fresh

    def hand_over(self, rows: NDArray[np.int32]) -> tuple[bytes | memoryview, NDArray[np.int32]]:
        """Stored states of `rows` or what came for them, and the length of each."""
        if not len(rows):
            return b"", rows
        due = self._log.due(rows)
        written, length = self._log.write(rows, due, *self._features.pack(self.states[due]))
        return written.data.cast("B"), length
