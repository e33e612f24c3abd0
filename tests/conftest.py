"""The stack that integration and fault tests share, and the data that they publish; nothing starts unless asked for."""

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import hypothesis
import pytest

from streaming import stack
from streaming.settings import Settings
from streaming.simulator import Spec
from streaming.stack import Stack
from tests.world import Data, World

# How long an example takes says nothing on a machine that does other things: what is slow is found by benches.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let JVMs compile once only, quickly, unless they are measured: none of the others lives long enough for more."""
    if not any(item.get_closest_marker("bench") for item in items):
        os.environ["JAVA_TOOL_OPTIONS"] = "-XX:TieredStopAtLevel=1"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of one small stack for all tests, stopped at the end."""
    settings = Settings(home=tmp_path_factory.mktemp("home"), heap=1024, slots=2, checkpoint=500)
    try:
        yield settings
    finally:
        stack.down(settings)


@pytest.fixture
def services(home: Settings) -> Stack:
    """The stack, up: what a test before this one broke is repaired."""
    return stack.up(home)


@pytest.fixture(scope="session")
def data() -> Data:
    """17,000 transactions of 300 cards in 40 days, their outcomes a week later, and what replay decides."""
    return Data.simulated(Spec(cards=300, terminals=500, days=40, radius=12))


_serial = count()


@pytest.fixture
def world(services: Stack, home: Settings, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds, each a job with topics of its own; what still runs at the end is cancelled."""
    made: list[World] = []

    def make(**options: object) -> World:
        made.append(World(home, services, tmp_path, f"world{next(_serial)}", **options))  # type: ignore[arg-type]
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.close()
