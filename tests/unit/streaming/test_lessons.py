"""Learning in a replay: no example before its label was known, none twice, and no decision that knows the future."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import rules
from models.exploration import by_chance, exploration
from models.learners import Logistic
from operators.examples import MOST, ExampleJoin
from schemas.fraud import FraudOutcome
from streaming.decider import Decided
from streaming.engine import Events, Truth
from streaming.learning import learning
from streaming.lesson import Lesson
from streaming.lessons import Lessons
from streaming.plan import Plan, plan
from streaming.replay import Replay, Step
from streaming.simulator import Spec, simulate
from streaming.workloads import load

NOW, DAY, HORIZON = 1_800_000_000_000, 86_400_000, 20


def waiting(presume: bool | None) -> Plan:
    """A plan whose decisions wait for 20 ms."""
    rule = replace(learning(presume=presume), horizon=HORIZON)
    return plan(replace(load("reference"), outcome=FraudOutcome, learning=rule))


PLANS = {presume: waiting(presume) for presume in (None, False, True)}


def served(of: Plan, batch: Sequence[tuple[str, int]]) -> tuple[Events, Decided]:
    """Decisions about events of these ids and times; the id of an event is its row."""
    ids, at = [id for id, _ in batch], np.array([at for _, at in batch], np.int64)
    k, columns = len(ids), np.full((len(ids), len(of.names)), 1.0)
    columns[:, 0] = [float(id) for id in ids]
    hashes, scores = np.zeros(k, np.uint64), np.full(k, 0.5)
    events = Events(np.arange(k), ids, (["k"] * k,), at, hashes, columns[:, :1], columns)
    weight = np.array([0.0 if id.endswith("9") else 1.0 for id in ids])
    return events, Decided(b"\n" * k, [True] * k, ["review"] * k, ("v",), (scores,), columns, 0, weight)


def replayed(of: Plan, events: list[tuple[str, int]], outcomes: list[Truth], sizes: list[int]) -> list[Lesson]:
    """Lessons as a replay gets them, in chunks of `sizes`."""
    lessons, found, start = Lessons(of, sorted(outcomes, key=lambda truth: truth.at)), list[Lesson](), 0
    for size in [*sizes, len(events)]:
        if chunk := events[start : start + size]:
            before = min(at for _, at in chunk)
            found += (told := lessons.before(before))
            assert all(lesson.known < before for lesson in told)
            lessons.served(*served(of, chunk))
        start += size
    return found + lessons.before(10**6)


def by_join(
    of: Plan, events: list[tuple[str, int]], outcomes: list[Truth], ahead: bool = False
) -> list[tuple[object, ...]]:
    """What the join of a cluster makes of the same, with a clock that is never late; or outcomes read `ahead` of all
    events, the newest first."""
    assert of.workload.learning is not None
    join, states, timers = (
        ExampleJoin(HORIZON, of.workload.learning.presume),
        dict[str, bytes](),
        set[tuple[int, str]](),
    )
    made: list[tuple[object, ...]] = []
    ordered = sorted(outcomes, key=lambda truth: -truth.at if ahead else truth.at)
    came = [(-1 if ahead else t.at, 0, i, t) for i, t in enumerate(ordered)]
    both = [*came, *((at, 1, i, id) for i, (id, at) in enumerate(events) if not id.endswith("9"))]

    def fire(now: int) -> None:
        for timer in sorted(t for t in timers if t[0] < now):
            timers.discard(timer)
            states[timer[1]], due, _ = join.due(states[timer[1]], timer[0])
            if due is not None:
                made.append((timer[1], due.known, due.label, due.presumed, due.source))

    for at, _, _, what in sorted(both, key=lambda one: one[:3]):
        fire(at)
        id = what.event if isinstance(what, Truth) else str(what)
        if isinstance(what, Truth):
            states[id], when, _ = join.outcome(states.get(id, b""), what.at, what.label, what.source)
        else:
            states[id], when, _ = join.decision(states.get(id, b""), at, b"row")
        timers |= set() if when is None else {(when, id)}
    fire(10**6)
    return sorted(made, key=lambda one: (one[1], one[0]))


numbers = st.integers(0, 12).map(str)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.tuples(numbers, st.integers(0, 60)), max_size=14),
    st.lists(st.builds(Truth, numbers, st.integers(0, 100), st.booleans(), st.sampled_from("ab")), max_size=20),
    st.lists(st.integers(1, 4), max_size=8),
    st.sampled_from([None, False, True]),
)
def test_a_replay_joins_as_a_cluster(
    events: list[tuple[str, int]], outcomes: list[Truth], sizes: list[int], presume: bool | None
) -> None:
    """A replay learns other labels than the job, twice, too early, or what depends on the size of its chunks."""
    of = PLANS[presume]
    events.sort(key=lambda event: event[1])
    found = replayed(of, events, outcomes, sizes)
    told = [(lesson.id, lesson.known, lesson.label, lesson.presumed, lesson.source) for lesson in found]
    assert told == by_join(of, events, outcomes)
    if all(count <= MOST for count in Counter(truth.event for truth in outcomes).values()):
        assert told == by_join(of, events, outcomes, ahead=True)
    first = dict(reversed(events))
    assert len({lesson.id for lesson in found}) == len(found)
    assert all(lesson.known >= lesson.at == first[lesson.id] for lesson in found)
    assert all(lesson.known == lesson.at + HORIZON for lesson in found if lesson.presumed)
    assert all((lesson.row[0], lesson.weight) == (float(lesson.id), 1.0) for lesson in found)


def test_a_late_event_learns_what_was_known_first() -> None:
    """If this fails, a replay learns the newest of several outcomes of a late event, and a cluster another."""
    events, outcomes = [("1", 5), ("3", 60), ("2", 30)], [Truth("2", 40, True, ""), Truth("2", 50, False, "")]
    found = {lesson.id: (lesson.known, lesson.label) for lesson in replayed(PLANS[None], events, outcomes, [1, 1])}
    assert found == {"2": (40, True)}
    both = [Truth("2", 10, True, ""), Truth("2", 20, False, ""), *outcomes]  # before the event, the newest counts
    found = {lesson.id: (lesson.known, lesson.label) for lesson in replayed(PLANS[None], events, both, [1, 1])}
    assert found == {"2": (30, False)}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(numbers, st.integers(0, 60)), max_size=14),
    st.lists(st.builds(Truth, numbers, st.integers(0, 100), st.booleans(), st.just("")), max_size=20),
    st.lists(st.integers(1, 4), max_size=8),
)
def test_events_out_of_order_teach_once(events: list[tuple[str, int]], outcomes: list[Truth], sizes: list[int]) -> None:
    """Where a file is not in order of time, an example comes before its label was known, twice, or not at all."""
    found = replayed(PLANS[False], events, outcomes, sizes)
    assert sorted(lesson.id for lesson in found) == sorted({id for id, _ in events if not id.endswith("9")})
    assert all(lesson.known >= lesson.at for lesson in found)


@cache
def world() -> tuple[list[bytes], list[bytes]]:
    """Events and outcomes of a small simulation."""
    made = simulate(Spec(cards=150, terminals=300, days=25))
    return [line.encode() for line in made.event_lines()], [line.encode() for line in made.outcome_lines()]


def fraud(**options: object) -> Plan:
    """The fraud workload with its quick learner only."""
    base = load("fraud", {"learn": "true"})
    assert base.learning is not None
    return plan(replace(base, learners=(Logistic(rate=0.002),), learning=replace(base.learning, **options)))  # type: ignore[arg-type]


def ran(of: Plan, outcomes: Sequence[bytes], refit: int = 0) -> tuple[Replay, list[Step]]:
    """A replay of the world that learns."""
    replay = Replay(of, NOW, teach=True, refit=refit)
    return replay, list(replay.run(world()[0], outcomes))


def test_no_decision_knows_what_came_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label that is known only later changes a score: every figure of a replay is worth nothing."""
    monkeypatch.setattr("streaming.replay.CHUNK", 100)  # of which a day has two or three
    events, outcomes = world()
    turned = json.loads(events[0])["at"] // DAY * DAY + 15 * DAY
    flipped = []
    for line in outcomes:
        outcome = json.loads(line)
        outcome["label"] ^= outcome["at"] >= turned
        flipped.append(json.dumps(outcome).encode())
    of = fraud()
    (replay, steps), (_, others) = ran(of, outcomes), ran(of, flipped)
    assert replay.teacher is not None
    assert replay.teacher.counts["examples"] > 1000
    pairs = [
        (at, one, other, scores)
        for step, else_ in zip(steps, others, strict=True)
        for at, one, other, scores in zip(
            step.events.at.tolist(), step.decided.values, else_.decided.values,
            zip(np.array(step.decided.scored).T.tolist(), np.array(else_.decided.scored).T.tolist(), strict=True),
            strict=True,
        )
    ]  # fmt: skip
    before = [pair for pair in pairs if pair[0] <= turned]
    assert len({version for step in steps for version in step.decided.versions}) > 10
    assert len(before) > 3000
    assert all(one == other and mine == theirs for _, one, other, (mine, theirs) in before)
    assert any(mine != theirs for _, _, _, (mine, theirs) in pairs[len(before) :])


