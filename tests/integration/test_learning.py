"""The learning loop on a cluster: outcomes become examples, examples models, and models serve, whatever is killed."""

import json
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

import streaming.workloads.fraud
from models.linear import linear
from models.registry import Registry, announcement
from schemas.models import decode
from schemas.topics import MODELS
from streaming import kafka
from streaming.commands.models import publish
from streaming.simulator import DAY, Spec
from streaming.workloads import Reference
from tests.world import Data, World, wait

pytestmark = pytest.mark.services
Make = Callable[..., World]
LEARNS = Reference("fraud", set={"learn": "true"})


def told(job: World, kind: str) -> list[Any]:
    """Signals of one kind."""
    return [signal for signal in map(json.loads, job.everything(job.topics.signals)) if signal["kind"] == kind]


def made(job: World) -> dict[tuple[int, str], int]:
    """Examples that each model had learned, by time and version; what was said while learning was late may be said
    twice."""
    return {(s["at"], s["detail"]["version"]): s["detail"]["examples"] for s in told(job, "model")}


def learned_once(job: World, data: Data, models: int) -> int:
    """Assert that every outcome that is known became one example and was learned once, by so many models at least;
    returns the event time of the newest event, ms."""
    newest: int = max(json.loads(event)["at"] for event in data.events)
    known = {o["event"]: o["at"] for o in map(json.loads, data.outcomes) if o["at"] < newest}
    labels = {o["event"]: o["label"] for o in map(json.loads, data.outcomes)}
    wait(
        lambda: len({e["event"] for e in map(json.loads, job.everything(job.topics.examples))}) >= len(known),
        60,
        "examples",
    )
    found: dict[str, dict[str, Any]] = {}
    for example in map(json.loads, job.everything(job.topics.examples)):
        assert found.setdefault(example["event"], example)["label"] == example["label"]
        assert example["label"] == labels[example["event"]]
        assert example["label_at"] == known[example["event"]]
    assert found.keys() == known.keys()
    wait(lambda: len(made(job)) >= models, 60, "models")
    assert not told(job, "refused")
    for (at, _), examples in made(job).items():
        assert examples == sum(time < at for time in known.values()), "an example was lost, or learned twice"
    return newest


