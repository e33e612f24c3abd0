"""The demo's arithmetic: what counts as lost or repeated, how latency is taken, and which days are simulated."""

import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from schemas.decisions import Scored
from schemas.errors import DefinitionError
from schemas.forecast import Forecast
from streaming import kafka, plot
from streaming.commands.screen import view
from streaming.course import DECIDES, Course
from streaming.live import Live, Pace, Tally
from streaming.shows import NAMES, Run, kind
from streaming.shows import anomaly as anomalies
from streaming.shows import forecast as forecasts
from streaming.shows import fraud as frauds
from streaming.shows.fraud import HISTORY, TRANSACTIONS, calendar
from streaming.simulator import BOOK_START, DAY
from streaming.workloads import load

NOW = BOOK_START + 3000 * DAY
WORKLOADS = {name: load(name, kind(name).sets) for name in NAMES}


def run(name: str, rate: float = 500.0, seconds: float = 60.0, newest: int | None = None) -> Run:
    """A run of a demo."""
    return Run("x-", WORKLOADS[name], rate, seconds, newest, NOW)


def record(timestamp: int, **body: object) -> kafka.Record:
    """A record as it is read."""
    return kafka.Record(0, 0, timestamp, None, json.dumps(body).encode(), ())


def decision(timestamp: int, id: str, action: str = "approve") -> kafka.Record:
    """A decision as it is read."""
    body = Scored(
        id=id, workload="fraud", event=id, at=BOOK_START, key="c1", model="m", degraded=False, score=0.5,
        action=action, reasons=("amount",),
    )  # fmt: skip
    return record(timestamp, **{name: getattr(body, name) for name in Scored.__struct_fields__})


def test_each_event_ends_once() -> None:
    """The demo calls an event lost that has a decision or a dead letter, or hides one that has neither."""
    tally = Tally("x-", 0, Scored)
    tally.sent = 4
    tally.event(record(100, id="x-1"))
    tally.decision(decision(107, "x-1", "decline"))
    tally.decision(decision(109, "x-1", "decline"))
    tally.decision(decision(120, "x-2"))
    tally.event(record(110, id="x-2"))  # read after its decision: two topics, two readers
    tally.deadletter(record(130, id="x-3", amount="much"))
    tally.deadletter(record(130, event="x-4", label=True))  # an outcome ends no event
    for foreign in (record(90, id="y-1"), record(90), kafka.Record(0, 0, 90, None, b"\xff{", ())):
        tally.event(foreign)
        tally.deadletter(foreign)
    tally.decision(decision(140, "y-1"))
    found = tally.summary()
    assert (found.events, found.decisions, found.deadletters, found.lost, found.repeated) == (4, 2, 1, 1, 1)
    assert sorted(tally.latencies) == [7, 10]
    assert (found.p50_ms, found.p99_ms) == (8.5, 10.0)
    assert dict(tally.actions) == {"decline": 1, "approve": 1}


@given(st.permutations([(kind, i) for kind in ("event", "decision") for i in range(6)]))
def test_order_of_reading_changes_nothing(order: list[tuple[str, int]]) -> None:
    """Latencies depend on which of two topics was read first."""
    tally = Tally("x-", 0, Scored)
    tally.sent = 6
    for topic, i in order:
        if topic == "event":
            tally.event(record(100 * i, id=f"x-{i}"))
        else:
            tally.decision(decision(100 * i + i, f"x-{i}"))
    assert sorted(tally.latencies) == list(range(6))
    assert tally.summary() == replace(tally.summary(), decisions=6, lost=0, repeated=0)


def test_nothing_decided_has_no_latency() -> None:
    """A demo that is ended before the first decision fails in its own summary."""
    assert Tally("x-", 0, Scored).summary().p99_ms is None


def test_the_history_counts_too() -> None:
    """Events that were published before the job was there are lost, and the demo calls the run whole."""
    taken: list[str] = []
    tally = Tally("x-", 2, Scored, lambda decision: taken.append(decision.id))
    tally.sent = 1
    for id, action in (("x-0", "approve"), ("x-2", "approve"), ("x-0", "approve"), ("x-2", "decline")):
        tally.decision(decision(100, id, action))
    found = tally.summary()
    assert (found.events, found.decisions, found.lost, found.repeated, tally.differing) == (1, 1, 1, 2, 1)
    assert taken == ["x-0", "x-2"]
    assert tally.first.is_set()


