"""The teacher: the same examples give the same models, verdicts and bytes, however they come and whatever is killed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np
import pytest

from models import rules
from models.artifact import Artifact
from models.learners import Logistic
from models.linear import linear
from operators import by, mean
from schemas.errors import DefinitionError, ModelRejected
from schemas.fraud import FraudOutcome
from streaming.learning import learning
from streaming.lesson import Lesson
from streaming.plan import Plan, plan
from streaming.signals import Signal, quality
from streaming.teacher import Teacher
from streaming.workloads import load

DAY = 86_400_000
INPUTS = ("value", "key_count_1h")
OWN = linear("reference", {"value": -0.05, "key_count_1h": 0.0}, bias=0.0)
RULE = rules.promotion(labels=200, alpha=0.2)


def taught(own: Artifact = OWN, inputs: tuple[str, ...] = INPUTS, learners: int = 1, **options: object) -> Plan:
    """A plan of two columns, with a champion that is wrong more often than not, and learners that find out."""
    options = {"promotion": RULE, "segment": "key_count_1h", "amount": "value"} | options
    rule = learning(**options)  # type: ignore[arg-type]
    learns = tuple(Logistic(rate=0.05 / (i + 1), name=f"logistic{i or ''}") for i in range(learners))
    base = replace(load("reference"), name="small", outcome=FraudOutcome, model=own, inputs=inputs)
    return plan(replace(base, learners=learns, learning=rule))


def lessons(
    of: Plan, count: int = 3000, days: float = 8.0, version: str = OWN.version, drift: bool = False, seed: int = 1
) -> list[Lesson]:
    """Examples whose label `value` tells; with `drift`, its sign turns in the middle."""
    rng = np.random.default_rng(seed)
    rows = np.column_stack((rng.normal(0, 10, count), rng.integers(0, 3, (count, len(of.names) - 1))))
    known = np.sort(rng.integers(0, int(days * DAY), count)) + 20 * DAY
    sign = np.where(drift & (np.arange(count) > count // 2), -1, 1)
    labels = sign * rows[:, of.names.index("value")] + rng.normal(0, 5, count) > 0
    made = []
    for i, row in enumerate(rows):
        score, at = 1 / (1 + math.exp(0.05 * row[0])), int(known[i]) - int(rng.integers(0, 2 * DAY))
        made.append(
            Lesson(
                f"e{i}", f"k{i % 50}", at, int(known[i]), bool(labels[i]), i % 7 == 0, 1.0 + i % 2, f"s{i % 3}",
                (version,), (round(score, 6),), row,
            )
        )  # fmt: skip
    return made


def run(
    of: Plan, given: Sequence[Lesson], cuts: Sequence[int] = (), restart: bool = False, serve: bool = True
) -> tuple[Teacher, list[Signal], list[str]]:
    """Teach in parts; with `restart` a new teacher goes on from a snapshot after each part.

    With `serve` the lineage of each learner serves beside the champion, and is 0.2 from the truth.
    """
    teacher, signals, models = Teacher(of), list[Signal](), list[str]()
    if serve:
        names = [*given[0].versions, *(f"small-{learner.name}-000000000000" for learner in of.workload.learners)]
        given = [_scored(lesson, tuple(names)) for lesson in given]
    bounds = [0, *sorted(cuts), len(given)]
    for start, end in pairwise(bounds):
        signals += teacher.add(given[start:end])
        if restart:
            state, teacher = teacher.snapshot(), Teacher(of)
            teacher.restore(state)
            assert teacher.snapshot() == state
    models += [str(signal.detail["version"]) for signal in signals if signal.kind == "model"]
    return teacher, signals, models


def _scored(lesson: Lesson, versions: tuple[str, ...]) -> Lesson:
    better = [lesson.scores[0], *(0.8 if lesson.label else 0.2 for _ in versions[1:])]
    return lesson._replace(versions=versions, scores=tuple(better))


PLANS: list[Callable[[], Plan]] = [
    taught,
    lambda: taught(learners=2, cap=100, drift=rules.drift(then="reset", rows=50)),
    lambda: taught(drift=rules.drift(then="refit", rows=50), segment=None, amount=None),
]


@pytest.mark.parametrize("make", PLANS)
@pytest.mark.parametrize("drift", [False, True])
def test_splits_and_restarts_change_nothing(make: Callable[[], Plan], drift: bool) -> None:
    """What is learned depends on how examples came in batches, or on when a checkpoint was taken up."""
    of = make()
    given = lessons(of, drift=drift)
    whole, signals, models = run(of, given)
    rng = np.random.default_rng(5)
    assert len(models) > 5
    assert {"model", "promote"} <= {signal.kind for signal in signals}
    for pieces, restart in ((1, True), (7, False), (7, True), (400, False), (40, True)):
        cuts = rng.integers(0, len(given), pieces).tolist()
        teacher, told, made = run(of, given, cuts, restart)
        assert made == models
        assert told == signals
        assert teacher.snapshot() == whole.snapshot()
        assert (teacher.lineup, teacher.refit_wanted) == (whole.lineup, whole.refit_wanted)
        assert repr(teacher.report()) == repr(whole.report())


def test_a_learner_is_promoted_by_what_it_says_before_it_learns() -> None:
    """After a change the champion stays until labels of what its challenger served are there: late by their delay."""
    of = taught()
    given = lessons(of)  # nothing but the champion served these
    _, signals, _ = run(of, given, serve=False)
    (promoted,) = (s for s in signals if s.kind in ("promote", "rollback"))
    assert promoted.detail["instead"] == OWN.version
    assert promoted.at < given[0].known + 2 * DAY


def test_what_others_decided_sends_no_champion_away() -> None:
    """A champion falls for what its versions said in shadow, before it knew what it was promoted for."""
    of, names = taught(), (OWN.version, "small-logistic-000000000000")
    wrong = [lesson._replace(versions=names, scores=(0.5, float(not lesson.label))) for lesson in lessons(of)]
    teacher = Teacher(of)
    assert [s.kind for s in teacher.add(wrong) if s.kind in ("promote", "rollback")] == ["promote"]
    decided = [
        lesson._replace(known=lesson.known + 9 * DAY, versions=names[::-1], scores=lesson.scores[::-1])
        for lesson in wrong
    ]
    assert "rollback" in {s.kind for s in teacher.add(decided)}


def test_drift_resets_the_learner_or_asks_for_a_refit() -> None:
    """A declared reset or refit does not happen when the world turns, or when nothing, or only good, happened."""
    actions: tuple[Literal["reset", "refit", "nothing"], ...] = ("reset", "refit", "nothing")
    for then in actions:
        of = taught(drift=rules.drift(then=then), promotion=rules.promotion(labels=10**6))
        better = lessons(of, 6000, drift=True)
        worse = [lesson._replace(label=not lesson.label) for lesson in better]
        for given, kinds, acts in (
            (lessons(of, 6000), set(), False),
            (better, {"loss"}, False),
            (worse, {"loss"}, True),
        ):
            teacher, signals, _ = run(of, given, serve=False)
            assert {s.detail["measure"] for s in signals if s.kind == "drift"} == kinds
            assert teacher.refit_wanted == (acts and then == "refit")
            assert (teacher.pupils.learned()["small-logistic"] < 5000) == (acts and then == "reset")


def test_a_promotion_is_no_drift() -> None:
    """A better champion errs less than the one before, and the learners are reset for it."""
    of = taught(drift=rules.drift(then="reset"))
    _, signals, _ = run(of, lessons(of))
    assert "promote" in {signal.kind for signal in signals}
    assert "drift" not in {signal.kind for signal in signals}


def test_drift_is_watched_though_the_champion_has_a_new_version_every_day() -> None:
    """Labels come when their version serves no longer: drift of a champion that learns is never seen."""
    of = taught(promotion=rules.promotion(labels=10**6))
    teacher, _, models = run(of, lessons(of))
    teacher.follow(models[-1], True, 0)
    later = lessons(of, 6000, version="small-logistic-000000000000", drift=True)
    found = teacher.add([lesson._replace(known=lesson.known + 9 * DAY) for lesson in later])
    assert "drift" in {signal.kind for signal in found}


def _after(given: Sequence[Lesson], days: int, versions: tuple[str, ...], right: float) -> list[Lesson]:
    """The same examples so many days later, served by `versions`, the first of which is right in a share of them."""
    scores = [0.9 if (i % 100 < 100 * right) == lesson.label else 0.1 for i, lesson in enumerate(given)]
    return [
        lesson._replace(
            at=lesson.at + days * DAY, known=lesson.known + days * DAY, versions=versions,
            scores=(score, *lesson.scores)[: len(versions)],
        )
        for lesson, score in zip(given, scores, strict=True)
    ]  # fmt: skip


def test_a_learner_that_starts_anew_has_to_beat_what_it_made() -> None:
    """Drift resets the champion's learner, and what that makes of a day decides at once; or never again."""
    of = taught(drift=rules.drift(then="reset"))
    teacher, signals, _ = run(of, lessons(of))
    assert "promote" in {s.kind for s in signals}
    decides = teacher.lineup.champion
    assert decides.startswith("small-logistic-")
    found = teacher.add(_after(lessons(of), 9, (decides, OWN.version), 0.95))
    bad = lessons(of, 500, 1.0)
    for part in (bad[:1], bad[1:]):  # with the first, a day begins with another version
        found += teacher.add(_after(part, 18, (teacher.lineup.champion,), 0.3))
    kinds = [s.kind for s in found]
    assert kinds.count("reset") == 1, "found no drift"
    (at,) = (i for i, kind in enumerate(kinds) if kind == "reset")
    roles = [s.detail["role"] for s in found if s.kind == "model"]
    assert "champion" in roles[: kinds[:at].count("model")]
    decides = teacher.lineup.champion
    served = teacher.evaluation.report()["versions"][decides]  # type: ignore[index]
    assert served["lineage"] == decides
    assert served["labels"] > 0
    state, other = teacher.snapshot(), Teacher(of)
    other.restore(state)
    assert other.snapshot() == state
    for one in (teacher, other):
        more = one.add(_after(lessons(of, 6000, 16.0), 19, (decides,), 0.6))
        first, *others = (s for s in more if s.kind in ("model", "promote"))
        assert first.detail["role"] == "challenger"
        assert [s.kind for s in others].count("promote") == 1
        assert next(s for s in others if s.kind == "promote").detail["instead"] == decides
        assert decides in one.lineup.challengers, "the old champion is not kept warm"


