"""The learning loop of a job: only what was announced is taken up, and all is learned once, killed or not."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models import rules
from models.learners import Logistic
from models.linear import linear
from models.registry import Registry, announcement
from operators import by, count, max_, mean
from schemas import frames
from schemas.errors import ModelRejected
from schemas.fraud import FraudOutcome
from schemas.models import Announcement, decode, encode
from schemas.topics import Topics
from streaming import layouts, loop
from streaming.announced import Models
from streaming.decider import Decided
from streaming.learning import learning
from streaming.loop import ExampleOperator, LearnOperator, Served, Taught
from streaming.plan import Plan, plan
from streaming.resident import FeatureOperator, StageSpec, open_stage
from streaming.signals import quality
from streaming.workloads import load, refer
from tests import java
from tests.world import wait

DAY, NOW = 86_400_000, 1_800_000_000_000
OWN, A, B, C = (linear("small", {"value": weight, "key_count_1h": 0.0}) for weight in (-0.05, 0.1, 0.2, 0.3))
LEARNED = "small-logistic-000000000000"
_pack = msgspec.msgpack.encode


def small(learners: tuple[Logistic, ...] = (Logistic(rate=0.05),), **options: object) -> Plan:
    """A plan of two columns that learns."""
    rule = {"promotion": rules.promotion(labels=10**6, settle="0s"), "horizon": "10d", "presume": False} | options
    learns = learning(**rule)  # type: ignore[arg-type]
    model = {"model": OWN, "inputs": ("value", "key_count_1h"), "learners": learners, "budget": "10s"}
    return plan(replace(load("reference"), name="small", outcome=FraudOutcome, learning=learns, **model))  # type: ignore[arg-type]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """One in which nothing is."""
    return Registry(tmp_path / "models")


def told(models: Models) -> tuple[tuple[str | None, ...] | None, list[str]]:
    """Champion and challengers that are to be taken up, and the models that were refused."""
    ready, signals = models.take()
    said = [json.loads(java.sink_parts(signal)[1] or b"") for signal in signals]
    assert all(signal["kind"] == "refused" and signal["workload"] == "small" for signal in said)
    refused = [signal["detail"]["model"] for signal in said]
    if ready is None:
        return None, refused
    champion, beside = ready
    return (champion.artifact.version if champion else None, *(c.artifact.version for c in beside)), refused


def test_what_the_teacher_was_not_told_outlives_a_restart() -> None:
    """If this fails, more decisions get their label than ever waited."""
    spec = msgspec.json.encode(StageSpec(refer("fraud", {"learn": "true"}), 1)).decode()
    stages = [open_stage(spec, subtask) for subtask in (0, 1, 0)]
    last = [stage for stage in stages if isinstance(stage, FeatureOperator)]
    last[0]._tally.waiting = {"fraud-1": 2.0}
    kept = [stage.snapshot(b"") for stage in last[:2]]
    for stage in last[1:]:
        for one in kept:
            stage.restore(one)
    assert [stage._tally.waiting for stage in last[1:]] == [{}, {"fraud-1": 2.0}]


def test_only_what_was_announced_is_taken_up(registry: Registry) -> None:
    """Bytes that are not the announced ones decide, or a bad announcement takes the champion away without a word."""
    for model in (A, B):
        registry.register("small", model)
    registry.promote("small", A.version)
    models, good = Models(small(), "small"), announcement(registry, "small")
    assert good.champion is not None
    bad: list[Announcement] = [
        msgspec.structs.replace(good, champion=msgspec.structs.replace(good.champion, **wrong))
        for wrong in (
            {"sha256": "0" * 64}, {"size": good.champion.size + 1}, {"size": 1}, {"url": "/nowhere"},
            {"url": "what://is/this"}, {"version": "small-000000000000"}, {"manifest": msgspec.Raw(b"[]")},
        )
    ]  # fmt: skip
    for revision, one in enumerate(bad, start=10):
        models.announced(encode(msgspec.structs.replace(one, revision=revision)), wait=True)
        assert told(models) == ((None, B.version), [one.champion.version if one.champion else ""])
    for garbage in (b"", b"\xff\x00", b"{}", encode(good)[:-5], b'{"workload": "small", "revision": -1, "at": 0}'):
        models.announced(garbage, wait=True)
        assert told(models) == (None, ["announcement"])
    models.announced(encode(msgspec.structs.replace(good, workload="other", revision=99)), wait=True)
    models.announced(encode(msgspec.structs.replace(good, revision=3)), wait=True)
    assert told(models) == (None, [])
    models.announced(encode(msgspec.structs.replace(good, revision=20)), wait=True)
    assert told(models) == ((A.version, B.version), [])
    assert told(models) == (None, [])
    models.announced(encode(msgspec.structs.replace(good, revision=20, champion=None)), wait=True)
    assert told(models) == (None, [])
    wrong = msgspec.structs.replace(bad[0], revision=21)  # of a version that is loaded
    models.announced(encode(wrong), wait=True)
    assert told(models) == ((A.version, B.version), [A.version])
    broken = tuple(msgspec.structs.replace(version, sha256="1" * 64) for version in good.challengers)
    models.announced(encode(msgspec.structs.replace(good, revision=22, challengers=broken)), wait=True)
    assert told(models) == ((A.version,), [B.version])
    models.announced(encode(msgspec.structs.replace(good, revision=23, champion=None)), wait=True)
    assert told(models) == ((None, B.version), [])


def test_a_good_announcement_counts_though_a_bad_one_follows(registry: Registry) -> None:
    """While a model is being tried, a newer, bad announcement makes the job forget it."""
    registry.register("small", A)
    registry.promote("small", A.version)
    models, good = Models(small(), "small"), announcement(registry, "small")
    assert good.champion is not None
    wrong = msgspec.structs.replace(good.champion, sha256="0" * 64)
    models.announced(encode(good), wait=False)
    models.announced(encode(msgspec.structs.replace(good, revision=9, champion=wrong)), wait=True)
    assert told(models) == ((A.version,), [A.version])


def test_what_was_refused_is_tried_again_when_announced_again(registry: Registry) -> None:
    """`millrace models W --announce` does nothing once the file that was away is back."""
    registry.register("small", A)
    registry.promote("small", A.version)
    models, good = Models(small(), "small"), encode(announcement(registry, "small"))
    (file,) = Path(registry.url).rglob("*.onnx")
    away = file.rename(file.with_suffix(".away"))
    models.announced(good, wait=True)
    assert told(models) == ((None,), [A.version])
    away.rename(file)
    models.announced(good, wait=True)
    assert told(models) == ((A.version,), [])
    models.announced(good, wait=True)
    assert told(models) == (None, [])


def test_the_newest_announcement_is_tried_first(registry: Registry) -> None:
    """A rollback waits behind every version that was announced before it: minutes, where learning makes many."""
    registry.register("small", A)
    registry.promote("small", A.version)
    models, good = Models(small(), "small"), announcement(registry, "small")
    missing = (msgspec.structs.replace(good.champion, url="/nowhere"),)  # type: ignore[type-var]
    with models._loading:
        for revision in (5, 6, 7):
            models.announced(encode(msgspec.structs.replace(good, revision=revision, challengers=missing)), wait=False)
        models.announced(encode(msgspec.structs.replace(good, revision=8)), wait=False)
    models.announced(encode(msgspec.structs.replace(good, revision=9)), wait=True)
    assert told(models) == ((A.version,), [])


def test_a_champion_decides_before_its_challengers_have_passed(registry: Registry) -> None:
    """A promotion waits for the trials of every challenger: half a minute on a busy machine."""
    for model in (A, B, C):
        registry.register("small", model)
    registry.promote("small", A.version)
    models, first = Models(small(), "small"), announcement(registry, "small")
    (file,) = [file for file in Path(registry.url).rglob("*.onnx") if B.version in str(file)]
    file.unlink()
    os.mkfifo(file)  # B's trial waits for its bytes
    models.announced(encode(first), wait=False)
    heard = list[tuple[str | None, ...]]()
    wait(lambda: bool(heard.extend(filter(None, told(models)[:1])) or heard), 20, "a champion")
    assert heard == [(A.version,)]
    registry.promote("small", C.version)
    models.announced(encode(announcement(registry, "small")), wait=False)
    file.write_bytes(B.onnx)
    file.unlink()
    heard.clear()
    wait(lambda: bool(heard.extend(filter(None, told(models)[:1])) or heard), 20, "the next")
    assert heard == [(C.version, B.version, A.version)]


def rows(count: int, days: float, first: int = 20, seed: int = 1) -> list[bytes]:
    """Examples on their way to the teacher; the champion is mostly wrong, what was learned mostly right."""
    rng, of, made = np.random.default_rng(seed), small(), []
    known = np.sort(rng.integers(0, int(days * DAY), count)) + first * DAY
    for i, at in enumerate(known.tolist()):
        row = rng.normal(0, 10, len(of.names))
        label = bool(row[of.names.index("value")] + rng.normal(0, 3) > 0)
        versions, scores = (OWN.version, LEARNED), (0.3 + 0.4 * (not label), 0.1 + 0.8 * label)
        served = Served(f"k{i}", at - 1000, 1.0, versions, scores, row.tobytes(), layouts.number(of.names))
        made.append(frames.row(at, b"", _pack(Taught(f"e{seed}-{i}", at, label, False, "", served))))
    return made


Said = tuple[list[Announcement], list[tuple[str, dict[str, object]]]]


def teach(operator: LearnOperator, records: Sequence[bytes], size: int = 300) -> Said:
    """Announcements, and what is signalled but measures, of `records` in batches."""
    announced, signals = [], []
    for start in range(0, max(len(records), 1), size):
        part = records[start : start + size]
        request = java.build_request([0] * len(part), [0] * len(part), part, [b""], [b""])
        for tag, frame in msgspec.msgpack.decode(operator.process(request), type=list[tuple[int, bytes]]):
            value = java.sink_parts(frame)[1] or b""
            if tag == frames.MODEL:
                announced.append(decode(value))
            else:
                found = json.loads(value)
                signals += [(found["kind"], found["detail"])] if found["kind"] != "evaluation" else []
    return announced, signals


def opened(of: Plan, registry: Registry) -> LearnOperator:
    """The operator as a job opens it."""
    return LearnOperator(of, Topics("small"), str(registry.url), quality=lambda *told: None)


def serving(announced: Announcement) -> tuple[str | None, list[str]]:
    """Champion and challengers."""
    champion = announced.champion.version if announced.champion else None
    return champion, [version.version for version in announced.challengers]


def test_a_kill_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart a job learns, promotes and announces something else than without it, or cannot start."""
    monkeypatch.setattr(loop, "LOOK", 0.0)
    of, records = small(promotion=rules.promotion(labels=500, settle="0s")), rows(3000, 6.0)
    whole = Registry(tmp_path / "whole")
    expected, signals = teach(opened(of, whole), records)
    assert "promote" in {kind for kind, _ in signals}
    assert len(expected) >= 5
    entries = whole.versions("small")
    ranges = [entry.range for entry in entries if entry.by == "learning" and entry.version != OWN.version]
    first, *others = [known for known in ranges if known is not None]
    assert len(others) + 1 == len(ranges)
    assert {since for since, _ in others} == {first[0]}
    assert [until for _, until in others] == sorted({until for _, until in others})
    for number, (cut, lost) in enumerate([(300, 0), (1200, 0), (300, 1500), (900, 2100), (2400, 600)]):
        registry = Registry(tmp_path / str(number))
        first = opened(of, registry)
        found, heard = teach(first, records[:cut])
        state = first.snapshot(b"")
        teach(first, records[cut : cut + lost])  # not in the checkpoint: it comes again
        second = opened(of, registry)
        second.restore(state)
        assert second.snapshot(b"") == state
        more, said = teach(second, records[cut:])
        assert [*heard, *said] == signals
        if not lost:
            assert [serving(one) for one in (*found, *more)] == [serving(one) for one in expected]
        assert serving(more[-1]) == serving(expected[-1])
        assert set(registry.challengers("small")) == set(whole.challengers("small"))
        assert registry.champion("small") == whole.champion("small")
        assert {e.version for e in registry.versions("small")} == {e.version for e in whole.versions("small")}