@given(st.floats(1, 2000), st.floats(1, 600), st.integers(0, 700))
def test_runs_follow_one_another(rate: float, seconds: float, later: int) -> None:
    """A second demo on one home publishes days that the first one had already, or ends its calendar on the way."""
    before = BOOK_START + later * DAY + 12_345
    first, next_ = (calendar(run("fraud", rate, seconds, newest)) for newest in (None, before))
    assert first.start == BOOK_START
    assert before < next_.start <= before + DAY
    assert next_.transaction_seed != first.transaction_seed
    a_day = TRANSACTIONS * first.cards / rate  # seconds
    assert first.days * a_day > seconds + HISTORY
    assert HISTORY < first.drift[0][0] * a_day + a_day < HISTORY + seconds + 2 * a_day


def test_labels_come_within_the_minute() -> None:
    """Nothing that follows from outcomes is ever seen in a demo: its minute is shorter than the delay of labels."""
    first = next(record for record in frauds.Demo(run("fraud")).records() if record.topic == "outcomes")
    assert 5 < first.due < HISTORY


@pytest.mark.parametrize("name", NAMES)
def test_the_future_is_refused(name: str) -> None:
    """A demo among real events publishes thousands that are dead letters because of their time."""
    with pytest.raises(DefinitionError, match="MILLRACE_HOME"):
        kind(name)(run(name, newest=NOW - DAY))


def test_only_what_can_be_shown() -> None:
    """A demo of a workload without events of its own fails somewhere inside."""
    with pytest.raises(DefinitionError, match="fraud, anomaly, forecast"):
        kind("reference")


@pytest.mark.parametrize("name", ["anomaly", "forecast"])
@pytest.mark.parametrize("rate", [1.0, 500.0, 10_000.0])
def test_keys_have_a_value_each_step(name: str, rate: float) -> None:
    """Sensors or series have gaps, begin twice in a day, or have so much history that nothing is shown for minutes."""
    show = cast(anomalies.Demo | forecasts.Demo, kind(name)(run(name, rate, newest=BOOK_START + 5)))
    past = show.history * show.count
    assert 160 * show.count <= past <= max(17_000, 160 * show.count)
    found = [json.loads(record.value) for record in islice(show.records(), past + 3 * show.count)]
    assert [event["id"] for event in found[:3]] == ["x-0000000", "x-0000001", "x-0000002"]
    own = [event for event in found if event[show.name] == show.keys[2]]
    assert [event["at"] for event in own] == [BOOK_START + DAY + i * show.step for i in range(len(own))]
    assert len(own) == show.history + 3
    assert show.value(2, len(own) - 1) == own[-1]["value"]
    assert math.isnan(show.value(2, len(own) + 5))


def alert(key: str, at: int, action: str = "alert") -> Scored:
    """A decision about a reading."""
    return Scored(
        id="x-1", workload="anomaly", event="x-1", at=at, key=key, model="m", degraded=False, score=1.0,
        action=action, reasons=("level",),
    )  # fmt: skip