def test_an_older_version_by_hand_is_no_lineage() -> None:
    """People promote an older version of a learner, or a job starts anew beside its registry, and the next version of a
    learner that knows less takes its place untested."""
    of = taught(promotion=rules.promotion(labels=10**6))
    teacher, _, models = run(of, lessons(of))
    for one, older in ((teacher, models[2]), (Teacher(of), models[-1])):
        assert [s.kind for s in one.follow(older, False, 0)] == ["champion"]
        found = one.add(_after(lessons(of), 9, (older, OWN.version), 0.9))
        assert {s.detail["role"] for s in found if s.kind == "model"} == {"challenger"}
        assert one.lineup.champion == older


def test_what_is_no_number_breaks_nothing() -> None:
    """One event with a NaN or an infinity stops all compiling, poisons the costs, or ends the job."""
    costs = rules.evaluation(costs=rules.Costs(1.0, 1.0, by_amount=True))
    of = taught(evaluation=costs)
    given = lessons(of)
    strange = (math.nan, math.inf, -math.inf, 1e300, -1e308)
    for i in range(0, len(given), 3):
        row = np.array(given[i].row)
        row[i % 2] = strange[i % len(strange)]
        given[i] = given[i]._replace(row=row)
    given[7] = given[7]._replace(scores=(math.nan,))
    teacher, signals, models = run(of, given, serve=False)
    assert len(models) >= 7
    assert "refused" not in {signal.kind for signal in signals}
    assert math.isfinite(quality(teacher.report(), "versions")[OWN.version]["prequential_cost"])
    other = Teacher(of)
    other.restore(teacher.snapshot())
    assert other.snapshot() == teacher.snapshot()