@pytest.mark.parametrize("chunk", [100, 100_000])
def test_what_was_known_at_the_end_is_learned(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """If this fails, a replay never learns of its last events, and nothing of a small file, or of what came later."""
    monkeypatch.setattr("streaming.replay.CHUNK", chunk)
    at = {event["id"]: event["at"] for event in map(json.loads, world()[0])}
    outcomes = list(map(json.loads, world()[1]))
    known = sum(max(outcome["at"], at[outcome["event"]]) < max(at.values()) for outcome in outcomes)
    replay, steps = ran(fraud(presume=None), world()[1])
    assert replay.teacher is not None
    assert known == replay.teacher.counts["examples"] + len(replay.teacher._waiting) > 3000
    assert "model" in [signal.kind for step in steps for signal in step.signals]
    assert sum(len(step.events.ids) for step in steps) == len(at)


def test_trees_are_refitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--refit` fits nothing, too early, or its trees are never scored."""
    monkeypatch.setattr("streaming.replay.CHUNK", 300)
    replay, steps = ran(fraud(cap=100_000), world()[1], refit=6 * DAY)
    assert replay.teacher is not None
    versions = [version for step in steps for version in step.decided.versions]
    made = {version for version in versions if version.startswith("fraud-refit-")}
    kinds = [signal for step in steps for signal in step.signals if "refit" in str(signal.detail.get("version"))]
    assert len(made) == len([signal for signal in kinds if signal.kind == "model"]) >= 2
    assert np.isfinite(np.concatenate([step.decided.scored[-1] for step in steps])).all()


def test_drift_has_trees_refitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """`drift(then="refit")` is declared, drift is found, and nothing follows."""
    monkeypatch.setattr("streaming.replay.CHUNK", 300)
    replay = Replay(fraud(drift=rules.drift(then="refit"), cap=100_000), NOW, teach=True)
    assert replay.teacher is not None
    signals = []
    for number, step in enumerate(replay.run(*world())):
        signals += step.signals
        replay.teacher.refit_wanted |= number == 12  # as where what comes has moved
    made = [signal for signal in signals if "refit" in str(signal.detail.get("version"))]
    assert [signal.kind for signal in made][:1] == ["model"]
    assert len([signal for signal in made if signal.kind == "model"]) == 1


def test_chance_decides_a_share_of_what_is_declined() -> None:
    """What chance decides is not the same in every run, is not marked, or weighs wrongly in what is learned."""
    rule = exploration(share=0.25, action="approve", salt="pepper")
    of = fraud(exploration=rule)
    base = load("fraud", {"learn": "true", "review": "0.01", "decline": "0.02"})
    of = plan(replace(base, learners=(), learning=of.workload.learning))
    steps = [ran(of, [])[1] for _ in range(2)]
    assert [s.decided.values for s in steps[0]] == [s.decided.values for s in steps[1]]
    weights: dict[str, list[float]] = {"explored": [], "decline": [], "approve": [], "review": []}
    for step in steps[0]:
        for id, value, action, weight in zip(
            step.events.ids, step.decided.values, step.decided.actions, step.decided.weight.tolist(), strict=True
        ):
            decision = json.loads(value or b"{}")
            chosen = decision.get("explored", False)
            assert decision["action"] == action == ("approve" if chosen else action)
            if chosen or action == "decline":
                assert decision["score"] >= 0.02
                assert chosen == bool(by_chance([id], 0.25, "pepper")[0])
            weights["explored" if chosen else action].append(weight)
    assert {kind: set(found) for kind, found in weights.items()} == {
        "explored": {4.0}, "decline": {0.0}, "approve": {1.0}, "review": {1.0},
    }  # fmt: skip
    tried = len(weights["explored"]), len(weights["explored"]) + len(weights["decline"])
    assert tried[0] / tried[1] == pytest.approx(0.25, abs=4 * (0.1875 / tried[1]) ** 0.5)