def drawn(show: Any, width: int) -> str:
    """A show's part of the live view as text."""
    console = Console(width=width, height=60, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in show.view(width):
        console.print(part)
    return console.export_text()


def written(picture: str) -> set[str]:
    """The texts in a page."""
    return {element.text for element in ElementTree.fromstring(picture).iter() if element.text}


def test_what_was_injected_is_told() -> None:
    """The demo says that an alert was right or wrong, an anomaly caught or missed, where it was not."""
    show = anomalies.Demo(run("anomaly"))
    list(islice(show.records(), (show.history + 300) * show.count))
    first, second, third = show.injected[:3]
    assert (first.kind, first.sensor, first.begin) == ("spike", 0, show.history + 5)
    for found, index in ((first, 0), (first, 3), (second, -1), (third, 2)):
        show.decided(alert(show.keys[found.sensor], show.at(found.begin + index)))
    assert (first.after, second.after, third.after, show.false) == (1, None, 3, 1)
    show.decided(alert("sensor-19", show.at(show.history + 299), "ok"))
    assert "caught 2, missed" in show.line()
    told = show.told()
    assert "spike: 1 of" in told[0]
    assert "; false alerts 1, " in told[-1]
    assert {"sensor-00", "spike", "readings"} <= written(show.picture())
    shown = drawn(show, 100)
    assert "missed" in shown
    assert any(chr(dots) in shown for dots in range(0x2801, 0x2900))


def test_forecasts_are_judged_by_what_came() -> None:
    """The demo's errors and coverage are those of other steps, or of another series."""
    show = forecasts.Demo(run("forecast"))
    list(islice(show.records(), 400 * show.count))
    assert show.line() == "nothing can be judged yet"
    for index in range(300, 399):
        for number, key in enumerate(show.keys):
            truth = [show.value(number, index + k) for k in range(1, 25)]
            known = tuple(0.0 if math.isnan(value) else value for value in truth)
            above = tuple(value + 1 for value in known)
            under = known if number % 2 else above  # of every other series, what comes is below the interval
            said = Forecast(
                id="x-1", workload="forecast", event="x-1", at=show.at(index), key=key, model="m", degraded=False,
                status="ok", step=3_600_000, level=0.9, mean=known, lower=under, upper=above,
            )  # fmt: skip
            show.decided(said)
    for ahead in forecasts.JUDGED:
        assert show.figures(ahead, 0, 20) == pytest.approx((0.0, 0.5))
    assert "1 h ahead: MASE 0.00, coverage 50%; " in show.line()
    assert "24 h ahead: MASE 0.00" in "\n".join(show.told())
    assert {"observed", "said", "24 h ahead"} <= written(show.picture())
    assert "24 h ahead: MASE 0.00" in drawn(show, 100)


def test_braille_is_where_the_values_are() -> None:
    """The chart in the terminal shows another curve than the values, or breaks where there are none."""
    text = plot.braille([([0.0, 3.0, math.nan, 1.0], "cyan"), ([math.nan] * 4, "red")], 1)
    assert text.plain == "\u2848\u2820 3"
    assert plot.braille([([2.0, 2.0], "cyan")], 2).plain.splitlines()[0].startswith("\u2809")
    assert plot.braille([([math.nan] * 6, "")], 3).plain.count("\n") == 2


DRIFTED = BOOK_START + 6 * DAY
PROMOTED = {"version": "fraud-new-3", "instead": "fraud-1", "labels": 1234, "log_evidence": 3.0}


def taught(days: int) -> frauds.Demo:
    """A demo in which a challenger, always right, is ahead of a champion that never is."""
    show = frauds.Demo(run("fraud"))
    show.course = course = Course("x-", show.run.workload.model, BOOK_START, DRIFTED)
    at = BOOK_START
    for number in range(20 * days):
        label, at = number % 5 == 0, BOOK_START + number * DAY // 20
        scores = {"fraud-1": 0.5, "fraud-new-2": 0.9 if label else 0.1, "late-1": None}
        course.example(record(0, event=f"x-{number}", at=at, label=label, label_at=at + DAY, scores=scores))
    duel = {"evidence": 0.7, "needed": 1.3}
    course.signal(record(0, kind="evaluation", at=at, detail={"duels": {"fraud-new": duel}, "evaluation": {}}))
    return show


def test_a_course_is_prequential_and_counts_once() -> None:
    """The demo shows an average precision that no model had, or calls an outcome learned that came twice, or lost."""
    show = taught(8)
    course, again = show.course, {"label_at": BOOK_START + DAY, "scores": {"fraud-1": 1.0}}
    course.example(record(0, event="x-3", at=BOOK_START, label=True, **again))  # read again
    course.example(record(0, event="y-3", at=BOOK_START, label=True, **again))  # another run's
    assert len(course.learned) == 160
    assert course.champion == "fraud"
    assert course.curves.keys() == {DECIDES, "fraud", "fraud-new"}
    assert course.curves["fraud"] == course.curves[DECIDES]
    assert {round(ap, 3) for _, ap in course.curves["fraud"]} == {0.2}
    assert {ap for _, ap in course.curves["fraud-new"]} == {1.0}
    assert len(course.curves["fraud"]) == 7
    assert "0.20 (champion), fraud-new 1.00 (+0.7 of 1.3)" in show.line()
    course.signal(record(0, kind="promote", at=DRIFTED + DAY, detail=PROMOTED))
    moved = {"measure": "loss", "name": "log-loss", "found": 0.5, "expected": 0.1, "since": DRIFTED}
    course.signal(record(0, kind="drift", at=DRIFTED + DAY, detail=moved))
    show.decided(alert("c1", DRIFTED, "approve"))
    told = show.line()
    assert "promoted fraud-new-3, instead of fraud-1 after 1,234 labels; drift injected on 2018-04-07" in told
    assert "log-loss 0.5 where 0.1 is usual" in told
    assert course.lineages() == ["fraud-new", "fraud"]


@pytest.mark.parametrize("more", [-2, 0, 3])
def test_what_is_learned_twice_is_told(more: int) -> None:
    """The demo says that nothing was lost or learned twice, and the models were made of other examples than came."""
    show = taught(8)
    assert show.course.learned_twice() is None
    assert "too few models" in show.told()[-1]
    for day, examples in ((-1, 400), (2, 500), (5, 560 + more)):  # twenty a day became known between the last two
        detail = {"version": "fraud-new-2", "role": "challenger", "examples": examples}
        show.course.signal(record(0, kind="model", at=BOOK_START + day * DAY, detail=detail))
    assert show.course.learned_twice() == more
    assert f"{max(-more, 0)} lost, {max(more, 0)} learned twice" in show.told()[-1]


def test_outcomes_are_waited_for() -> None:
    """The demo ends before the last outcomes are learned and calls them lost, or lost ones learned."""
    show = frauds.Demo(run("fraud"))
    records = list(islice(show.records(), 20_000))
    outcomes = [json.loads(record.value)["event"] for record in records if record.topic == "outcomes"]
    before = show.owed()
    assert len(outcomes) - 2 <= before <= len(outcomes)
    example = {"event": outcomes[0], "at": BOOK_START, "label": True, "label_at": BOOK_START, "scores": {"f-1": 1.0}}
    show.course.example(record(0, **example))
    assert show.owed() == before - 1


def test_models_are_waited_for() -> None:
    """The demo ends before what it published is learned, or waits for a model of which nothing is known."""
    show = taught(8)  # known from day 1 to before day 9, with a model every third day
    assert show.owed() == 1
    for day, owed in ((3, 1), (6, 0)):
        show.course.signal(record(0, kind="model", at=BOOK_START + day * DAY, detail={"examples": day}))
        assert show.owed() == owed
    assert taught(1).owed() == 0


@pytest.mark.parametrize("days", [0, 8])
def test_the_plot_is_a_picture(days: int) -> None:
    """What the demo leaves behind cannot be shown, or leaves out who was promoted and when drift began."""
    show = taught(days)
    if days:
        show.course.signal(record(0, kind="promote", at=DRIFTED - DAY, detail=PROMOTED))
    texts = written(show.picture())
    assert any(text.startswith("fraud: starts with") for text in texts)
    assert not days or {"promote fraud-new", "drift injected", "what decided", "fraud"} <= texts
    panel = plot.Panel(
        "a < b", {"c": [(0, 1.0), (DAY, 3.0)]}, bands=[[(0, -1e9, 9e9)]], spans=[(0, 5)], dots=[(0, 1.0)]
    )
    assert "a < b" in written(plot.draw("", "", [panel]))


class Still:
    """What the view reads of a run."""

    def __init__(self, tally: Tally, show: frauds.Demo) -> None:
        self.tally, self.show, self.seconds = tally, show, 12.0


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_view_is_drawn(width: int) -> None:
    """The live view breaks on a narrow terminal, or before the first decision."""
    show = taught(8)
    tally = Tally("x-", 0, Scored, show.decided)
    console = Console(width=width, height=40, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    pace = Pace(tally)
    pace.look()
    empty = Still(tally, frauds.Demo(run("fraud")))
    console.print(view(cast(Live, empty), pace, [], 60.0, width, []))
    tally.event(record(100, id="x-1"))
    tally.decision(decision(107, "x-1", "decline"))
    pace.look()
    console.print(view(cast(Live, Still(tally, show)), pace, [0.0, 3.0], 60.0, width, ["kafka died"]))
    text = console.export_text()
    assert "Nothing to decline yet" in text
    assert "0.500" in text
    assert "7 ms" in text
    assert "★ fraud" in text
    assert "kafka died" in text


HEAVY = ("numba", "onnx", "onnxruntime", "lightgbm", "sklearn", "scipy", "pandas", "pyarrow", "pyflink", "redis", "jgo")


@pytest.mark.parametrize("code", ["import streaming.cli", "from streaming.workloads import load; load('fraud')"])
def test_commands_start_light(code: str) -> None:
    """`millrace --help`, `status` and `tail` import for seconds what they never use."""
    check = f"import sys; {code}; print(*(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
