"""Replay and a cluster make the same decisions from the same topics, byte for byte, whatever is killed on the way."""

from collections.abc import Callable

import pytest

from streaming.simulator import Spec
from tests.world import Data, World

pytestmark = pytest.mark.services
Make = Callable[..., World]


def test_backfill_with_a_kill(world: Make) -> None:
    """If this fails, a backfill is no replay: a label came late, or a crash lost or changed something."""
    data = Data.simulated(Spec(cards=2_000, terminals=4_000, days=27))
    assert len(data.events) > 100_000
    job = world()
    job.publish(data.events, data.outcomes)
    job.deploy()
    job.reach(len(data.events) // 4)
    job.kill("taskmanager-0")
    job.mend()
    job.finish(data.expected)