def test_people_decide_and_freeze() -> None:
    """A promotion by hand is not taken up, or a frozen champion is replaced: by a verdict, or a newer version."""
    of = taught(promotion=rules.promotion(labels=10**6))
    given = lessons(of)
    teacher, _, models = run(of, given)
    (challenger,) = teacher.lineup.challengers
    assert challenger == models[-1]
    (told,) = teacher.follow(challenger, True, 99)
    assert (told.kind, told.detail["instead"], told.at) == ("champion", OWN.version, 99)
    assert teacher.lineup.champion == challenger
    assert teacher.lineup.challengers == (OWN.version,)
    assert set(teacher.artifacts) == {challenger, OWN.version}
    revision = teacher.lineup.revision
    assert teacher.follow(challenger, True, 100) == []
    later = [lesson._replace(known=lesson.known + 9 * DAY, at=lesson.at + 9 * DAY) for lesson in given]
    assert not [s for s in teacher.add(later) if s.kind == "model"]
    assert (teacher.lineup.champion, teacher.lineup.revision) == (challenger, revision)
    teacher.follow(None, False, 0)
    much_later = [lesson._replace(known=lesson.known + 18 * DAY) for lesson in given]
    assert [s.detail["role"] for s in teacher.add(much_later) if s.kind == "model"] == ["champion"] * 8
    strange = "reference-123456789abc"  # registered by hand, of no lineage that is taught here
    teacher.follow(strange, False, 0)
    assert teacher.lineup.champion == strange
    teacher.follow(OWN.version, False, 0)
    assert teacher.lineup.champion == OWN.version