def test_loop_with_kills(world: Make) -> None:
    """If this fails, an outcome is lost or learned twice when a TaskManager dies, or a model that was learned serves
    nobody."""
    data = Data.simulated(Spec(cards=300, terminals=600, days=24))
    job = world(reference=LEARNS)
    job.deploy()
    job.publish(data.events, data.outcomes)
    for share in (3, 2):
        job.reach(len(data.events) // share)
        job.kill("taskmanager-0")
        job.mend()
    job.decided(data.expected)
    newest = learned_once(job, data, 10)
    name = job.topics.name
    registry = Registry(str(job.settings.home / "models"))

    def announced() -> tuple[int, set[str]]:
        """The revision that was announced last, and its challengers."""
        ends = kafka.end_offsets(job.services.kafka, MODELS)
        batches = kafka.records(job.services.kafka, MODELS, until=ends)
        last = [decode(r.value or b"") for batch in batches for r in batch if r.key == name.encode()][-1]
        return last.revision, {v.version for v in last.challengers}

    wait(
        lambda: announced() == (registry.aliases(name).revision, set(registry.challengers(name))),
        60,
        "an announcement of what the registry says",
    )

    def scored() -> bool:
        """One more event with its outcome; whether one before it was scored by what was learned."""
        at = newest + next(later)
        event = json.loads(data.events[-1]) | {"id": f"later-{at}", "at": at}
        outcome = {"event": event["id"], "at": at, "label": False}
        job.publish([json.dumps(event).encode()], [json.dumps(outcome).encode()])
        examples = map(json.loads, job.everything(job.topics.examples))
        return any(version.startswith("fraud-forest") for example in examples for version in example["scores"])

    later = count(1)
    wait(scored, 60, "a challenger to be scored")
    told = [json.loads(path.read_text()) for path in (job.settings.home / "metrics").glob("metrics-*.json")]
    pages = [urlopen(f"http://{one['targets'][0]}/metrics", timeout=5) for (one,) in told]  # those alive
    served = "".join(page.read().decode() for page in pages)
    assert re.search(r"millrace_prequential\{measure=.window_n.,model=.fraud.,segment=.1.,workload=.fraud.} \d", served)
    reported = registry.reported(name)
    assert reported is not None
    of = reported["evaluation"]["lineages"]["fraud"]
    assert of["labels"] <= of["served"] <= len(data.events) + 100


CLICKS = """
from models import linear, thresholds
from operators import by, count
from schemas.fraud import FraudOutcome, Transaction
from streaming.learning import learning
from streaming.workload import Workload
clicks = Workload(
    name="clicks", event=Transaction, outcome=FraudOutcome, features=(by("card", count("1h")),), ttl="1d",
    model=linear("clicks", {"amount": 0.01}), policy=thresholds(review=0.5, degraded="review"),
    learning=learning(horizon="30m", presume=False, share=1.0),
)
"""


def test_a_backfill_presumes_nothing_that_is_known(world: Make) -> None:
    """If this fails, decisions of a backfill are presumed though their outcomes, of which there are many, are there."""
    chance, events, outcomes, at = random.Random(1), [], [], 0
    for i in range(12_000):
        at += chance.randrange(1, 4_000)
        events.append({"id": f"e{i}", "at": at, "card": f"c{i % 300}", "terminal": "t", "amount": 5.0})
        known = {"event": f"e{i}", "at": at + chance.randrange(60_000, 1_500_000), "label": True, "source": "s" * 100}
        outcomes += [known] * 3
    later = [events[0] | {"id": f"t{i}", "at": at + DAY + i * 60_000} for i in range(99)]
    job = world(reference=Reference("clicks.py", CLICKS))
    told = sorted(outcomes, key=lambda outcome: float(str(outcome["at"])))
    job.publish(*([json.dumps(one).encode() for one in many] for many in ([*events, *later], told)))
    job.deploy()
    found: dict[str, tuple[bool, bool]] = {}

    def learned() -> bool:
        examples = map(json.loads, job.everything(job.topics.examples))
        found.update({one["event"]: (one["label"], one["presumed"]) for one in examples if one["event"][0] == "e"})
        return len(found) == len(events)

    wait(learned, 60, "every example")
    assert Counter(found.values()) == {(True, False): len(events)}


def learner(job: World) -> int:
    """The id of the process that learns."""
    parent = next(part.pid for part in job.services.parts if part.name == "taskmanager-0")
    children = " ".join(path.read_text() for path in Path(f"/proc/{parent}/task").glob("*/children")).split()
    (found,) = [pid for pid in map(int, children) if "apart.main" in Path(f"/proc/{pid}/cmdline").read_text()]
    return found


def test_a_learner_that_hangs(world: Make) -> None:
    """If this fails, decisions wait for a learner that takes long, or a crash meanwhile makes it learn twice, or
    never."""
    data = Data.simulated(Spec(cards=300, terminals=600, days=24))
    job = world(reference=Reference("fraud", set={"learn": "true", "compile": "4d"}))
    job.deploy()
    begin = json.loads(data.events[0])["at"] // DAY * DAY

    def of(lines: list[bytes], since: int, until: int) -> list[bytes]:
        return [line for line in lines if begin + since * DAY <= json.loads(line)["at"] < begin + until * DAY]

    job.publish(of(data.events, 0, 12), of(data.outcomes, 0, 12))
    job.reach(len(of(data.events, 0, 12)))
    wait(lambda: any(at > begin + 8 * DAY for at, _ in made(job)), 60, "models")  # it is less than one behind
    pid = learner(job)
    os.kill(pid, signal.SIGSTOP)
    try:
        job.publish(of(data.events, 12, 14), of(data.outcomes, 12, 14))
        job.reach(len(of(data.events, 0, 14)))
        before = job.checkpoints()
        wait(lambda: job.checkpoints() >= before + 3, 30, "checkpoints beside a learner that hangs")
        job.kill("taskmanager-0")
    finally:
        os.kill(pid, signal.SIGCONT)
    job.mend()
    job.publish(of(data.events, 14, 99), of(data.outcomes, 14, 99))
    job.decided(data.expected)
    learned_once(job, data, 8)


def test_promotion_by_hand(world: Make, data: Data) -> None:
    """If this fails, `millrace promote` changes the registry and nothing else, or a job forgets it on restart."""
    job = world(reference=LEARNS)
    job.deploy()
    half = len(data.events) // 2
    job.publish(data.events[:half], data.outcomes)
    registry = Registry(str(job.settings.home / "models"))
    name = job.topics.name
    wait(lambda: bool(registry.challengers(name)), 60, "a challenger in the registry")
    registry.promote(name, registry.challengers(name)[0], why="test")
    chosen = registry.freeze(name).champion  # or learning finds the deployed one better before another event comes
    publish(job.services.kafka, announcement(registry, name))
    job.publishing(data.events[half:], (), 1000).finish()
    job.decided(data.expected)
    models = Counter(json.loads(value)["model"] for value in job.everything())
    assert models[chosen] > 0, f"only {models} decided: {registry.history(name)[-4:]}"
    assert all(model.startswith("fraud") for model in models)


def test_a_job_that_does_not_learn_follows_the_registry(world: Make, data: Data) -> None:
    """`millrace train` and `promote` change nothing where a workload does not learn, or old events stand still."""
    job = world()
    registry, name = Registry(str(job.settings.home / "models")), job.topics.name
    half = len(data.events) // 2
    models = [linear(f"fraud-{n}", {"amount": n / 100.0}) for n in (1, 2)]
    first, second = (registry.register(name, made) for made in models)
    registry.promote(name, first)
    publish(job.services.kafka, announcement(registry, name))
    job.publish(data.events[:half], data.outcomes)
    job.deploy()
    job.reach(half)
    assert {json.loads(value)["model"] for value in job.everything()} == {first}
    job.kill("taskmanager-0")
    job.mend()
    registry.promote(name, second)
    publish(job.services.kafka, announcement(registry, name))
    job.publishing(data.events[half:], (), 1000).finish()
    job.reach(len(data.events))
    assert {json.loads(value)["model"] for value in job.everything()} == {first, second}


def test_drift_has_trees_refitted(world: Make) -> None:
    """`drift(then="refit")` is declared, drift is found, and nothing follows; or trees know what is yet to be known."""
    text = Path(streaming.workloads.fraud.__file__).read_text()
    for old, new in (
        ("presume=False,", 'presume=False, drift=drift(psi=0.5, then="refit"),'),
        ("from models.rules import ", "from models.rules import drift, "),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    data = Data.simulated(Spec(cards=300, terminals=600, days=38))
    events = list(map(json.loads, data.events))
    begin = events[0]["at"] // DAY * DAY
    for event in events:
        event["amount"] *= 1.0 + 9.0 * (event["at"] > begin + 26 * DAY)
    job = world(reference=Reference("variant.py", text, set=LEARNS.set))
    job.publish([json.dumps(event).encode() for event in events], data.outcomes)
    job.deploy()
    job.reach(len(events))
    more = [event | {"id": f"again-{number}"} for number, event in enumerate(events[-6000:])]
    later = job.publishing([json.dumps(event).encode() for event in more], (), 100)
    registry, name = Registry(str(job.settings.home / "models")), job.topics.name

    def fitted() -> list[str]:
        return [version for version in registry.challengers(name) if "-refit-" in version]

    def entered() -> list[str]:
        return [s["detail"]["version"] for s in told(job, "model") if "-refit-" in s["detail"]["version"]]

    wait(lambda: bool(entered()), 60, f"trees, after {told(job, 'drift')}, {told(job, 'refused')}")
    later.stop()
    assert entered() == fitted()
    entry = registry.entry(name, fitted()[0])
    assert entry.by == "learning"
    assert entry.range is not None
    assert begin < entry.range[0] < entry.range[1] < begin + 31 * DAY
    assert entry.reference is not None


def test_another_definition_goes_on(world: Make, data: Data) -> None:
    """If this fails, a job whose learner has another setting, or that has a feature more, never runs again from its
    savepoint, or learns the values of one feature as those of another."""
    text = Path(streaming.workloads.fraud.__file__).read_text()
    variant = Reference("variant.py", text, set=LEARNS.set)
    for old, new in (("Logistic(rate=0.002)", "Logistic(rate=0.003)"), ("count(*WINDOWS),", 'count("2d", *WINDOWS),')):
        assert old in text
        text = text.replace(old, new)
    job = world(reference=variant)
    half = len(data.events) // 2
    job.publish(data.events[:half], data.outcomes)
    job.deploy()
    job.reach(half)
    wait(lambda: len(made(job)) > 5, 60, "models")
    before = job.checkpoints()  # the first may have no snapshot of a learner that is busy: it learns all of that again
    wait(lambda: job.checkpoints() > before + 2, 30, "checkpoints")
    job.stop()
    known = len(job.everything(job.topics.examples))
    job.publish(data.events[half:])
    job.deploy(Reference("variant.py", text, set=LEARNS.set))
    job.decided(data.expected)
    learned_once(job, data, 10)
    assert not job.failure()
    assert {signal["detail"]["what"] for signal in told(job, "reset")} == {f"{job.workload.name}-logistic"}
    examples = [json.loads(example)["features"] for example in job.everything(job.topics.examples)[known:]]
    assert {"card_count_2d" in features for features in examples} == {True, False}
    assert {len(features) for features in examples} == {len(examples[0]), len(examples[0]) + 1}
