"""The demo's arithmetic: what counts as lost or repeated, how latency is taken, and which days are simulated."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from schemas.decisions import Scored
from schemas.errors import DefinitionError
from streaming import kafka
from streaming.commands.demo import view
from streaming.live import HISTORY, Pace, Tally, calendar
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
    a_day = 0.95 * 2 * first.cards / rate  # seconds
    assert rate < 50 or first.days * a_day > seconds + HISTORY


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

    def __init__(self, tally: Tally) -> None:
        self.tally, self.seconds = tally, 12.0


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_view_is_drawn(width: int) -> None:
    """The live view breaks on a narrow terminal, or before the first decision."""
    tally = Tally("x-", alarm="decline")
    console = Console(width=width, height=30, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    pace = Pace(tally)
    pace.look()
    console.print(view(Still(tally), pace, [], 60.0))  # type: ignore[arg-type]
    tally.event(record(100, id="x-1"))
    tally.decision(decision(107, "x-1", "decline"))
    pace.look()
    console.print(view(Still(tally), pace, [0.0, 3.0], 60.0))  # type: ignore[arg-type]
    text = console.export_text()
    assert "Nothing to decline yet" in text
    assert "0.500" in text
    assert "7 ms" in text


HEAVY = ("numba", "onnx", "onnxruntime", "lightgbm", "sklearn", "scipy", "pandas", "pyarrow", "pyflink", "redis", "jgo")


@pytest.mark.parametrize("code", ["import streaming.cli", "from streaming.workloads import load; load('fraud')"])
def test_commands_start_light(code: str) -> None:
    """`millrace --help`, `status` and `tail` import for seconds what they never use."""
    check = f"import sys; {code}; print(*(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
