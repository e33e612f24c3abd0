"""The demo's arithmetic: what counts as lost or repeated, how latency is taken, and which days are simulated."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from models import pretrained
from schemas.decisions import Scored
from schemas.errors import DefinitionError
from streaming import kafka, plot
from streaming.commands.screen import learning, view
from streaming.course import DECIDES, Course
from streaming.live import HISTORY, TRANSACTIONS, Pace, Tally, calendar, injected
from streaming.simulator import BOOK_START, DAY, stream

NOW = BOOK_START + 3000 * DAY


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
    tally = Tally("x-", alarm="decline")
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
    assert [d.id for d in tally.latest] == ["x-1"]
    assert dict(tally.actions) == {"decline": 1, "approve": 1}


@given(st.permutations([(kind, i) for kind in ("event", "decision") for i in range(6)]))
def test_order_of_reading_changes_nothing(order: list[tuple[str, int]]) -> None:
    """Latencies depend on which of two topics was read first."""
    tally = Tally("x-", alarm="decline")
    tally.sent = 6
    for kind, i in order:
        if kind == "event":
            tally.event(record(100 * i, id=f"x-{i}"))
        else:
            tally.decision(decision(100 * i + i, f"x-{i}"))
    assert sorted(tally.latencies) == list(range(6))
    assert tally.summary() == replace(tally.summary(), decisions=6, lost=0, repeated=0)


def test_nothing_decided_has_no_latency() -> None:
    """A demo that is ended before the first decision fails in its own summary."""
    assert Tally("x-", alarm="decline").summary().p99_ms is None


@given(st.floats(1, 2000), st.floats(1, 600), st.integers(0, 700))
def test_runs_follow_one_another(rate: float, seconds: float, later: int) -> None:
    """A second demo on one home publishes days that the first one had already, or ends its calendar on the way."""
    before = BOOK_START + later * DAY + 12_345
    first, next_ = calendar(None, rate, seconds, NOW), calendar(before, rate, seconds, NOW)
    assert first.start == BOOK_START
    assert before < next_.start <= before + DAY
    assert next_.transaction_seed != first.transaction_seed
    a_day = TRANSACTIONS * first.cards / rate  # seconds
    assert first.days * a_day > seconds + HISTORY
    assert HISTORY < (injected(first) - first.start) / DAY * a_day + a_day < HISTORY + seconds + 2 * a_day


def test_labels_come_within_the_minute() -> None:
    """Nothing that follows from outcomes is ever seen in a demo: its minute is shorter than the delay of labels."""
    records = islice(stream(calendar(None, 500.0, 60.0, NOW), 500.0), 40_000)
    first = next(record for record in records if record.topic == "outcomes")
    assert 5 < first.due < HISTORY


def test_the_future_is_refused() -> None:
    """A demo among real events publishes thousands that are dead letters because of their time."""
    with pytest.raises(DefinitionError, match="MILLRACE_HOME"):
        calendar(NOW - DAY, 500.0, 60.0, NOW)


class Still:
    """What the view reads of a run."""

    def __init__(self, tally: Tally, course: Course) -> None:
        self.tally, self.course, self.seconds = tally, course, 12.0


DRIFTED = BOOK_START + 6 * DAY


def taught(days: int) -> Course:
    """A course in which a challenger, always right, is promoted over a champion that never is."""
    course = Course("x-", pretrained("fraud"), DRIFTED)
    at = BOOK_START
    for number in range(20 * days):
        label, at = number % 5 == 0, BOOK_START + number * DAY // 20
        versions = {"fraud-1": 0.5, "fraud-new-2": 0.9 if label else 0.1, "late-1": None}
        course.example(record(0, event=f"x-{number}", at=at, label=label, scores=versions))
    duel = {"evidence": 0.7, "needed": 1.3}
    course.signal(record(0, kind="evaluation", at=at, detail={"duels": {"fraud-new": duel}, "evaluation": {}}))
    return course


def test_a_course_is_prequential_and_counts_once() -> None:
    """The demo shows an average precision that no model had, or calls an outcome learned that came twice, or lost."""
    course = taught(8)
    course.example(record(0, event="x-3", at=BOOK_START, label=True, scores={"fraud-1": 1.0}))  # read again
    course.example(record(0, event="y-3", at=BOOK_START, label=True, scores={"fraud-1": 1.0}))  # another run's
    assert len(course.learned) == 160
    assert course.champion == "fraud"
    assert course.curves.keys() == {DECIDES, "fraud", "fraud-new"}
    assert course.curves["fraud"] == course.curves[DECIDES]
    assert {round(ap, 3) for _, ap in course.curves["fraud"]} == {0.2}
    assert {ap for _, ap in course.curves["fraud-new"]} == {1.0}
    assert len(course.curves["fraud"]) == 7
    assert "0.20 (champion), fraud-new 1.00 (+0.7 of 1.3)" in learning(course, DRIFTED - 1)
    promoted = {"version": "fraud-new-3", "instead": "fraud-1", "labels": 1234, "log_evidence": 3.0}
    course.signal(record(0, kind="promote", at=DRIFTED + DAY, detail=promoted))
    moved = {"measure": "loss", "name": "log-loss", "found": 0.5, "expected": 0.1, "since": DRIFTED}
    course.signal(record(0, kind="drift", at=DRIFTED + DAY, detail=moved))
    told = learning(course, DRIFTED)
    assert "promoted fraud-new-3, instead of fraud-1 after 1,234 labels; drift injected on 2018-04-07" in told
    assert "log-loss 0.5 where 0.1 is usual" in told
    assert course.lineages() == ["fraud-new", "fraud"]


@pytest.mark.parametrize("days", [0, 8])
def test_the_plot_is_a_picture(days: int) -> None:
    """What the demo leaves behind cannot be shown, or leaves out who was promoted and when drift began."""
    course = taught(days) if days else Course("x-", pretrained("fraud"), DRIFTED)
    if days:
        promoted = {"version": "fraud-new-3", "instead": "fraud-1", "labels": 1234, "log_evidence": 3.0}
        course.signal(record(0, kind="promote", at=DRIFTED - DAY, detail=promoted))
    texts = [element.text for element in ElementTree.fromstring(plot.draw(course, "a < b")).iter() if element.text]
    assert "a < b" in texts
    assert not days or {"promote fraud-new", "drift injected", "what decided", "fraud"} <= set(texts)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_view_is_drawn(width: int) -> None:
    """The live view breaks on a narrow terminal, or before the first decision."""
    tally = Tally("x-", alarm="decline")
    console = Console(width=width, height=30, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    pace = Pace(tally)
    pace.look()
    console.print(view(Still(tally, Course("x-", pretrained("fraud"))), pace, [], 60.0))  # type: ignore[arg-type]
    tally.event(record(100, id="x-1"))
    tally.decision(decision(107, "x-1", "decline"))
    pace.look()
    console.print(view(Still(tally, taught(8)), pace, [0.0, 3.0], 60.0))  # type: ignore[arg-type]
    text = console.export_text()
    assert "Nothing to decline yet" in text
    assert "0.500" in text
    assert "7 ms" in text
    assert "★ fraud" in text


HEAVY = ("numba", "onnx", "onnxruntime", "lightgbm", "sklearn", "scipy", "pandas", "pyarrow", "pyflink", "redis", "jgo")


@pytest.mark.parametrize("code", ["import streaming.cli", "from streaming.workloads import load; load('fraud')"])
def test_commands_start_light(code: str) -> None:
    """`millrace --help`, `status` and `tail` import for seconds what they never use."""
    check = f"import sys; {code}; print(*(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
