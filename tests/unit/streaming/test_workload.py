"""What an author gets wrong is refused where it is written, with a message that would have let them write it right."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from msgspec import Meta, field

from models import linear, pretrained
from models.exploration import exploration
from models.learners import AdaptiveForest, HalfSpaceTrees, Logistic
from models.policy import Batch, thresholds
from models.rules import promotion
from operators import by, count, label_mean, label_rate, mean
from schemas.decisions import Decision, Scored
from schemas.errors import DefinitionError
from schemas.fraud import FraudOutcome, Transaction
from streaming.learning import learning
from streaming.plan import Plan, check_model, derive_columns, plan
from streaming.replay import Replay
from streaming.workload import Workload, derive, enrich
from streaming.workloads import load


def workload(**changes: Any) -> Workload:
    """A small workload, with some arguments changed."""
    good = {
        "name": "small", "event": Transaction, "features": (by("card", count("1d")),),
        "model": pretrained("fraud"), "policy": thresholds(review=0.5, degraded="review"),
    }  # fmt: skip
    return Workload(**(good | changes))


def planned(*features: Any, **changes: Any) -> Plan:
    """The plan of a small workload with these features."""
    return plan(workload(features=features, **changes))


def derived(expression: Any) -> Callable[[], Plan]:
    """The plan of a workload with this derived feature, called x."""
    return lambda: planned(CARD, derive(x=expression))


def learns(*learners: Any, **settings: Any) -> Callable[[], Plan]:
    """The plan of a workload with these learners, which learn as `settings` say."""
    return lambda: planned(CARD, outcome=FraudOutcome, learners=learners, learning=learning(**settings))


class Texts(Transaction, frozen=True, kw_only=True):
    """What is no mapping to numbers."""

    tags: Annotated[dict[str, str], Meta(max_length=4)]


def test_what_a_contest_counts_follows_from_what_is_learned() -> None:
    """Explored events count next to nothing, or what is known soon decides who is champion."""
    chance = exploration(share=0.02, salt="s", action="pass")
    rule = learning(horizon="14d", presume=False, share=0.2, exploration=chance).promotion
    assert (rule.weight, rule.settle) == (50.0, 14 * 86_400_000)
    assert learning(horizon="14d").promotion.settle == 0
    declared = learning(horizon="14d", presume=False, share=0.2, promotion=promotion(settle="3d", weight=2.0)).promotion
    assert (declared.weight, declared.settle) == (2.0, 3 * 86_400_000)


class Numbered(Transaction, frozen=True):
    """Its id is no text."""

    id: int  # type: ignore[assignment]


class Whenever(Transaction, frozen=True):
    """A time that may be any."""

    at: int


class Short(Transaction, frozen=True):
    """A narrower id."""

    id: Annotated[str, Meta(min_length=8, max_length=8)]


class Renamed(Transaction, frozen=True):
    """Its records have an ID."""

    id: str = field(name="ID")


class Says:
    """A policy that takes and says what it is told to."""

    def __init__(self, decision: Any, action: str = "pass", actions: object = ("pass",)):
        self.decision, self.action = decision, action
        if actions is not None:
            self.actions = actions

    def decide(self, batch: Batch) -> Any:
        """The same of every event."""
        said = self.decision(batch) if callable(self.decision) else self.decision
        return [said] * len(batch.ids), [self.action] * len(batch.ids)


class Alone(Says):
    """A policy that tells no actions."""

    def decide(self, batch: Batch) -> Any:
        """Decisions only."""
        return super().decide(batch)[0]


def scored(score: object) -> Scored:
    """A decision with this score."""
    return Scored("a", "small", "a", 1, "c", "m", False, score, "pass")  # type: ignore[arg-type]


def says(policy: Any, **settings: Any) -> Callable[[], Plan]:
    """The plan of a workload with this policy, which learns as `settings` say."""
    learnt = {"outcome": FraudOutcome, "learning": learning(**settings)} if settings else {}
    return lambda: planned(CARD, policy=policy, **learnt)


CARD = by("card", count("1d"))
CHANCE = exploration(share=0.1, salt="s", action="pass")
WRONG: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "name": (lambda: workload(name="Small One"), ("'Small One'", "name", "lower-case")),
    "event": (lambda: workload(event=dict), ("event", "dict", "schemas.records.Event")),
    "outcome": (lambda: workload(outcome=Transaction), ("outcome", "Transaction", "schemas.records.Outcome")),
    "outcome value": (lambda: workload(outcome=5), ("outcome", "found 5", "schemas.records.Outcome")),
    "model": (lambda: workload(model="fraud"), ("model", "'fraud'", "pretrained(")),
    "budget": (lambda: workload(budget="10"), ("budget", "'10'", "a number and a unit")),
    "skew": (lambda: workload(skew=""), ("skew", "''", "a number and a unit")),
    "horizon": (
        lambda: workload(outcome=FraudOutcome, learning=learning(horizon="91d")),
        ("learning", "longer than ttl='90d'", 'ttl="91d"', 'horizon="90d"'),
    ),
    "ttl": (lambda: workload(ttl="0.5ms"), ("ttl", "'0.5ms'", "whole milliseconds")),
    "features": (lambda: workload(features=()), ("features", "found no by", 'by("card"')),
    "first feature": (lambda: planned(derive(x=lambda f: f.amount), CARD), ("features", "first", "small.events")),
    "entity": (lambda: planned(by("crad", count("1d"))), ("by('crad'", "no such text field", "card, terminal")),
    "level's text": (lambda: thresholds(a="0.9", degraded="a"), ("(a='0.9')", "between 0 and 1")),  # type: ignore[arg-type]
    "no weight": (lambda: linear("x", {}), ("linear('x', …)", "found {}", '{"amount": 0.04}')),
    "weight": (lambda: linear("x", {"amount": float("nan")}), ("linear('x', …)", "'amount': nan", "finite numbers")),
    "entity number": (lambda: planned(by("amount", count("1d"))), ("by('amount'", "card, terminal")),
    "entity twice": (lambda: planned(CARD, by("card", count("7d"))), ("two by", "same entity", "into one")),
    "read": (lambda: planned(CARD, enrich("terminal", "x", default=0)), ("enrich('terminal'", "expected", "card")),
    "field": (lambda: planned(by("card", mean("amuont", "1d"))), ("'amuont'", "Transaction", "only amount")),
    "mapping": (lambda: planned(CARD, event=Texts), ("event field 'tags'", "from names to numbers")),
    "reasons": (lambda: thresholds(a=0.9, degraded="a", reasons="3"), ("reasons='3'", "0 or more")),  # type: ignore[arg-type]
    "of": (lambda: label_mean("amount", "7d"), ("label_mean", "of='7d'", "True or False")),  # type: ignore[arg-type]
    "window": (lambda: count("1 day"), ("count()", "'1 day'", "'7d'")),
    "no window": (lambda: mean("amount"), ("mean('amount')", "no window", "'7d'")),
    "delay": (lambda: count("1d", delay="soon"), ("delay", "'soon'", "'7d'")),
    "ring": (lambda: by("card", count("1d"), ring=0), ("by('card')", "ring=0", "from 1 to")),
    "no fold": (lambda: by("card"), ("by('card')", "no feature", "count('1d')")),
    "labels": (lambda: planned(by("card", label_rate("1d"))), ("by('card'", "labels", "outcome=")),
    "derive": (lambda: derive(x=5), ("derive(x=", "found 5", "function of columns")),  # type: ignore[arg-type]
    "derived": (
        lambda: planned(CARD, derive(x=lambda f: f.card_cuont_1d)),
        ("derive(x=", "'card_cuont_1d'", "card_count_1d"),
    ),
    "derives text": (lambda: planned(CARD, derive(x=lambda f: "a")), ("derive(x=", "'a'")),  # type: ignore[arg-type,return-value]
    "derives by if": (derived(lambda f: 1.0 if f.amount > 100 else 0.0), ("derive(x=", "ambiguous", "np.where(")),
    "derives a bool": (derived(lambda f: f.amount > 1 and f.hour > 3), ("derive(x=", "ambiguous", "np.where(")),
    "derives one number": (derived(lambda f: float(f.amount)), ("derive(x=", "TypeError", "np.where(")),
    "derives less": (derived(lambda f: f.amount[:1]), ("derive(x=", "found array([1.])", "2 events", "np.where(")),
    "derives of others": (derived(lambda f: f.amount / f.amount.max()), ("derive(x=", "[0.5, 1.0]", "[1.0, 1.0]")),
    "derives nothing": (derived(lambda f: None), ("derive(x=", "found None", "np.where(")),
    "derives no number": (derived(lambda f: 1 / 0), ("derive(x=", "ZeroDivisionError")),
    "derives of text": (derived(lambda f: f.card), ("derive(x=", "'card'", "is a str, not a number", "amount")),
    "derived twice": (lambda: planned(CARD, derive(amount=lambda f: f.amount)), ("'amount'", "defined twice")),
    "features without comma": (lambda: workload(features=CARD), ("features", "found Keyed", "expected a tuple")),
    "fold as feature": (lambda: planned(CARD, count("1d")), ("features", "found Aggregate", 'by("card"')),
    "policy": (lambda: workload(policy=None), ("policy", "found None", "thresholds(")),
    "policy's class": (lambda: workload(policy=Says), ("policy", "found <class", "thresholds(")),
    "policy without actions": (lambda: workload(policy=Says(None, actions=None)), ("Says: actions", "None", "a tuple")),
    "policy's action": (lambda: workload(policy=Says(None, actions="pass")), ("actions", "'pass'", "mind the comma")),
    "policy's actions": (lambda: workload(policy=Says(None, actions=())), ("actions", "none", '("approve", ')),
    "decides texts": (says(Says("yes")), ("policy Says (", "test_workload.py:", "type str", "expected Scored ones")),
    "decides something": (says(Says(None, "block")), ("the action 'block'", "expected one of pass", "`actions`")),
    "decides half": (says(Alone(None)), ("policy Alone (", "ValueError", "expected decide(batch) to return")),
    "policy fails": (says(Says(lambda batch: batch.score)), ("AttributeError", "'score' (", "test_workload.py:")),
    "decides numpy": (says(Says(scored(np.float64(1)))), ("cannot be written", "numpy.float64", "tolist()")),
    "decides by chance": (
        says(Says(Decision("a", "small", "a", 1, "c", "m", False)), exploration=CHANCE),
        ("type Decision", "Scored ones for exploration="),
    ),
    "chance's action": (
        says(Says(None, "x", ("x",)), exploration=CHANCE), ("exploration(action='pass')", "action of the policy: x"),
    ),
    "id": (lambda: workload(event=Numbered), ("event: field 'id'", "found IntType", "StrType", "out of Numbered")),
    "at": (lambda: workload(event=Whenever), ("event: field 'at'", "ge=None", "le=253402300799999", "narrow")),
    "id of another name": (lambda: workload(event=Renamed), ("event: field 'id'", "found None", "as Event has it")),
    "learners without comma": (lambda: workload(learners=Logistic()), ("learners", "found Logistic(", "a tuple")),
    "learner's class": (learns(Logistic), ("learners", "<class", "Logistic()")),
    "learner's name": (learns("logistic"), ("learners", "'logistic'", "Logistic()")),
    "learners of a name": (learns(Logistic(), Logistic(rate=0.2)), ("learners", "['logistic', 'logistic']", "name=")),
    "learner called refit": (learns(Logistic(name="refit")), ("learners", "'refit'", "refitted trees")),
    "long name": (lambda: workload(name="w" * 40, learners=(Logistic(name="l" * 32),)), ("learners", "at most 64")),
    "learners too large": (learns(HalfSpaceTrees(trees=150, height=16)), ("'halfspace'", "MiB", "at most 256")),
    "learners alone": (lambda: workload(learners=(Logistic(),)), ("learners", "found None", "learning=learning(…)")),
    "learning": (lambda: workload(learning=True), ("learning", "found True", "learning=learning(…)")),
    "outcomes to learn from": (lambda: workload(learning=learning()), ("learning", "expected outcome=")),
    "learner's setting": (learns(AdaptiveForest(features=99)), ("learner 'forest'", "features=99", "2 inputs")),
    "segment": (learns(Logistic(), segment="card"), ("learning(segment=…)", "'card'", "amount, card_count_1d")),
    "amount": (learns(Logistic(), amount="amuont"), ("learning(amount=…)", "'amuont'", "amount, card_count_1d")),
    "share": (learns(share="0.5"), ("learning(share='0.5')", "expected float")),
    "presumed": (learns(presume="no"), ("learning(presume='no')", "bool | None")),
    "evaluation": (learns(evaluation={"k": 3}), ("learning(evaluation={'k': 3})", "EvaluationRule | None")),
    "explored": (learns(exploration=0.1), ("learning(exploration=0.1)", "Exploration | None")),
    "inputs without comma": (lambda: workload(inputs="amount"), ("inputs", "found 'amount'", "expected a tuple")),
    "inputs": (lambda: planned(CARD, inputs=("amuont",)), ("inputs", "'amuont'", "amount, card_count_1d")),
    "no feature": (lambda: check_model(plan(workload())), ("model fraud-", "'weekend'", "card_count_1d")),
    "no model": (lambda: pretrained("fruad"), ("'fruad'", "shipped are", "fraud", "millrace train")),
    "level": (lambda: thresholds(review=50, degraded="review"), ("review=50", "between 0 and 1")),
    "levels": (lambda: thresholds(a=0.5, b=0.5, degraded="a"), ("0.5", "different")),
    "degraded": (lambda: thresholds(review=0.5, degraded="alarm"), ("'alarm'", "approve, review")),
    "workload": (lambda: load("fruad"), ("'fruad'", "fraud", ".py file")),
    "parameter": (lambda: load("fraud", {"reveiw": "1"}), ("reveiw", "declares no", "review")),
    "truth": (lambda: load("fraud", {"learn": "ture"}), ("learn=ture", "'ture'", "true or false")),
    "parameter value": (lambda: load("fraud", {"review": "high"}), ("review=high", "a number, such as 0.2")),
    "no file": (lambda: load("nowhere.py"), ("nowhere.py", "No such file", "Python file")),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_are_explained(mistake: str) -> None:
    """If this fails, a mistake passes, or its message leaves out where it is, what was found or what was expected."""
    make, told = WRONG[mistake]
    with pytest.raises(DefinitionError) as caught:
        make()
    missing = [words for words in told if words not in str(caught.value)]
    assert not missing, str(caught.value)
    assert caught.value.exit_code == 2


def test_what_is_inherited_may_be_narrower() -> None:
    """If this fails, ids of one form cannot be asked for, and others reach whoever reads the decisions."""
    assert plan(workload(event=Short)).workload.event is Short


FILE = """
from __future__ import annotations

