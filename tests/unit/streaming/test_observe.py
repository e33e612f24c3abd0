"""Metrics as Prometheus scrapes them."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from operators.views import ViewCounts
from schemas.codec import DeadLetter
from streaming.observe import AGES, Cells, Loop, Metrics, Observer, serve

Samples = dict[tuple[str, ...], float]


def scrape(text: str) -> Samples:
    """Samples by name and label values in the order of the label names."""
    families = text_string_to_metric_families(text)
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def read(metrics: Metrics) -> Samples:
    """What a scrape would find."""
    return scrape(generate_latest(metrics.registry).decode())


def test_a_batch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, dashboards and alerts read wrong numbers, or none."""
    metrics = Metrics()
    observer = Observer("fraud", "card", metrics)
    observer.batch(5, 0.001)
    observer.batch(1, 0.001)
    observer.decided(["approve", "review", "approve"], 2)
    observer.decided(["approve"], 0)
    observer.dead([DeadLetter(0, "json", "no JSON")])
    observer.duplicates(1)
    observer.duplicates(0)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    observer.arrived(2 * 10**12 - np.array([4, 4, 7_000, -100, 10**12]))
    found = read(metrics)
    assert found["millrace_decisions_total", "approve", "fraud"] == 3
    assert found["millrace_decisions_total", "review", "fraud"] == 1
    assert found["millrace_deadletters_total", "json", "fraud"] == 1
    assert found["millrace_events_total", "fraud"] == 5
    assert found["millrace_duplicates_total", "fraud"] == 1
    assert found["millrace_degraded_total", "fraud"] == 2
    assert found["millrace_batch_records_count", "card", "fraud"] == 2
    assert found["millrace_batch_records_sum", "card", "fraud"] == 6
    assert found["millrace_batch_records_bucket", "1.0", "card", "fraud"] == 1
    assert found["millrace_stage_seconds_count", "process", "card", "fraud"] == 2
    assert found["millrace_stage_seconds_bucket", "0.001", "process", "card", "fraud"] == 2
    assert found["millrace_event_age_seconds_bucket", "0.005", "fraud"] == 3
    assert found["millrace_event_age_seconds_bucket", "10.0", "fraud"] == 4
    assert found["millrace_event_age_seconds_bucket", "+Inf", "fraud"] == 5


def test_labels_stay_few_whatever_comes() -> None:
    """If this fails, ids or texts of events become labels, and Prometheus dies of them."""
    metrics = Metrics()
    observer = Observer("fraud", "card", metrics)
    for i in range(1000):
        observer.dead([DeadLetter(0, f"c{i}", ""), DeadLetter(0, f"expected a number, found {i}", "")])
    reasons = {
        key[1]: value for key, value in read(metrics).items() if key[0] == "millrace_deadletters_total"
    }
    assert len(reasons) <= 33
    assert sum(reasons.values()) == 2000


def test_only_the_model_that_decides_is_shown() -> None:
    """If this fails, after a promotion two models seem to decide."""
    metrics = Metrics()
    for name in ("fraud@1", "fraud@2", "fraud@2"):
        for observer in (Observer("fraud", "card", metrics), Observer("fraud", "terminal", metrics)):
            observer.model("fraud@0")
            observer.model(name)
    anew = Observer("fraud", "card", metrics)  # the job was deployed again, with another model
    for deciding in ("fraud@2", "fraud@3"):
        models = [key for key in read(metrics) if key[0] == "millrace_model_info"]
        assert models == [("millrace_model_info", deciding, "fraud")]
        anew.model("fraud@3")
    anew.no_model()
    assert not [key for key in read(metrics) if key[0] == "millrace_model_info"]


def test_views_are_pulled_and_never_count_down() -> None:
    """If this fails, a closed job takes its counts along, and rates jump."""
    metrics = Metrics()
    observer = Observer("fraud", "card", metrics)
    observer.dependency("kafka", True)
    up = [True]

    def counts(written: int) -> ViewCounts:
        return ViewCounts(written, 0, 2, 3, 0, 9, up[0])

    stops = [observer.watch(partial(counts, written)) for written in (10, 20)]
    assert read(metrics)["millrace_views_total", "written"] == 30
    assert read(metrics)["millrace_dependency_up", "redis"] == 1
    up[0] = False
    stops[0]()
    found = read(metrics)
    assert found["millrace_views_total", "written"] == 30
    assert found["millrace_views_total", "dropped"] == 6
    assert found["millrace_dependency_up", "redis"] == 0
    assert found["millrace_dependency_up", "kafka"] == 1


@given(arrays(np.float64, st.integers(0, 50), elements=st.floats(-1, 1e6)))
def test_an_array_counts_as_its_values_do(values: NDArray[np.float64]) -> None:
    """If this fails, a histogram depends on how events were batched."""
    whole, single = Cells(AGES), Cells(AGES)
    whole.many(values)
    for value in values.tolist():
        single.one(value)
    assert whole.read()[0] == single.read()[0]
    assert whole.read()[1] == pytest.approx(single.read()[1], abs=1e-6)
    assert dict(whole.read()[0])["1.0"] == sum(value <= 1.0 for value in values.tolist())


CHILD = """
import sys, time
from pathlib import Path
from streaming.observe import serve
print(serve(Path(sys.argv[1]), int(sys.argv[2])), flush=True)
sys.stdin.read()
"""


def test_every_process_is_found_by_prometheus(tmp_path: Path) -> None:
    """If this fails, status and Prometheus miss a process, or keep asking one that is gone."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / f"metrics-{gone.pid}.json").write_text("[]")
    port = serve(tmp_path)
    assert serve(tmp_path) == port
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(port)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    other = int(child.stdout.readline())
    assert other != port
    files = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert files == {
        f"metrics-{pid}.json": [{"targets": [f"127.0.0.1:{at}"], "labels": {"pid": str(pid)}}]
        for pid, at in ((os.getpid(), port), (child.pid, other))
    }
    Observer("served", "card").batch(3, 0.1)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert scrape(answer.read().decode())["millrace_batch_records_sum", "card", "served"] == 3
    child.stdin.close()
    assert child.wait(20) == 0
    assert not (tmp_path / f"metrics-{child.pid}.json").exists()


def test_a_measure_that_is_known_no_longer_is_gone() -> None:
    """If this fails, a dashboard shows the average precision of a window that has been empty for weeks."""
    metrics = Metrics()
    loop = Loop("w", metrics)
    for measures in ({"window_ap": 0.2, "window_n": 3.0}, {"window_n": 0.0}, {"window_n": 0.0}):
        loop.quality("w-rule", "", measures)
    found = [name for name in scrape(generate_latest(metrics.registry).decode()) if "millrace_prequential" in name[0]]
    assert len(found) == 1
    assert "window_n" in found[0]
