"""The demo of forecasts: series with days and weeks of which some jump; what was said, and what then came."""

import math
from collections import deque
from collections.abc import Mapping
from typing import ClassVar

from rich.console import RenderableType
from rich.text import Text

from schemas.decisions import Decision
from schemas.forecast import Forecast
from streaming.plot import INJECTED, Panel, Points, braille, day, draw
from streaming.shows import Run
from streaming.shows.daily import F64, Daily
from streaming.simulator import DAY

STEP, SEASON = 3_600_000, 24
HISTORY = 360
"""Observations of a series before anything is shown: fifteen days."""

HORIZON, JUDGED = 24, (1, 6, 12, 24)
"""Steps that are forecast, and those that are judged."""

JUMP, JUMPS = 0.45, 3
"""The share of a run after which every third series jumps to another level."""

RECENT = 2
"""Days of event time that the live figures cover."""


class Demo(Daily):
    """Series, the forecasts of each, and by day and step ahead the errors of all."""

    sets: ClassVar[Mapping[str, str]] = {"horizon": str(HORIZON), "level": "0.9", "every": "1h", "seasons": "1d,1w"}
    decision: ClassVar[type[Decision]] = Forecast

    def __init__(self, run: Run) -> None:
        super().__init__(run, "series", STEP, HISTORY)
        self.jump = self.history + round(JUMP * run.seconds * run.rate / self.count)
        self.said = [deque[Forecast](maxlen=10 * HORIZON) for _ in self.keys]
        self.errors: dict[tuple[int, int], list[float]] = {}  # day, steps ahead → errors, covered, how many
        self.naive = [[0.0, 0.0] for _ in self.keys]  # errors of yesterday's value as forecast, and how many
        self.now = 0

    def changed(self, index: int, regular: F64, noise: F64) -> F64:
        """The values: quieter on two days of seven, and some on another level after the jump."""
        quiet = 0.5 * regular - 0.5 if index // SEASON % 7 >= 5 else regular
        x = quiet + noise
        x[::JUMPS] += 1.5 * (index >= self.jump)
        return x

    def decided(self, decision: Forecast) -> None:
        """Judge what was said about this step before."""
        series, index = self.keys.index(decision.key), self.index(decision.at)
        value, before = self.value(series, index), self.value(series, index - SEASON)
        said, naive = self.said[series], self.naive[series]
        if math.isfinite(value - before):
            naive[0] += abs(value - before)
            naive[1] += 1
        for ahead in JUDGED:
            old = said[-ahead] if len(said) >= ahead else None
            if old is None or len(old.mean) < ahead or old.at != decision.at - ahead * STEP or not naive[0]:
                continue
            sums = self.errors.setdefault((index * STEP // DAY, ahead), [0.0, 0.0, 0.0])
            sums[0] += abs(value - old.mean[ahead - 1]) * naive[1] / naive[0]
            sums[1] += old.lower[ahead - 1] <= value <= old.upper[ahead - 1]
            sums[2] += 1
        said.append(decision)
        self.now = max(self.now, index)

    def figures(self, ahead: int, first: int, last: int) -> tuple[float, float]:
        """MASE and coverage of what was said so many steps ahead about days first to last; NaN where nothing was."""
        found = [sums for d in range(first, last + 1) if (sums := self.errors.get((d, ahead)))]
        error, covered, number = (sum(column) for column in zip(*found, strict=True)) if found else (0.0, 0.0, 0.0)
        return (error / number, covered / number) if number else (math.nan, math.nan)

    def _told(self, days: int) -> list[str]:
        """The figures of the last so many days by steps ahead, and whether the jump is past."""
        today = self.now * STEP // DAY
        found = [(ahead, *self.figures(ahead, today - days, today)) for ahead in JUDGED]
        told = [f"{h} h ahead: MASE {mase:.2f}, coverage {cover:.0%}" for h, mase, cover in found if mase == mase]
        jumped = [f"every third series has jumped on {day(self.at(self.jump))}"] if self.now >= self.jump else []
        return [*(told or ["nothing can be judged yet"]), *jumped]

    def line(self) -> str:
        """The figures of the last days by steps ahead."""
        return "; ".join(self._told(RECENT))

    def view(self, width: int) -> list[RenderableType]:
        """One series with what is forecast of it, and how good that was."""
        columns = 2 * max(min(width, 130) - 12, 20)
        ahead = [math.nan] * (columns - HORIZON)
        past = [self.value(0, i) for i in range(self.now - len(ahead) + 1, self.now + 1)]
        newest = next((f for f in reversed(list(self.said[0])) if f.mean), None)
        layers: list[tuple[list[float], str]] = [(past, "cyan")]
        if newest is not None:
            known = [value for value in past if math.isfinite(value)] or [0.0]
            room = max(known) - min(known)
            low, high = min(known) - room, max(known) + room
            for values, style in ((newest.lower, "dim"), (newest.upper, "dim"), (newest.mean, "bold yellow")):
                layers.append(([*ahead, *(v if low <= v <= high else math.nan for v in values)], style))
        intervals = f" with {newest.level:.0%} intervals" if newest else ""
        title = f"{self.keys[0]}: observed, and the next {HORIZON} hours{intervals}"
        note = f"all series, last {RECENT} days; MASE: error beside that of yesterday's value at this hour"
        return [Text(title, "bold"), braille(layers, 8), Text(note, "dim"), *map(Text, self._told(RECENT))]

    def told(self) -> list[str]:
        """The figures of the whole run by steps ahead."""
        return self._told((self.now - self.history) * STEP // DAY)

    def picture(self) -> str:
        """A series that jumps with what was said a day before, and the figures of all by day."""
        chosen = [f for f in list(self.said[0]) if f.mean and self.index(f.at) % HORIZON == 0]
        begin = self.index(chosen[0].at) if chosen else self.now
        observed = [(self.at(i), v) for i in range(begin, self.now + 1) if math.isfinite(v := self.value(0, i))]
        times = [[f.at + (k + 1) * STEP for k in range(len(f.mean))] for f in chosen]
        bands = [list(zip(t, f.lower, f.upper, strict=True)) for t, f in zip(times, chosen, strict=True)]
        said: Points = [p for t, f in zip(times, chosen, strict=True) for p in zip(t, f.mean, strict=True)]
        marks = [(self.at(self.jump), "jump injected", INJECTED)]
        drawn = {"observed": observed, "said": said}
        panels = [Panel(f"{self.keys[0]}, the last days", drawn, bands=bands, marks=marks)]
        first, today = -(-self.history * STEP // DAY), self.now * STEP // DAY
        for place, name in enumerate((f"MASE of {RECENT} days", f"coverage of {RECENT} days")):
            curves: dict[str, Points] = {}
            for h in JUDGED:
                found = [(d, self.figures(h, d - RECENT, d)[place]) for d in range(first, today)]
                curves[f"{h} h ahead"] = [(self.at((d + 1) * SEASON), v) for d, v in found if math.isfinite(v)]
            panels.append(Panel(name, curves, marks=marks, top=1.0 if place else None))
        return draw(
            "forecast: what was said, and what came", "what was said at midnight about the day; event time", panels
        )