from models import pretrained
from models.policy import thresholds
from operators import by, count, max_, mean
from schemas.records import Event, Identifier
from streaming.workload import Workload


class Reading(Event, frozen=True):
    key: Identifier
    value: float


WINDOWS = ("1m", "1h", "1d")


def mine(review: float = 0.7) -> Workload:
    return Workload(
        name="mine",
        event=Reading,
        features=(by("key", count(*WINDOWS), mean("value", *WINDOWS), max_("value", *WINDOWS)),),
        model=pretrained("reference"),
        policy=thresholds(review=review, degraded="review"),
    )
"""


def test_a_file_is_a_workload(tmp_path: Path) -> None:
    """If this fails, a user cannot bring a workload, with an event type of its own, in one file."""
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    found = load(str(path), {"review": "0.5"})
    assert found.topics.events == "mine.events"
    assert found.policy == thresholds(review=0.5, degraded="review")
    assert plan(found).keyed[0] == "key_count_1m"
    assert load(str(path)).policy == thresholds(review=0.7, degraded="review")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (FILE + "other = mine(0.5)\n", ("found 2 workloads", "expected one")),
        ("x = 1\n", ("found 0 workloads", "expected one")),
        (FILE.replace(") -> Workload:", "):"), ("found 0 workloads", "expected one", "-> Workload")),
        (FILE.replace("review: float = 0.7", "review: float"), ("no default of 'review'", "review: float = 0.5")),
        (FILE.replace("review=review", "review=review / 0"), ("line 25", "ZeroDivisionError")),
        ("x = (\n", ("line 1", "SyntaxError")),
        ("x = 1\ny = z\n", ("line 2", "NameError", "'z'")),
        (FILE.replace('"value", *', '"valeu", *') + "mine()\n", ()),
        (FILE.replace("mean(", "mean(5, ") + "mine()\n", ("mean", "found 5", "event field")),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, text: str, told: tuple[str, ...]) -> None:
    """If this fails, an author sees a traceback of ours in place of the line that is wrong in their file."""
    path = tmp_path / "wrong.py"
    path.write_text(text)
    with pytest.raises(DefinitionError) as caught:
        plan(load(str(path)))
    missing = [words for words in told if words not in str(caught.value)]
    assert not missing, str(caught.value)


def test_a_workload_is_frozen() -> None:
    """If this fails, a workload can change between its definition and its deployment."""
    good = workload(outcome=FraudOutcome)
    with pytest.raises(AttributeError):
        good.ttl = "1d"  # type: ignore[misc]
    assert replace(good, ttl="1d").ttl == "1d"
    assert hash(good.event) == hash(Transaction)


@pytest.mark.parametrize("expression", [lambda f: 1, lambda f: f.amount > 1.5, lambda f: np.where(f.hour > 3, 1, 0)])
def test_expressions_over_arrays_pass(expression: Any) -> None:
    """If this fails, an author's right expression is refused, or its column depends on the batch."""
    assert derived(expression)()