def test_measures_are_told_by_segment_and_span(registry: Registry) -> None:
    """If this fails, metrics or `millrace models` lack what fades, the last days, or a segment."""
    told: dict[tuple[str, str], dict[str, float]] = {}
    of = small(segment="key_count_1h")
    operator = LearnOperator(of, Topics("small"), str(registry.url), lambda *said: told.update({said[:2]: said[2]}))
    records = rows(3000, 6.0)
    for i, record in enumerate(records):
        taught = msgspec.msgpack.decode(frames.payload(record), type=Taught)
        row = np.frombuffer(taught.served.row).copy()
        row[of.names.index("key_count_1h")] = i % 2
        served = msgspec.structs.replace(taught.served, row=row.tobytes())
        records[i] = frames.row(taught.known, b"", _pack(msgspec.structs.replace(taught, served=served)))
    teach(operator, records)
    assert {("small", ""), ("small", "0"), ("small", "1"), ("", "")} <= set(told)
    for span in ("prequential", "fading", "window"):
        whole, *parts = (told["small", of] for of in ("", "0", "1"))
        assert whole[f"{span}_n"] == pytest.approx(sum(part[f"{span}_n"] for part in parts))
        assert {f"{span}_{of}" for of in ("ap", "roc_auc", "log_loss", "brier", "calibration_error")} <= set(whole)
    assert told["small", ""]["window_n"] == pytest.approx(told["small", ""]["labels"])
    assert told["", ""]["label_delay_p50"] == pytest.approx(1000, rel=0.05)
    report = registry.reported("small")
    assert report is not None
    assert quality(report, "lineages")["small"] == told["small", ""]
    Path(registry.url, "small", "report.json").write_text("{")
    assert registry.reported("small") is None


