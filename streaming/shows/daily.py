"""What the demos of sensors and series share: keys whose values follow a daily profile, with noise."""

import math
from collections.abc import Iterator, Mapping
from itertools import count

import numpy as np
from numpy.typing import NDArray

from schemas.topics import Topics
from streaming.shows import Run, Taker
from streaming.simulator import DAY, Record

F64 = NDArray[np.float64]

PACE = 25.0
"""Values of a key in a second, about: there are so many keys that it comes to the rate."""

AT_ONCE = 17_000
"""Events that are published at once before anything is shown, at most, about."""

MEMORY = 3000
"""Values of a key that are kept for the picture."""

RHO = 0.6
"""Autocorrelation of the noise."""


class Daily:
    """Keys with a value each `step` ms of event time; number i of a key's values is of `at(i)`."""

    before: float

    def __init__(self, run: Run, name: str, step: int, history: int) -> None:
        """`history` steps of each key come before the rest, fewer where there are many keys. `name` is the event's
        field with the key."""
        self.run, self.name, self.step = run, name, step
        self.count = max(4, round(run.rate / PACE))
        self.history = max(160, min(history, AT_ONCE // self.count))
        self.before = self.history * self.count / run.rate
        self.start = run.start(math.ceil((self.before + run.seconds) * run.rate / self.count * step / DAY) + 1)
        self.keys = [f"{name}-{number:02d}" for number in range(self.count)]
        self._values: dict[int, list[float]] = {}  # step → value of each key
        rng = np.random.default_rng(7)
        low, high = (
            np.array([[0.6], [0.1], [0], [0], [0.08], [0]]),
            np.array([[1.2], [0.4], [6.28], [6.28], [0.15], [2]]),
        )
        self._a, self._b, self._p, self._q, self.noise, unit = rng.uniform(low, high, (6, self.count))
        self.unit, self.size = 10.0**unit, self._a + self._b

    def at(self, index: int) -> int:
        """Event time (ms) of a step."""
        return self.start + index * self.step

    def index(self, at: int) -> int:
        """The step of an event time."""
        return (at - self.start) // self.step

    def value(self, key: int, index: int) -> float:
        """A value that was made; NaN where it is forgotten or was none yet."""
        return made[key] if (made := self._values.get(index)) else math.nan

    def takers(self, topics: Topics) -> Mapping[str, Taker]:
        """Nothing but decisions is read."""
        return {}

    def owed(self) -> int:
        """Nothing beside decisions."""
        return 0

    def changed(self, index: int, regular: F64, noise: F64) -> F64:
        """Values of a step, f64[keys], in units of their own: where something is injected, others than the sum."""
        return regular + noise

    def records(self) -> Iterator[Record]:
        """Events without end."""
        rng = np.random.default_rng(self.start // DAY)
        x, sent = np.zeros(self.count), 0
        for index in count():
            x = RHO * x + math.sqrt(1 - RHO * RHO) * rng.standard_normal(self.count)
            at = self.at(index)
            angle = 2 * math.pi * (at % DAY) / DAY
            regular = self._a * np.sin(angle + self._p) + self._b * np.sin(2 * angle + self._q)
            made = self.unit * (4 + self.changed(index, regular, self.noise * x))
            self._values[index] = values = made.round(3).tolist()
            self._values.pop(index - MEMORY, None)
            for key, value in zip(self.keys, values, strict=True):
                event = f'{{"id":"{self.run.prefix}{sent:07d}","at":{at},"{self.name}":"{key}","value":{value}}}'
                yield Record(sent / self.run.rate, "events", key, event.encode())
                sent += 1