def test_frozen_contests_decide_nothing() -> None:
    """A verdict falls though people froze the champion."""
    of = taught()
    teacher, given = Teacher(of), [_scored(x, (OWN.version, "small-logistic-000000000000")) for x in lessons(of)]
    teacher.follow(None, True, 0)
    assert not [s for s in teacher.add(given) if s.kind in ("promote", "rollback")]
    teacher.follow(None, False, 0)
    more = [lesson._replace(known=lesson.known + 9 * DAY) for lesson in given]
    assert [s.kind for s in teacher.add(more) if s.kind in ("promote", "rollback")] == ["promote"]


def test_one_source_counts_so_often_a_day() -> None:
    """Outcomes that one source forges in bulk are learned, or what was presumed counts as from one source."""
    of = taught(cap=10)
    given = lessons(of, 2048, days=1.0)
    teacher, _, _ = run(of, given)
    served = sum(lesson.weight for lesson in given)
    teacher.served(dict.fromkeys(given[0].versions, served))
    waiting = quality(teacher.report(), "versions")[OWN.version]["unlabelled"]
    assert waiting == pytest.approx(0.0, abs=1e-9)
    days = {(lesson.known // DAY, lesson.source) for lesson in given if not lesson.presumed}
    presumed = sum(lesson.presumed for lesson in given)
    expected = {"examples": presumed + 10 * len(days), "presumed": presumed, "waiting": 0}
    counts = teacher.report()["counts"]
    assert {name: counts[name] for name in expected} == expected  # type: ignore[index]
    assert teacher.counts["capped"] == len(given) - expected["examples"]


def test_another_definition_is_refused_or_taken_over() -> None:
    """A job goes on with what another workload learned, or waits for ever for a model that its definition dropped."""
    of = taught(promotion=rules.promotion(labels=10**6))
    teacher, _, _ = run(of, lessons(of), serve=False)
    state = teacher.snapshot()
    with pytest.raises(ModelRejected, match="snapshot"):
        Teacher(plan(replace(of.workload, name="other"))).restore(state)
    for bad in (b"", state[:-1], msgspec.msgpack.encode({"type": "other"})):
        with pytest.raises(ModelRejected):
            Teacher(of).restore(bad)
    for name in ("reference", "another"):
        own = linear(name, {"value": 0.3}, bias=0.1)
        new = Teacher(taught(own=own))
        new.restore(state)
        assert new.lineup.champion == own.version
        assert OWN.version not in new.lineup.challengers
    with pytest.raises(DefinitionError, match="no column 'amuont'"):
        Teacher(taught(amount="amuont"))
    with pytest.raises(DefinitionError, match="amount"):
        taught(evaluation=rules.evaluation(costs=rules.Costs(1.0, 1.0, by_amount=True)), amount=None)


def test_what_a_changed_declaration_leaves_goes_on() -> None:
    """A learner with another setting ends the job, or others with it; what it had made stops deciding."""
    of = taught(learners=2)
    given = lessons(of)
    teacher, signals, _ = run(of, given)
    assert "promote" in {s.kind for s in signals}
    decides, state, learned = teacher.lineup.champion, teacher.snapshot(), teacher.pupils.learned()
    first, second = of.workload.learners
    other = first if decides.startswith("small-logistic1") else second
    kept = second if other is first else first
    assert isinstance(kept, Logistic)
    changes: list[tuple[Plan, set[str], dict[str, int]]] = [
        (taught(learners=3), set(), learned | {"small-logistic2": 0}),
        (taught(learners=2, segment=None), {"evaluation"}, learned),
        (taught(learners=2, inputs=INPUTS[::-1]), {*learned}, dict.fromkeys(learned, 0)),
    ]
    for learners in ((other, replace(kept, rate=0.001)), (other,)):
        name, of_other = f"small-{kept.name}", f"small-{other.name}"
        now = {of_other: learned[of_other]} | {f"small-{x.name}": 0 for x in learners[1:]}
        changes.append((plan(replace(of.workload, learners=learners)), {name}, now))
    for changed, anew, knows in changes:
        new = Teacher(changed)
        told = new.restore(state)
        assert {s.kind for s in told} <= {"reset"}
        assert {s.detail["what"] for s in told} == anew
        assert new.pupils.learned() == knows
        assert new.lineup.champion == decides
        found = new.add(_after(given[:1500], 9, (decides, OWN.version), 0.9))
        roles = {s.detail["role"] for s in found if s.kind == "model" and decides[:-12] in str(s.detail["version"])}
        assert roles <= ({"challenger"} if decides[:-13] in anew else {"champion"})
        again = Teacher(changed)
        again.restore(new.snapshot())
        assert again.snapshot() == new.snapshot()


def goes_on(state: bytes, now: Plan) -> tuple[Teacher, list[Signal]]:
    """A teacher of another definition that goes on from a snapshot, and again from its own."""
    new = Teacher(now)
    told = new.restore(state)
    again = Teacher(now)
    assert again.restore(new.snapshot()) == []
    assert again.snapshot() == new.snapshot()
    return again, told


def test_evidence_of_a_learner_that_starts_anew_is_gone() -> None:
    """What a challenger won while it knew much makes it champion when it knows nothing."""
    of = taught(promotion=rules.promotion(labels=10**6))
    teacher, _, models = run(of, lessons(of))
    assert teacher.contest.duels["small-logistic"].evidence > 10
    ((learner,), state) = of.workload.learners, teacher.snapshot()
    other, _ = goes_on(state, plan(replace(of.workload, learners=(replace(learner, rate=0.0),))))  # type: ignore[type-var]
    assert other.lineup.challengers == ()
    other.add(_after(lessons(of), 9, (OWN.version,), 0.9))
    assert other.contest.duels["small-logistic"].evidence < 0
    other.follow(models[-1], False, 0)
    other.add(_after(lessons(of), 18, (models[-1],), 0.9))
    assert other.lineup.champion == models[-1], "what it made before is replaced by what it makes of nothing"


def test_a_learner_that_is_gone_stays_away() -> None:
    """Its versions come back as people's, or push the lineages that are there out of the evaluation."""
    of = taught(learners=2, promotion=rules.promotion(labels=10**6))
    teacher, _, models = run(of, lessons(of))
    (gone,) = [name for name in models[-2:] if name.startswith("small-logistic1")]
    new, told = goes_on(teacher.snapshot(), taught(promotion=rules.promotion(labels=10**6)))
    assert [s.detail["what"] for s in told] == ["small-logistic1"]
    assert new.challenge([gone], 0) == []
    assert not any(name.startswith("small-logistic1") for name in new.lineup.challengers)
    served = [f"small-logistic1-{i:012x}" for i in range(40)]
    late = lessons(of, 4000)
    for i, version in enumerate(served):
        part = _after(late[i * 100 : i * 100 + 100], 9, (OWN.version,), 0.9)
        new.add([x._replace(versions=(*x.versions, version), scores=(*x.scores, 0.5)) for x in part])
    lineages = new.evaluation.report()["lineages"]
    assert {"small-logistic", "small-logistic1", "reference"} == set(lineages)  # type: ignore[call-overload]


def test_names_follow_the_definition() -> None:
    """A champion that becomes the definition's model, or whose name a learner gets, is never compared again."""
    of, strange = taught(promotion=rules.promotion(labels=10**6)), linear("small-forest", {"value": 0.01}, bias=0.0)
    teacher, _, _ = run(of, lessons(of))
    teacher.follow(strange.version, False, 0)
    later = _after(lessons(of), 9, (strange.version,), 0.6)
    own = replace(of.workload, model=strange)
    forest = Logistic(rate=0.05, name="forest")
    plans = [plan(own), plan(replace(own, learners=(*own.learners, forest)))]
    for now in (*plans, plan(replace(of.workload, learners=(*own.learners, forest)))):
        new, _ = goes_on(teacher.snapshot(), now)
        assert new.lineup.champion == strange.version
        new.add(later)
        duel = new.contest.duels["small-logistic"]
        assert duel.report()["labels"] > 1000
        assert new.lineup.champion == strange.version, "a learner that has its name took its place"
        back, _ = goes_on(new.snapshot(), of)
        assert back.lineup.champion in (strange.version, OWN.version)


def test_without_a_feature_that_it_reads_a_champion_goes() -> None:
    """What can be scored no more is champion for ever, and nothing is promoted any more."""
    of = taught()
    teacher, signals, _ = run(of, lessons(of))
    assert "promote" in {s.kind for s in signals}
    base, name = of.workload, "key_count_1h"
    features = (by("key", mean("value", "1h")),)
    fewer = plan(replace(base, features=features, inputs=("value",), learning=None, learners=()))
    assert name not in fewer.names
    rule = learning(promotion=RULE, amount="value")
    own = linear("reference", {"value": -0.05}, bias=0.0)
    now = plan(replace(fewer.workload, model=own, learning=rule, learners=base.learners))
    new, told = goes_on(teacher.snapshot(), now)
    assert [s.kind for s in told] == ["champion", "reset", "reset"]
    assert (told[0].detail["version"], new.lineup.champion) == (own.version, own.version)
    assert new.lineup.challengers == ()
    given = [x._replace(versions=(own.version,), row=[x.row[0]] * len(now.names)) for x in lessons(of)]
    found = new.add([x._replace(known=x.known + 9 * DAY) for x in given])
    assert "promote" in {s.kind for s in found}