def test_what_waits_is_told_to_the_teacher(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, nobody knows which share of what a model decided is still unlabelled, or a restart forgets it."""
    monkeypatch.setattr(loop, "LOOK", 0.0)
    none, weight = np.empty((3, 0)), np.array([4.0, 0.0, 1.0])
    scored = (np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.2, np.nan]))
    decided = Decided(b"", [True] * 3, ["a"] * 3, (OWN.version, LEARNED), scored, none, 0, weight)
    tally, operator, records = loop.Tally(), opened(small(), registry), rows(3000, 6.0)
    told = [frame for _ in range(1000) for frame in tally.add(decided)]
    assert operator.process(java.build_request([0] * 1000, [1] * 1000, told, [b""], [b""])) == _pack([])
    other = opened(small(), registry)
    other.restore(operator.snapshot(b""))
    for one in (operator, other):
        teach(one, records)
        versions = one._teacher.report()["evaluation"]["versions"]  # type: ignore[index]
        for version, served in ((OWN.version, 5000), (LEARNED, 4000)):
            part = versions[version]
            assert part["served"] == served
            assert part["unlabelled"] == pytest.approx(1 - part["overall"]["n"] / served)


def test_the_registry_says_what_serves(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Aliases differ from what the teacher decided, old versions stay in shadow, or the old champion leaves it."""
    monkeypatch.setattr(loop, "LOOK", 0.0)
    operator = opened(small(promotion=rules.promotion(labels=500, settle="0s")), registry)
    announced, signals = teach(operator, rows(3000, 6.0))
    lineup = operator._teacher.lineup
    assert lineup.champion.startswith("small-logistic-")
    assert serving(announced[-1]) == (lineup.champion, [OWN.version])
    assert (registry.champion("small"), registry.challengers("small")) == (lineup.champion, (OWN.version,))
    (promoted,) = (r for r in registry.history("small") if r.why.startswith("promote by test"))
    assert promoted.by == "learning"
    assert [one.revision for one in announced] == sorted({one.revision for one in announced})
    worse = rows(3000, 6.0, first=30, seed=2)  # the champion of old is right by now
    turned = []
    for record in worse:
        taught = msgspec.msgpack.decode(frames.payload(record), type=Taught)
        good = 0.1 + 0.8 * taught.label
        versions = taught.served.versions[::-1]  # the champion is named first
        served = msgspec.structs.replace(taught.served, versions=versions, scores=(1 - good, good))
        turned.append(frames.row(taught.known, b"", _pack(msgspec.structs.replace(taught, served=served))))
    announced, signals = teach(operator, turned)
    assert "rollback" in {kind for kind, _ in signals}
    assert None in [serving(one)[0] for one in announced]
    assert (registry.champion("small") or OWN.version) == operator._teacher.lineup.champion


def test_what_people_decide_is_followed(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A promotion, a rollback or a freeze by hand is undone by the job, or ends it."""
    monkeypatch.setattr(loop, "LOOK", 0.0)
    operator = opened(small(), registry)
    teach(operator, rows(900, 3.0))
    learned = registry.challengers("small")[0]
    registry.promote("small", learned, by="ann")
    (announced, *_), signals = teach(operator, [])
    assert signals == [("champion", {"version": learned, "instead": OWN.version, "by": "hand"})]
    assert serving(announced) == (learned, [OWN.version])
    again, anew = opened(small(), Registry(registry.url)), Registry(registry.url + "-2")
    assert [d["by"] for kind, d in teach(again, [])[1] if kind == "champion"] == ["hand"]
    anew.register("small", registry.get("small", learned))
    anew.promote("small", learned, by=loop.BY)
    assert [d["by"] for kind, d in teach(opened(small(), anew), [])[1] if kind == "champion"] == ["registry"]
    registry.freeze("small", by="ann")
    assert teach(operator, rows(600, 2.0, first=24, seed=2)) == ([], [])
    assert registry.champion("small") == operator._teacher.lineup.champion == learned
    registry.freeze("small", False, by="ann")
    announced_, _ = teach(operator, rows(600, 2.0, first=27, seed=3))
    newer = registry.champion("small")
    assert newer == operator._teacher.lineup.champion != learned
    assert serving(announced_[-1])[0] == newer
    registry.register("small", A, by="bob")
    registry.register("small", B, by="bob")
    registry.promote("small", A.version, by="bob")
    teach(operator, rows(900, 3.0, first=31, seed=4))
    assert registry.champion("small") == operator._teacher.lineup.champion == A.version
    assert B.version in registry.challengers("small")
    registry.rollback("small", by="bob")
    teach(operator, [])
    assert registry.champion("small") == operator._teacher.lineup.champion
    again = opened(small(), registry)
    again.restore(operator.snapshot(b""))
    assert teach(again, []) == ([], [])


def test_a_rollback_to_the_model_of_the_definition_is_followed(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People go back to the model that the workload names, and the job goes on with another."""
    monkeypatch.setattr(loop, "LOOK", 0.0)
    operator = opened(small(), registry)
    teach(operator, rows(600, 2.0))
    registry.promote("small", registry.challengers("small")[0], by="ann")
    teach(operator, [])
    registry.rollback("small", by="ann")
    teach(operator, rows(600, 2.0, first=24, seed=2))
    assert operator._teacher.lineup.champion == OWN.version
    assert registry.champion("small") in (None, OWN.version)


def test_what_people_register_takes_part(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """`millrace train` makes a challenger that is scored and never promoted, or one that lost comes back by itself."""
    monkeypatch.setattr(loop, "LOOK", 0.0)
    of = small((), promotion=rules.promotion(labels=500, settle="0s"))
    operator = opened(of, registry)
    teach(operator, rows(300, 1.0))
    registry.register("small", C, by="ann")
    announced, signals = teach(operator, [])
    assert C.version in serving(announced[-1])[1]
    assert [d["by"] for kind, d in signals if kind == "model" and d["version"] == C.version] == ["hand"]

    def scored(records: list[bytes], mine: float) -> list[bytes]:
        """C is nearest to the truth by `mine`, beside the definition's model."""
        made = []
        for record in records:
            taught = msgspec.msgpack.decode(frames.payload(record), type=Taught)
            right = mine if taught.label else 1 - mine
            versions, scores = (OWN.version, C.version), (0.5, right)
            if mine < 0.5:  # it is champion, which is named first
                versions, scores = versions[::-1], scores[::-1]
            served = msgspec.structs.replace(taught.served, versions=versions, scores=scores)
            made.append(frames.row(taught.known, b"", _pack(msgspec.structs.replace(taught, served=served))))
        return made

    restored = opened(of, registry)
    restored.restore(operator.snapshot(b""))
    _, signals = teach(restored, scored(rows(2000, 3.0, first=22, seed=2), 0.9))
    assert [d["version"] for kind, d in signals if kind == "promote"] == [C.version]
    assert registry.champion("small") == C.version
    _, signals = teach(restored, scored(rows(3000, 4.0, first=26, seed=3), 0.1))
    assert [d["instead"] for kind, d in signals if kind == "rollback"] == [C.version]
    teach(restored, rows(600, 2.0, first=31, seed=4))
    assert C.version not in (registry.champion("small"), *registry.challengers("small"))
    assert C.version not in (restored._teacher.lineup.champion, *restored._teacher.lineup.challengers)
    registry.promote("small", C.version, by="ann")
    teach(restored, [])
    assert restored._teacher.lineup.champion == C.version


def test_a_registry_that_is_down_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the registry does not answer, events are not decided, or what was learned then is never announced."""
    monkeypatch.setattr(loop, "LOOK", 0.0)
    path = tmp_path / "models"
    path.write_text("no folder")
    operator = opened(small(), Registry(path))
    records = rows(1200, 4.0)
    announced, signals = teach(operator, records[:800])
    assert (announced, {kind for kind, _ in signals}) == ([], {"model", "unavailable"})
    again = opened(small(), Registry(path))
    again.restore(operator.snapshot(b""))
    path.unlink()
    announced, _ = teach(again, [])
    assert [serving(one) for one in announced] == [(None, [])]  # what was made meanwhile died with the first
    for one in (operator, again):
        announced, _ = teach(one, records[800:])
        assert serving(announced[-1]) == (None, list(one._teacher.lineup.challengers))


@pytest.mark.parametrize("damage", [b'{"revision":', b"\xff\xfe", b""])
def test_a_damaged_registry_ends_nothing(registry: Registry, monkeypatch: pytest.MonkeyPatch, damage: bytes) -> None:
    """A file that a full disk cut makes the job of everyone fail again and again."""
    monkeypatch.setattr(loop, "LOOK", 0.0)
    operator, records = opened(small(), registry), rows(1200, 4.0)
    teach(operator, records[:500])
    newest = max(Path(registry.url).rglob("aliases/*.json"))
    good = newest.read_bytes()
    newest.write_bytes(damage)
    _, signals = teach(operator, records[500:800])
    assert any(kind == "unavailable" and newest.name in detail["reason"] for kind, detail in signals)
    newest.write_bytes(good)
    announced, _ = teach(operator, records[800:])
    assert serving(announced[-1]) == (None, list(operator._teacher.lineup.challengers))


def test_examples_come_of_decisions_and_outcomes() -> None:
    """The job's join loses an example, a timer, or a value of it on the way to the topic and the teacher."""
    of, topics = small(), Topics("small")
    operator = ExampleOperator(of, topics, report=True)
    row = np.arange(float(len(of.names)))
    about = "k", 50 * DAY, 2.0, ("v", "w"), (0.5, 0.25)
    decision = frames.row(50 * DAY, b"e1", _pack(Served(*about, row.tobytes(), layouts.number(of.names))))
    outcome = {"event": "e1", "at": 51 * DAY, "label": True, "source": "bank"}
    good, bad = (
        java.write_source(java.Source(51 * DAY, 0, i, NOW, b"e1", value))
        for i, value in enumerate((json.dumps(outcome).encode(), b'{"event": "e1"}'))
    )

    def process(state: bytes, *records: tuple[int, bytes]) -> tuple[list[tuple[int, bytes]], bytes, int]:
        ports, values = [port for port, _ in records], [value for _, value in records]
        request = java.build_request([0] * len(records), ports, values, [b"e1"], [state])
        outputs, (after,), (timer,) = java.parse_response(operator.process(request))
        return outputs, after or b"", timer

    outputs, waiting, timer = process(b"", (frames.MAIN, decision), (frames.SIDE, bad))
    assert ([tag for tag, _ in outputs], timer) == ([frames.DEADLETTER], 60 * DAY)
    _, waited, timer = process(frames.WAITING + decision, (frames.SIDE, bad))
    assert (waited, timer) == (waiting, 60 * DAY), "what is no outcome ends the wait for one"
    for state in (waiting, frames.WAITING + decision):  # as Python left it, and as it is where Python was not called
        outputs, due, timer = process(state, (frames.SIDE, good), (frames.MAIN, decision))
        assert (outputs, timer) == ([], 51 * DAY)
    clock = (51 * DAY).to_bytes(8, "little")
    (example, lesson), done, timer = process(due, (frames.TIMER, clock))
    assert (timer, len(done)) == (frames.NONE, 2)
    said = json.loads(java.sink_parts(example[1])[1] or b"")
    assert {name: said[name] for name in ("event", "label", "label_at", "weight", "source", "presumed")} == {
        "event": "e1", "label": True, "label_at": 51 * DAY, "weight": 2.0, "source": "bank", "presumed": False,
    }  # fmt: skip
    assert said["scores"] == {"v": 0.5, "w": 0.25}
    assert list(said["features"].values()) == row.tolist()
    taught = msgspec.msgpack.decode(frames.payload(lesson[1]), type=Taught)
    assert (lesson[0], taught.id, taught.known, taught.served.row) == (frames.LESSON, "e1", 51 * DAY, row.tobytes())
    (example, _), _, _ = process(frames.WAITING + decision, (frames.TIMER, (60 * DAY).to_bytes(8, "little")))
    assert json.loads(java.sink_parts(example[1])[1] or b"")["presumed"]
    assert process(done, (frames.MAIN, decision), (frames.SIDE, good), (frames.TIMER, clock)) == ([], done, frames.NONE)


def test_a_feature_more_or_less(registry: Registry) -> None:
    """A decision that waited while the features changed ends the job, or its values are learned as those of others."""
    old = small()
    windows = "1m", "1h", "1d"
    features = by("key", count("2m", *windows), mean("value", *windows), max_("value", *windows))
    new = plan(replace(old.workload, features=(features,)))
    assert set(old.names) < set(new.names)
    assert new.names[: len(old.names)] != old.names
    for before, now in ((old, new), (new, old)):
        row = np.arange(float(len(before.names)))
        about = "k", 50 * DAY, 2.0, (OWN.version,), (0.5,)
        decision = _pack(Served(*about, row.tobytes(), layouts.number(before.names)))
        first, operator = (ExampleOperator(of, Topics("small"), report=True) for of in (before, now))
        for state in (first.snapshot(b""), operator.snapshot(b"")):
            operator.restore(state)
        due = frames.WAITING + frames.row(50 * DAY, b"e1", decision), (60 * DAY).to_bytes(8, "little")
        request = java.build_request([0], [frames.TIMER], [due[1]], [b"e1"], [due[0]])
        ((_, example), (_, lesson)), _, _ = java.parse_response(operator.process(request))
        served = json.loads(java.sink_parts(example)[1] or b"")["features"]
        assert served == dict(zip(before.names, row.tolist(), strict=True))
        teacher, after = opened(before, registry), opened(now, registry)
        after.restore(teacher.snapshot(b""))
        teach(after, [lesson])
        (learned,) = after._teacher._waiting
        known = {name: served.get(name, np.nan) for name in now.names}
        np.testing.assert_array_equal(learned.row, list(known.values()))
        alone = opened(now, registry)  # one that was told before it was ever asked for a snapshot
        teach(alone, [lesson])
        np.testing.assert_array_equal(alone._teacher._waiting[0].row, learned.row)
        back = opened(before, registry)
        back.restore(after.snapshot(b""))
        known = {name: known.get(name, np.nan) for name in before.names}
        np.testing.assert_array_equal(back._teacher._waiting[0].row, list(known.values()))
        unknown = Served(*about, row.tobytes(), 7)
        strange = frames.row(60 * DAY, b"", _pack(Taught("e2", 60 * DAY, True, False, "", unknown)))
        with pytest.raises(ModelRejected, match=r"layout 7.*deploy the definition"):
            teach(after, [strange])


def test_a_champion_that_cannot_be_scored_decides_no_contest(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People's champion reads a feature that is gone: nobody can be compared with it, and nothing is promoted."""
    monkeypatch.setattr(loop, "LOOK", 0.0)
    operator = opened(small(promotion=rules.promotion(labels=500, settle="0s")), registry)
    teach(operator, rows(300, 1.0))
    theirs = linear("small", {"value": 0.5, "gone": 1.0})
    registry.register("small", theirs, by="ann")
    registry.promote("small", theirs.version, by="ann")
    again = opened(small(promotion=rules.promotion(labels=500, settle="0s")), registry)
    again.restore(operator.snapshot(b""))
    teach(again, [])
    assert again._teacher.lineup.champion == OWN.version
    _, signals = teach(again, rows(2000, 4.0, first=22, seed=3))
    assert "promote" in {kind for kind, _ in signals}
