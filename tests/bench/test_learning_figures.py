"""What continuous learning promises, measured on whole simulated half-years: `pytest -m bench -k learned -s`."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models import metrics
from streaming.simulator import BOOK_START, DAY, Frauds, Spec, simulate
from tests.bench.book import book_fold, card_precision
from tests.bench.test_figures import FIRST_TEST_DAY, millrace

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]

CHANGE = 120
"""Day from which frauds are others."""


class Decided(msgspec.Struct):
    """What is read of a decision."""

    id: str
    at: int
    key: str
    score: float


class Told(msgspec.Struct):
    """What is read of an outcome."""

    event: str
    label: bool


class Run:
    """One replay of simulated files: days, cards, labels and served scores of all events."""

    def __init__(self, folder: Path, *words: str):
        events, outcomes, out = (folder / name for name in ("events.jsonl", "outcomes.jsonl", "decisions.jsonl"))
        files = ("--events", str(events), "--outcomes", str(outcomes), "--out", str(out))
        result = millrace("replay", "fraud", *files, *words)
        self.seconds = float(str(result["seconds"]))
        decoder, told = msgspec.json.Decoder(Decided), msgspec.json.Decoder(Told)
        decisions = [decoder.decode(line) for line in out.open("rb")]
        truth = {o.event: o.label for o in map(told.decode, outcomes.open("rb"))}
        self.day = (np.array([d.at for d in decisions]) - BOOK_START) // DAY
        self.card = np.array([int(d.key[1:]) for d in decisions])
        self.score = np.array([d.score for d in decisions])
        self.label = np.array([truth[d.id] for d in decisions], np.float64)

    def average_precision(self, first: int, last: int) -> float:
        """Of the events of some days."""
        rows = (self.day >= first) & (self.day < last)
        return metrics.average_precision(self.label[rows], self.score[rows])

    def book(self) -> tuple[float, float, float]:
        """AP, AUC and card precision, means of the book's four test weeks."""
        found = []
        for start in range(FIRST_TEST_DAY, FIRST_TEST_DAY + 28, 7):
            _, rows = book_fold(self.day, self.card, self.label, start)
            label, score = self.label[rows], self.score[rows]
            precision = card_precision(self.day[rows], self.card[rows], label, score)
            found.append((metrics.average_precision(label, score), metrics.roc_auc(label, score), precision))
        ap, auc, cp = np.mean(found, axis=0).tolist()
        return ap, auc, cp


def test_what_is_learned_in_a_replay(tmp_path: Path) -> None:
    """If this fails, learning with weekly refits makes the shipped model worse, is too slow, or something leaks."""
    simulate(Spec()).write(tmp_path / "events.jsonl", tmp_path / "outcomes.jsonl")
    alone = Run(tmp_path, "--set", "learn=true")
    whole = Run(tmp_path, "--set", "learn=true", "--refit", "7d")
    ap, auc, cp = whole.book()
    found = {"ap": ap, "auc": auc, "cp_at_100": cp, "seconds": alone.seconds, "seconds_with_refits": whole.seconds}
    print(json.dumps(found))
    assert 0.74 <= ap <= 0.79
    assert cp >= 0.31
    assert auc >= 0.877


def test_learned_after_a_change(tmp_path: Path) -> None:
    """If this fails, new kinds of fraud are missed for longer than labels need to come, and three days.

    More payments are frauds after the change, which is easier in itself: the frozen model is the control.
    """
    changed = Frauds(amount_above=110.0)
    simulate(Spec(drift=((CHANGE, changed),))).write(tmp_path / "events.jsonl", tmp_path / "outcomes.jsonl")
    runs = {"learned": Run(tmp_path, "--set", "learn=true"), "frozen": Run(tmp_path)}
    goal = CHANGE + 7 + 3
    before = {name: run.average_precision(CHANGE - 20, CHANGE) for name, run in runs.items()}
    after = {name: run.average_precision(goal, CHANGE + 60) for name, run in runs.items()}
    daily = {
        name: [round(run.average_precision(day, day + 1), 4) for day in range(CHANGE, CHANGE + 21)]
        for name, run in runs.items()
    }
    print(json.dumps({"before": before, "after": after, "daily": daily}))
    assert all(ap >= 0.95 * before["learned"] for ap in daily["learned"][goal - CHANGE :])
    assert after["learned"] >= 0.95 * before["learned"] > after["frozen"]
