"""What changes of models and floods of outcomes cost a running job: `pytest -m bench -k live -s`.

Quiet and disturbed turns alternate in one run, so that a slow minute of the machine hits both.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from models.artifact import Artifact
from models.registry import Registry, announcement
from streaming import bench, kafka, load, settings, stack
from streaming.bench import Ours
from streaming.commands.models import publish
from streaming.workloads import refer

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

SECONDS, TURNS = 20.0, 3
SWAPS = 102
OUTCOMES, FLOOD = 20.0, 2_000.0
"""Outcomes a second beside 2,000 events: of one in a hundred, and a hundred times as many."""


class Decided(msgspec.Struct):
    """What every decision must have."""

    id: str
    model: str
    score: float
    action: str


Beside = Callable[[Ours, str, int], AbstractContextManager[None]]
"""What goes on beside a turn of a job, given the brokers and the number of the first event of the turn."""


def alternate(rate: float, share: float, quiet: Beside, disturbed: Beside) -> tuple[float, Counter[str]]:
    """p99 of the disturbed turns over that of the quiet ones, and how many decisions each model made; `share` of what
    is approved waits for its outcome."""
    chosen = settings.read()
    services, reference = stack.up(chosen), refer("fraud", {"learn": "true", "share": str(share)})
    found: dict[str, list[np.ndarray[tuple[int], np.dtype[np.float64]]]] = {"quiet": [], "disturbed": []}
    with bench.systems(reference, services, chosen, beside_raw=False) as (job, *_):
        assert isinstance(job, Ours)
        job.start()
        try:
            first = bench.turn(job, "fraud", services.kafka, 0, rate, bench.WARM_SECONDS).sent
            for _ in range(TURNS):
                for name, beside in (("quiet", quiet), ("disturbed", disturbed)):
                    with beside(job, services.kafka, first):
                        taken = bench.turn(job, "fraud", services.kafka, first, rate, SECONDS)
                    assert len(taken.latencies) == taken.sent, f"{name}: decisions are missing"
                    found[name].append(taken.latencies)
                    first += taken.sent
            models = decided_by(services.kafka, job.decisions)
        finally:
            job.stop()
    p50, p99 = ({n: float(np.percentile(np.concatenate(parts), q)) for n, parts in found.items()} for q in (50, 99))
    print(json.dumps({"p50_ms": p50, "p99_ms": p99, "decided_by": models}))
    return p99["disturbed"] / p99["quiet"], models


def decided_by(brokers: str, topic: str) -> Counter[str]:
    """How many decisions each model made; each must be whole."""
    decoder, batches = msgspec.json.Decoder(Decided), kafka.records(brokers, topic)
    return Counter(decoder.decode(record.value or b"").model for batch in batches for record in batch)


def again(artifact: Artifact, number: int) -> Artifact:
    """The same model as other bytes: another version."""
    model = onnx.load_model_from_string(artifact.onnx)
    model.doc_string = str(number)
    return replace(artifact, onnx=model.SerializeToString())


@contextmanager
def registered(job: Ours, brokers: str, first: int) -> Iterator[None]:
    """Two versions serve, one as champion and one in shadow, so that all turns score alike."""
    name, own = job.deployment.name, job.deployment.plan.workload.model
    registry = Registry(Path(job.deployment.services.registry))
    assert isinstance(own, Artifact)
    if not registry.champion(name):
        versions = [registry.register(name, again(own, number)) for number in range(2)]
        registry.promote(name, versions[0], why="bench")
        publish(brokers, announcement(registry, name))
        time.sleep(5)
    yield


@contextmanager
def swaps(job: Ours, brokers: str, first: int) -> Iterator[None]:
    """The champion and its challenger change places, a third of `SWAPS` times during a turn."""
    name, registry = job.deployment.name, Registry(Path(job.deployment.services.registry))
    failures: list[BaseException] = []

    def swap() -> None:
        try:
            for _ in range(SWAPS // TURNS):
                registry.promote(name, registry.challengers(name)[0], why="bench")
                publish(brokers, announcement(registry, name))
                time.sleep(SECONDS / (SWAPS // TURNS))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=swap)
    thread.start()
    yield
    thread.join()
    assert not failures, failures


def outcomes(rate: float) -> Beside:
    """Outcomes of the events before those of the turn, at `rate`."""

    @contextmanager
    def beside(job: Ours, brokers: str, first: int) -> Iterator[None]:
        count = int(rate * SECONDS)
        spec = load.Send(brokers, job.deployment.topics.outcomes, "fraud", first - count, count, rate, outcomes=True)
        sender = bench.spawn("send", spec)
        yield
        assert sender.wait(60) == 0

    return beside


def test_live_swaps() -> None:
    """If this fails, a hundred changes of the model hold up decisions, or some are not made."""
    # All that is approved at this rate, waiting, would fill the heap, and its collection be what is measured.
    ratio, models = alternate(10_000.0, share=0.05, quiet=registered, disturbed=swaps)
    assert len(models) == 3, models
    assert ratio <= 1.2


def test_live_flood() -> None:
    """If this fails, a hundred times as many outcomes as usual hold up decisions."""
    ratio, _ = alternate(2_000.0, share=1.0, quiet=outcomes(OUTCOMES), disturbed=outcomes(FLOOD))
    assert ratio <= 1.1