def test_learning_without_learners_says_so() -> None:
    """If this fails, who forgot `learners=` waits for models that nobody makes; to evaluate what is trained, it is
    right."""
    assert "learn     nothing: no learners=" in learns()().describe()
    assert "learn     logistic\n" in learns(Logistic())().describe()


def test_a_derived_feature_hides_the_hour_from_then_on() -> None:
    """If this fails, an expression reads the hour of the day where a feature before it is called so."""
    expressions = derive(before=lambda f: f.hour, hour=lambda f: f.hour + 30, x=lambda f: f.hour)
    of = plan(workload(features=(CARD, expressions)))
    columns = derive_columns(of, np.array([3_600_000 * 5]), np.ones((1, len(of.names))))
    assert columns[0, -3:].tolist() == [5.0, 35.0, 35.0]


class Maybe(Transaction, frozen=True, gc=False):
    """A transaction that may lack its tip."""

    tip: float | None = None


def test_a_score_of_what_is_missing_is_degraded() -> None:
    """A model that has no answer to a missing value takes the highest action, as if it were sure."""
    chosen = workload(
        event=Maybe, model=linear("small", {"tip": 0.1}),
        policy=thresholds(review=0.2, decline=0.9, degraded="review"),
    )  # fmt: skip
    event = {"id": "a", "at": 1, "card": "c", "terminal": "t", "amount": 1.0}
    events = [json.dumps(event | more).encode() for more in ({"tip": 50.0}, {"id": "b"})]
    (step,) = Replay(plan(chosen), 10**12).run(events, ())
    said = [json.loads(value or b"") for value in step.decided.values]
    assert [(one["action"], one["degraded"]) for one in said] == [("decline", False), ("review", True)]
    assert step.decided.degraded == 1


class Mixed(Transaction, frozen=True):
    """A number or a text."""

    celsius: float | str | None = None


class Defaulted(Transaction, frozen=True):
    """A default that is none."""

    celsius: float = "warm"  # type: ignore[assignment]


@pytest.mark.parametrize("event", [Mixed, Defaulted])
def test_numbers_are_numbers(event: type[Transaction]) -> None:
    """If this fails, the first event with a text in the place of a number ends the job, again and again."""
    with pytest.raises(DefinitionError, match="'celsius': expected a number and nothing else"):
        plan(replace(load("fraud"), event=event))


class Either(Transaction, frozen=True):
    """A whole number or another one."""

    celsius: int | float = 0


def test_a_number_of_either_kind_is_one_column() -> None:
    """If this fails, what two kinds of numbers may stand in is read as two fields."""
    assert replace(load("fraud"), event=Either).numbers == ("amount", "celsius")
