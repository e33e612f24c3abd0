"""The learning loop on a cluster: outcomes become examples, examples models, and models serve, whatever is killed."""

import json
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from models.registry import Registry, announcement
from schemas.models import decode
from schemas.topics import MODELS
from streaming import kafka
from streaming.commands.models import publish
from streaming.simulator import Spec
from streaming.workloads import Reference
from tests.world import Data, World, wait

pytestmark = pytest.mark.services
Make = Callable[..., World]
LEARNS = Reference("fraud", set={"learn": "true"})


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
    times = {json.loads(event)["id"]: json.loads(event)["at"] for event in data.events}
    newest = max(times.values())
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

    def told(kind: str) -> list[Any]:
        return [signal for signal in map(json.loads, job.everything(job.topics.signals)) if signal["kind"] == kind]

    def made() -> dict[tuple[int, str], int]:
        """Examples that each model had learned; what was said while learning was late may be said twice."""
        return {(s["at"], s["detail"]["version"]): s["detail"]["examples"] for s in told("model")}

    wait(lambda: len(made()) >= 10, 60, "models")
    assert not told("refused")
    for (at, _), examples in made().items():
        assert examples == sum(time < at for time in known.values()), "an example was lost, or learned twice"

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
    job.publishing(data.events[half:], (), 500).finish()
    job.decided(data.expected)
    models = Counter(json.loads(value)["model"] for value in job.everything())
    assert models[chosen] > 0, f"only {models} decided: {registry.history(name)[-4:]}"
    assert all(model.startswith("fraud") for model in models)
