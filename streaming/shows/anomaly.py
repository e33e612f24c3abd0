"""The demo of anomalies: sensors of which each goes wrong in known ways at known times; which are caught, and when."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from operators.anomaly import Detector
from operators.track import Tracked
from schemas.decisions import Decision, Scored
from streaming.plot import MOVED, Panel, braille, draw
from streaming.shows import Run
from streaming.shows.daily import F64, Daily

STEP = 900_000
HISTORY = 816
"""Readings before anything is shown, 8.5 days: the detectors know a day's season after 8."""

KINDS = {"spike": 1, "dip": 2, "level": 24, "stuck": 24, "noise": 24, "flat": 48}
"""What is injected, and for how many readings."""

EVERY, AFTER = 500, 8
"""A sensor goes wrong once in so many readings; an alert so soon after an anomaly's end is still about it."""

SHOWN = 3
"""Sensors with a chart: those that go wrong now and next."""


@dataclass
class Injected:
    """An anomaly of `sensor` in readings begin to end - 1, where it stood at `held`; `after`: in which of them it was
    noticed, None: not yet."""

    kind: str
    sensor: int
    begin: int
    end: int
    held: float
    after: int | None = None
    reasons: str = ""

    def told(self, now: int) -> tuple[str, str]:
        """What became of it by reading `now`, and a colour."""
        if self.after is not None:
            return f"caught after {_readings(self.after)}", "green"
        return ("missed", "red") if now >= self.end + AFTER else ("…", "yellow")


class Demo(Daily):
    """Sensors, what is injected into their readings, and the alerts."""

    sets: ClassVar[Mapping[str, str]] = {"alarms": "1/2d", "values": "0"}
    decision: ClassVar[type[Decision]] = Scored

    def __init__(self, run: Run) -> None:
        super().__init__(run, "sensor", STEP, HISTORY)
        (block,) = run.workload.blocks
        assert isinstance(block, Tracked)
        assert isinstance(block.tracker, Detector)
        self.detector = block.tracker
        self.injected: list[Injected] = []
        self.alerts: list[list[int]] = [[] for _ in self.keys]  # readings
        self.false = self.now = 0  # false alerts, newest decided reading

    def changed(self, index: int, regular: F64, noise: F64) -> F64:
        """The readings, with the anomalies that are due."""
        x = regular + noise
        for sensor in range(self.count):
            due = index - self.history - 5 - sensor * EVERY // self.count
            if due >= 0 and due % EVERY == 0:
                kind = list(KINDS)[(due // EVERY + sensor) % len(KINDS)]
                self.injected.append(Injected(kind, sensor, index, index + KINDS[kind], float(x[sensor])))
        for found in self.injected[-self.count :]:
            if index < found.end:
                size, rest = 2.0 * self.size[found.sensor], noise[found.sensor]
                x[found.sensor] = {
                    "spike": x[found.sensor] + 0.7 * size, "dip": x[found.sensor] - 0.7 * size, "stuck": found.held,
                    "level": x[found.sensor] + 0.6 * size, "noise": x[found.sensor] + 3 * rest, "flat": rest,
                }[found.kind]  # fmt: skip
        return x

    def decided(self, decision: Scored) -> None:
        """Set an alert against what was injected."""
        sensor, index = self.keys.index(decision.key), self.index(decision.at)
        self.now = max(self.now, index)
        if decision.action != "alert" or index < self.history:
            return
        self.alerts[sensor].append(index)
        about = [i for i in self.injected if i.sensor == sensor and i.begin <= index < i.end + AFTER]
        self.false += not about
        if about and about[-1].after is None:
            about[-1].after, about[-1].reasons = index - about[-1].begin + 1, ", ".join(decision.reasons)

    def begun(self) -> list[Injected]:
        """The anomalies that the decisions have come to."""
        return [found for found in list(self.injected) if found.begin <= self.now]

    def line(self) -> str:
        """What was caught so far."""
        told = [found.told(self.now)[0].split()[0] for found in self.begun()]
        counts = f"anomalies injected {len(told)}, caught {told.count('caught')}, missed {told.count('missed')}"
        allowed = max(self.now + 1 - self.history, 0) * self.count * STEP * self.detector.rate
        return f"{counts}; false alerts {self.false}, {allowed:.0f} allowed ({self.detector.alarms} a sensor)"

    def view(self, width: int) -> list[RenderableType]:
        """Charts of the sensors that go wrong now, and what became of the latest anomalies."""
        begun = self.begun()
        first = begun[(len(begun) - 1) // SHOWN * SHOWN].sensor if begun else 0
        charts: list[RenderableType] = []
        for sensor in ((first + k) % self.count for k in range(SHOWN)):
            charts += [Text(self.keys[sensor], "bold"), self._chart(sensor, 2 * max(min(width, 130) - 12, 20))]
        table = Table("injected", "sensor", "", "reasons of the alert", box=None, header_style="dim")
        for found in begun[:-7:-1]:
            table.add_row(found.kind, self.keys[found.sensor], Text(*found.told(self.now)), found.reasons)
        return [Text(self.line(), "bold"), *charts, table]

    def _chart(self, sensor: int, columns: int) -> Text:
        """Readings, those in which something was injected in yellow, alerts in red."""
        span = range(self.now - columns + 1, self.now + 1)
        readings = [self.value(sensor, index) for index in span]
        wrong = {i for found in self.begun() if found.sensor == sensor for i in range(found.begin, found.end)}
        layers = [(readings, "cyan")]
        for chosen, style in ((wrong, "yellow"), (set(self.alerts[sensor][-columns:]), "bold red")):
            layers.append(([v if i in chosen else math.nan for i, v in zip(span, readings, strict=True)], style))
        return braille(layers, 4)

    def told(self) -> list[str]:
        """What was caught of each kind, and how soon."""
        lines = []
        for kind in KINDS:
            ended = [i for i in self.begun() if i.kind == kind and i.told(self.now)[0] != "…"]
            after = [i.after for i in ended if i.after is not None]
            soon = f", after {_readings(round(median(after)))} (median)" if after else ""
            lines += [f"{kind}: {len(after)} of {len(ended)} caught{soon}"] if ended else []
        return [*lines, self.line()]

    def picture(self) -> str:
        """Readings of some sensors, with what was injected and the alerts."""
        panels, begin = [], max(self.history, self.now + 1 - 2000)
        for sensor, name in enumerate(self.keys[:4]):
            known = {self.at(i): v for i in range(begin, self.now + 1) if math.isfinite(v := self.value(sensor, i))}
            dots = [(at, known[at]) for at in map(self.at, self.alerts[sensor]) if at in known]
            wrong = [i for i in self.begun() if i.sensor == sensor and i.begin >= begin]
            spans = [(self.at(i.begin), self.at(i.end)) for i in wrong]
            marks = [(self.at(i.begin), i.kind, MOVED) for i in wrong]
            panels.append(Panel(name, {"readings": list(known.items())}, dots=dots, spans=spans, marks=marks))
        about = "readings; yellow: an anomaly was injected; red: alerts; event time"
        return draw("anomaly: what was injected, and what was noticed", about, panels)


def _readings(number: int) -> str:
    return f"{number} reading{'s' * (number != 1)}"
