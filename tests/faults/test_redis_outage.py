"""Valkey dies, hangs and forgets while events flow: no decision changes or waits, and the views come back."""

import json
import signal
from collections.abc import Callable

import pytest
import redis

from streaming import stack
from tests.world import Data, World, check, wait

pytestmark = pytest.mark.services
Make = Callable[..., World]


def test_views_are_no_truth(world: Make, data: Data) -> None:
    """If this fails, the online store can stall a job or change a decision, or its views stay away."""
    job = world()
    job.publish(data.events, data.outcomes)  # a backfill: decisions equal replay's in any case but a bad one
    job.deploy()
    job.reach(500)
    job.kill("valkey")
    job.reach(5_000)
    job.mend()
    stack.kill(job.settings, "valkey", signal.SIGSTOP)
    try:
        seen = len(job.everything())
        job.reach(min(seen + 3_000, len(data.events)), 20)
    finally:
        stack.kill(job.settings, "valkey", signal.SIGCONT)
    client = redis.Redis.from_url(job.services.redis)
    client.flushall()
    assert job.decided(data.expected)
    last = json.loads(data.events[-1])
    again = {**last, "id": "after", "at": last["at"] + 1}
    job.publish([json.dumps(again).encode()])
    name = f"millrace:{job.workload.name}:card:{last['card']}"
    wait(lambda: client.hget(name, "at") == str(again["at"]).encode(), 30, name)
    view = {key.decode(): value.decode() for key, value in client.hgetall(name).items()}  # type: ignore[union-attr]
    features = [n for n in job.deployment().plan.keyed if n.startswith("card_")]
    assert view.keys() == {"at", *features}
    assert float(view["card_count_1d"]) >= 2
    job.stop()
    after = json.loads(job.everything()[-1])
    assert (after["id"], after["degraded"]) == ("after", False)
    check(job.everything()[:-1], data.expected)
