"""Trees that a job has fitted in a process of their own."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from schemas.errors import ModelRejected, Unavailable
from streaming import kafka, refit
from streaming.workloads import Reference

PRINTS = 'print("a word of its author")\nraise ValueError("and no workload")\n'


def request(workload: Reference, until: int = 1_000) -> refit.Request:
    """For trees of examples that nobody has."""
    return refit.Request(workload, "127.0.0.1:1", "none.examples", "", "none", until)


def made(workload: Reference) -> None:
    """What comes of it."""
    fitting, until = refit.Fitting(request(workload)), time.monotonic() + 60
    while fitting.made(1) is None and time.monotonic() < until:
        time.sleep(0.05)


def test_what_a_workload_prints_is_no_answer() -> None:
    """A definition that prints a line ends the process that learns wherever drift asks for trees, and its job begins
    again and again."""
    with pytest.raises(ModelRejected, match="ended with exit code 1"):
        made(Reference("prints.py", PRINTS))


def test_a_service_that_does_not_answer_is_asked_again() -> None:
    """Drift asks for trees while a broker is away, and none are ever fitted."""
    with pytest.raises(Unavailable):
        made(Reference("fraud", set={"learn": "true"}))


def test_a_fit_ends_in_peace() -> None:
    """Each fit ends in an abort, with a core dump and a fatal error in the log, as a thread still reads its input."""
    code = "import threading; from streaming import refit; threading.Thread(target=refit._end, daemon=True).start()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait(60) == 0, process.stderr and process.stderr.read()


def test_the_newest_examples_of_all_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees are fitted to the partition that was read last alone; or to what an earlier definition served of events
    that were decided anew; or to nothing any more, as a stranger has written on the topic, or a feature is new."""

    def record(partition: int, at: int, feature: float, name: str = "x") -> kafka.Record:
        example = {"event": f"{partition}-{at}", "at": at, "label": False, "label_at": at, "presumed": False,
                   "weight": 1.0, "source": "", "features": {name: feature}}  # fmt: skip
        return kafka.Record(partition, at, 0, None, json.dumps(example).encode(), ())

    def records() -> Iterator[list[kafka.Record]]:
        yield [kafka.Record(0, 0, 0, None, b"not ours", ()), record(9, 79, 1.0, name="y")]
        for partition in range(3):
            for feature in (1.0, 2.0):
                yield [record(partition, at, feature) for at in range(100)]

    monkeypatch.setattr(refit, "MOST", 90)
    found = refit.examples(records(), 79, ["x"])
    assert {lesson.id for lesson in found} == {f"{partition}-{at}" for partition in range(3) for at in range(50, 80)}
    assert {float(lesson.row[0]) for lesson in found} == {2.0}
