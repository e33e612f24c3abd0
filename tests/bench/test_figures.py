"""The figures that Millrace promises, measured: `make bench`. Each test prints what it measured as one JSON line.

Ratios and learning are held here; absolute times are printed, as they say as much about the machine as about us.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from models import metrics
from models.boosting import Boosting, fit
from models.onnx import Session
from models.promotion import Contest
from models.rules import PromotionRule
from streaming.commands.options import read_lines
from streaming.examples import Examples, read_examples
from streaming.plan import plan
from streaming.replay import Replay
from streaming.simulator import BOOK_START, DAY, Spec, simulate
from streaming.workloads import load
from streaming.workloads.fraud import BOOK, STREAMING
from tests.bench.book import book_fold, card_precision

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

FIRST_TEST_DAY = 129
"""2018-08-08, counted from the first day of the simulation."""


def millrace(*words: str) -> dict[str, object]:
    """The JSON that a command prints; it is printed here, too."""
    command = [str(Path(sys.executable).with_name("millrace")), *words, "--json"]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(json.dumps({"command": " ".join(words), **result}))
    return dict(result)


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The book's data set as files."""
    folder = tmp_path_factory.mktemp("book")
    simulate(Spec()).write(folder / "events.jsonl", folder / "outcomes.jsonl")
    yield folder
    for file in folder.iterdir():
        file.unlink()


@pytest.fixture(scope="session")
def examples(book: Path) -> Path:
    """What a replay of it served, with what came of each."""
    path = book / "examples.parquet"
    files = ("--events", str(book / "events.jsonl"), "--outcomes", str(book / "outcomes.jsonl"))
    millrace("replay", "fraud", *files, "--examples", str(path))
    return path


def test_reference_drains_faster_than_a_raw_loop() -> None:
    """If this fails, the engine costs more than it gives."""
    ratios = millrace("bench", "reference", "--drain", "1500000", "--beside", "raw")["ratios"]
    assert isinstance(ratios, dict)
    assert ratios["events_per_second"] >= 2.0


def test_reference_latency_beside_a_raw_loop() -> None:
    """If this fails, decisions come later than from a hand-written loop."""
    ratios = millrace("bench", "reference", "--rate", "10000", "--seconds", "60", "--beside", "raw")["ratios"]
    assert isinstance(ratios, dict)
    assert ratios["p50_ms"] <= 0.8
    assert ratios["p99_ms"] <= 1.2


def test_fraud_drain_and_latency() -> None:
    """Prints what the two-entity workload reaches; lost events fail it."""
    millrace("bench", "fraud", "--drain", "1000000")
    result = millrace("bench", "fraud", "--rate", "10000", "--seconds", "60")
    assert result["received"] == result["sent"]


def test_replay_speed(book: Path) -> None:
    """Prints events a second of a replay with outcomes, after its kernels are compiled."""
    events = list(islice(read_lines(book / "events.jsonl"), 500_000))
    outcomes = list(islice(read_lines(book / "outcomes.jsonl"), 500_000))
    for count in (5_000, len(events)):
        began, replay = time.perf_counter(), Replay(plan(load("fraud")), time.time_ns() // 1_000_000)
        decided = sum(len(step.events.ids) for step in replay.run(events[:count], outcomes))
        seconds = time.perf_counter() - began
    assert decided == len(events)
    print(json.dumps({"replay_events_per_second": round(decided / seconds)}))


def test_learning_of_the_books_folds(examples: Path, tmp_path: Path) -> None:
    """If this fails, what `train` makes of what `replay` computed misses the book's frauds, or something leaks."""
    data = read_examples(examples)
    found = [_fold(data, examples, FIRST_TEST_DAY + 7 * fold, tmp_path / f"fold{fold}") for fold in range(4)]
    ap, auc, cp = np.mean(found, axis=0).tolist()
    print(json.dumps({"ap": round(ap, 4), "auc": round(auc, 4), "cp_at_100": round(cp, 4)}))
    assert 0.735 <= ap <= 0.79
    assert cp >= 0.305


def test_better_features_are_promoted(examples: Path) -> None:
    """If this fails, what is better by as much as 27 features are better than the book's 15 waits too long for it.

    Both models are trained alike on what was known on a day, and meet each label after it in the order in which labels
    became known; a model that meets itself must never win.
    """
    data, learning = read_examples(examples), load("fraud", {"learn": "true"}).learning
    assert learning is not None
    starts = range(FIRST_TEST_DAY - 28, FIRST_TEST_DAY + 29, 14)
    labels = [_labels_until_promoted(data, learning.promotion, start) for start in starts]
    print(json.dumps({"labels_until_promoted": labels}))
    assert max(labels) <= 25_000


def _labels_until_promoted(data: Examples, rule: PromotionRule, day: int) -> int:
    start = int(data.at[0]) + day * DAY
    old, new = data.label_at < start, np.flatnonzero(data.at >= start)
    new = new[np.argsort(data.label_at[new], kind="stable")]
    scores = {}
    for name, features in (("book", BOOK), ("all", BOOK + STREAMING)):
        made = fit(data.columns(features)[old], data.label[old], features, name, params=Boosting(validation=0.1))
        scores[name] = Session(made).score(data.columns(features)[new])
    contest = Contest(rule, "book")
    contest.enter("all")
    contest.enter("itself")
    scores["itself"] = scores["book"]
    verdict = contest.add(scores, data.label[new] > 0, data.label_at[new])[0]
    assert verdict.version == "all"
    return verdict.labels


def _fold(data: Examples, examples: Path, start: int, folder: Path) -> tuple[float, float, float]:
    """Train on what was known on day `start`, score the week that begins there."""
    millrace("train", "fraud", "--examples", str(examples), "--until-day", str(start), "--out", str(folder))
    session = Session(load("fraud", {"model": str(folder)}).model)
    day = (data.at - BOOK_START) // DAY
    card = np.array([int(key[1:]) for key in data.key])
    _, rows = book_fold(day, card, data.label, start)
    label, score = data.label[rows], session.score(data.columns(session.artifact.features)[rows])
    return (
        metrics.average_precision(label, score),
        metrics.roc_auc(label, score),
        card_precision(day[rows], card[rows], label, score),
    )
