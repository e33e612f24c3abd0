"""The local stack as processes: started, found again, killed, repaired and stopped; and Kafka through it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from schemas.errors import DefinitionError, Unavailable
from streaming import kafka, parts, process, stack
from streaming.settings import Settings, inherited
from streaming.stack import Part, Stack

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A stack of its own, stopped at the end."""
    chosen = Settings(home=tmp_path_factory.mktemp("home"), heap=512)
    try:
        yield chosen
    finally:
        stack.down(chosen)


@pytest.fixture
def running(settings: Settings) -> Stack:
    """The stack, up: what a test before this one broke is repaired."""
    return stack.up(settings)


def by_name(settings: Settings) -> dict[str, Part]:
    """Parts, asked now."""
    return {part.name: part for part in stack.status(settings)}


def test_every_part_answers(running: Stack, settings: Settings) -> None:
    """If this fails, `millrace up` says that a stack is up which is not."""
    assert [part.name for part in running.parts] == ["kafka", "valkey", "jobmanager", "taskmanager-0"]
    assert all(part.healthy and part.pid for part in running.parts)
    assert (running.flink_conf / "config.yaml").is_file()
    logs = {part.name: part.log for part in running.parts}
    assert all(log is not None and log.stat().st_size > 0 for log in logs.values())


def test_compilers_give_way(running: Stack, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a fresh cluster decides late for a minute, as its JVMs compile on the cores that decide."""
    monkeypatch.delenv("JAVA_TOOL_OPTIONS", raising=False)  # by which tests go without
    stack.kill(settings, "kafka")
    stack.up(settings)
    tasks = list(Path(f"/proc/{by_name(settings)['kafka'].pid}/task").iterdir())
    nice = [os.getpriority(os.PRIO_PROCESS, int(t.name)) for t in tasks if (t / "comm").read_text().startswith("C2")]
    assert nice
    assert min(nice) == 10


def test_up_again_keeps_what_lives(running: Stack, settings: Settings) -> None:
    """If this fails, a second `up` restarts services and kills the jobs that run."""
    before = {name: part.pid for name, part in by_name(settings).items()}
    assert stack.up(settings) == running
    assert {name: part.pid for name, part in by_name(settings).items()} == before


@pytest.mark.parametrize("name", ["taskmanager-0", "valkey", "kafka"])
def test_a_killed_part_is_seen_and_started_again(running: Stack, settings: Settings, name: str) -> None:
    """If this fails, a crashed service stays down, or its neighbours are restarted with it."""
    before = by_name(settings)
    stack.kill(settings, name)
    assert not by_name(settings)[name].healthy
    stack.up(settings)
    after = by_name(settings)
    assert after[name].healthy
    assert after[name].pid != before[name].pid
    assert after[name].address == before[name].address
    assert {n: p.pid for n, p in after.items() if n != name} == {
        n: p.pid for n, p in before.items() if n != name
    }


def test_topics_survive_down_and_up(running: Stack, settings: Settings) -> None:
    """If this fails, stopping the stack loses what people published, or Kafka moves to another port."""
    kafka.create_topics(running.kafka, {"kept": {}})
    with kafka.Producer(running.kafka) as producer:
        producer.publish("kept", [(b"k", b"v", [])])
    processes = [part.process for part in running.parts]
    assert sorted(stack.down(settings)) == sorted(part.name for part in running.parts)
    assert not any(p and p.alive() for p in processes)
    assert stack.down(settings) == []
    again = stack.up(settings)
    assert (again.kafka, again.redis, again.flink) == (running.kafka, running.redis, running.flink)
    assert [r.value for batch in kafka.records(again.kafka, "kept") for r in batch] == [b"v"]


def test_services_elsewhere_are_used(running: Stack, tmp_path: Path) -> None:
    """If this fails, `up` starts a second broker beside the one it was told to use."""
    other = Settings(home=tmp_path, kafka=running.kafka, redis=running.redis, flink=running.flink)
    found = stack.up(other)
    assert (found.kafka, found.redis, found.flink) == (running.kafka, running.redis, running.flink)
    assert all(part.process is None and part.healthy for part in found.parts)
    assert stack.down(other) == []
    assert stack.stack(other).kafka == running.kafka


def test_a_silent_service_elsewhere_is_named(tmp_path: Path) -> None:
    """If this fails, a wrong address shows up as a time-out somewhere inside a job."""
    port = process.free_ports(1)[0]
    nobody = f"127.0.0.1:{port}"
    other = Settings(home=tmp_path, kafka=nobody, redis=f"redis://{nobody}", flink=f"http://{nobody}")
    with pytest.raises(Unavailable, match="MILLRACE_KAFKA") as caught:
        stack.up(other)
    assert "MILLRACE_REDIS" in str(caught.value)
    assert "MILLRACE_FLINK" in str(caught.value)


def test_a_mistaken_address_moves_nothing(running: Stack, settings: Settings) -> None:
    """If this fails, a typing error in an address takes the TaskManager down, and every job with it."""
    nobody = f"127.0.0.1:{process.free_ports(1)[0]}"
    before = {part.name: part.process for part in stack.status(settings)}
    with pytest.raises(Unavailable, match="MILLRACE_KAFKA"):
        stack.up(replace(settings, kafka=nobody))
    assert {part.name: part.process for part in stack.status(settings)} == before


def test_down_spares_a_process_that_got_the_pid(tmp_path: Path) -> None:
    """If this fails, `down` after a reboot kills whatever process has an old pid."""
    bystander = process.spawn([sys.executable, "-c", "input()"], inherited(), tmp_path / "log")
    sleeper = process.spawn(
        [sys.executable, "-c", "import time; time.sleep(60)"], inherited(), tmp_path / "log"
    )
    try:
        state = stack.State(tmp_path)
        state.record("valkey", stack.Entry([1], process=replace(sleeper, ticks=sleeper.ticks - 1)))
        assert stack.down(Settings(home=tmp_path)) == []
        assert sleeper.alive()
    finally:
        assert process.stop([sleeper, bystander], 5.0) == []


def test_down_stops_all_though_the_disk_is_full(tmp_path: Path) -> None:
    """If this fails, what a full disk needs first, to be rid of the stack, leaves Kafka and Valkey running."""
    home, names = tmp_path / "home", ("taskmanager-0", "kafka")
    home.mkdir()
    found = {name: process.spawn(["sleep", "60"], inherited(), tmp_path / "log") for name in names}
    try:
        state = stack.State(home)
        for name, sleeper in found.items():
            state.record(name, stack.Entry([1, 2], process=sleeper))
        (home / "stack.new").mkdir()  # nothing can be written
        assert set(stack.down(Settings(home=home), wipe=True)) == set(names)
        assert not any(sleeper.alive() for sleeper in found.values())
        assert not home.exists()
    finally:
        process.stop(found.values(), 5.0)


def test_a_part_that_cannot_start_says_why(tmp_path: Path) -> None:
    """If this fails, a user sees a time-out where the log names the cause."""
    chosen = Settings(home=tmp_path, kafka="127.0.0.1:1", flink="http://127.0.0.1:1")
    (tmp_path / "valkey").mkdir()
    (tmp_path / "valkey" / "dump.rdb").write_bytes(b"this is no dump")
    try:
        with pytest.raises(Unavailable, match="valkey ended while it started") as caught:
            stack.up(chosen)
        assert "Fatal error loading the DB" in str(caught.value)
        assert str(tmp_path / "logs" / "valkey.log") in str(caught.value)
    finally:
        stack.down(chosen)


def test_wipe_leaves_nothing(tmp_path: Path) -> None:
    """If this fails, `down --wipe` leaves data or a process behind."""
    chosen = Settings(home=tmp_path / "home", kafka="127.0.0.1:1", flink="http://127.0.0.1:1")
    with pytest.raises(Unavailable, match="MILLRACE_KAFKA"):
        stack.up(chosen)
    valkey = stack.State(chosen.home).entries["valkey"].process
    assert valkey is not None
    assert valkey.alive()
    assert stack.down(chosen, wipe=True) == ["valkey"]
    assert not valkey.alive()
    assert not chosen.home.exists()


def test_wipe_spares_what_others_have_in_the_folder(tmp_path: Path) -> None:
    """If this fails, `MILLRACE_HOME=~ millrace down --wipe` deletes a home directory."""
    mine = tmp_path / "models" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("x")
    assert stack.down(Settings(home=tmp_path), wipe=True) == []
    assert mine.exists()
    mine.rename(tmp_path / "thesis.txt")
    (tmp_path / "kafka").mkdir()
    stack.State(tmp_path).record("kafka", stack.Entry([1, 2]))
    stack.down(Settings(home=tmp_path), wipe=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_dead_redis_keeps_nothing_from_being_stopped(running: Stack, settings: Settings) -> None:
    """If this fails, nobody can stop a job that misbehaves while Redis is away."""
    stack.kill(settings, "valkey", signal.SIGSTOP)
    try:
        assert stack.stack(settings, ("kafka", "jobmanager", "taskmanager")).flink == running.flink
        with pytest.raises(Unavailable, match="valkey"):
            stack.stack(settings)
    finally:
        stack.kill(settings, "valkey", signal.SIGCONT)


def test_one_broker_of_several_is_enough(running: Stack) -> None:
    """If this fails, a cluster of brokers counts as away with the one that is named first."""
    assert stack.answers("kafka", f"127.0.0.1:1,{running.kafka}")
    assert not stack.answers("kafka", "127.0.0.1:1,127.0.0.1:2")


def test_a_redis_that_refuses_does_not_answer(running: Stack) -> None:
    """If this fails, a wrong password shows in degraded decisions only."""
    with redis.Redis.from_url(running.redis) as client:
        client.config_set("requirepass", "open")
        try:
            assert not stack.answers("valkey", running.redis)
            assert not stack.answers("valkey", running.redis.replace("redis://", "redis://:shut@"))
            assert stack.answers("valkey", running.redis.replace("redis://", "redis://:open@"))
        finally:
            client.config_set("requirepass", "")
    assert stack.answers("valkey", running.redis)


def test_what_is_needed_no_longer_is_forgotten(running: Stack, settings: Settings) -> None:
    """If this fails, `status` is wrong for ever after a time with more TaskManagers."""
    stack.State(settings.home).record("taskmanager-7", stack.Entry([1, 2, 3]))
    assert not by_name(settings)["taskmanager-7"].healthy
    stack.up(settings)
    assert "taskmanager-7" not in by_name(settings)


def test_a_hung_part_is_not_healthy(running: Stack, settings: Settings) -> None:
    """If this fails, status calls a service well that has stopped answering."""
    stack.kill(settings, "valkey", signal.SIGSTOP)
    try:
        assert not by_name(settings)["valkey"].healthy
    finally:
        stack.kill(settings, "valkey", signal.SIGCONT)
    assert by_name(settings)["valkey"].healthy


def test_taskmanager_runs_with_our_python_and_addresses(running: Stack, settings: Settings) -> None:
    """If this fails, a job's Python misses packages or looks for Redis elsewhere."""
    pid = by_name(settings)["taskmanager-0"].pid
    raw = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    environment = dict(line.split("=", 1) for line in raw if line)
    assert environment["MILLRACE_KAFKA"] == running.kafka
    assert environment["MILLRACE_REDIS"] == running.redis
    paths = environment["PYTHONPATH"].split(os.pathsep)
    assert all(any((Path(path) / name).exists() for path in paths) for name in ("numpy", "streaming"))


def test_cli_tells_status_by_exit_code(running: Stack, settings: Settings, tmp_path: Path) -> None:
    """If this fails, a script cannot tell from `millrace status` whether the stack is up."""

    def millrace(*words: str, home: Path, **twins: str) -> subprocess.CompletedProcess[str]:
        environment = inherited() | {"MILLRACE_HOME": str(home)} | twins
        code = "from streaming.cli import main; main()"
        command = [sys.executable, "-c", code, *words]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    well = millrace("status", "--json", home=settings.home)
    assert well.returncode == 0
    assert json.loads(well.stdout)["healthy"] is True
    assert json.loads(well.stdout)["jobs"] == []
    down = millrace("status", "--json", home=tmp_path)
    assert (down.returncode, json.loads(down.stdout)["jobs"]) == (1, None)
    wrong = millrace("status", home=tmp_path, MILLRACE_KAFKA="nonsense")
    assert wrong.returncode == 2
    assert "MILLRACE_KAFKA" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    checked = millrace("doctor", "--json", home=settings.home)
    assert {row["check"] for row in json.loads(checked.stdout)["findings"]} >= {"python", "libpython", "java"}


class TestKafka:
    """Topics, publishing and reading back."""

    def test_topics_are_created_once(self, running: Stack) -> None:
        """If this fails, a second deploy fails because its topics exist, or changes their partitions."""
        wanted = {"once.events": {}, "once.models": {"cleanup.policy": "compact"}}
        assert sorted(kafka.create_topics(running.kafka, wanted, 3)) == sorted(wanted)
        assert kafka.create_topics(running.kafka, wanted, 1) == []
        assert kafka.partitions(running.kafka)["once.events"] == 3

    def test_what_is_published_is_read(self, running: Stack) -> None:
        """If this fails, keys, headers, empty values or their order get lost on the way."""
        topic = "round.trip"
        kafka.create_topics(running.kafka, {topic: {}}, 2)
        sent: list[kafka.Outgoing] = [
            (f"k{i % 7}".encode(), f"{i}".encode(), [("n", b"\x00\xff")] if i % 2 else [])
            for i in range(5000)
        ]
        sent.append((None, None, [("tombstone", None)]))
        with kafka.Producer(running.kafka) as producer:
            assert producer.publish(topic, sent) == len(sent)
        ends = kafka.end_offsets(running.kafka, topic)
        assert sum(ends.values()) == len(sent)
        got = [record for batch in kafka.records(running.kafka, topic, batch=700) for record in batch]
        assert sorted((r.key or b"", r.value or b"", r.headers) for r in got) == sorted(
            (key or b"", value or b"", tuple(headers)) for key, value, headers in sent
        )
        for partition in ends:
            offsets = [r.offset for r in got if r.partition == partition]
            assert offsets == list(range(ends[partition]))
        by_key = [int(r.value or b"0") for r in got if r.key == b"k3"]
        assert by_key == sorted(by_key)
        assert all(abs(r.timestamp / 1000 - time.time()) < 60 for r in got)

    def test_reading_between_offsets(self, running: Stack) -> None:
        """If this fails, a reader misses records or reads past the point it was told to stop at."""
        topic = "slice"
        kafka.create_topics(running.kafka, {topic: {}})
        with kafka.Producer(running.kafka) as producer:
            producer.publish(topic, [(None, b"%d" % i, []) for i in range(10)])
        got = [r.value for batch in kafka.records(running.kafka, topic, {0: 3}, {0: 6}) for r in batch]
        assert got == [b"3", b"4", b"5"]
        live = kafka.records(running.kafka, topic, "latest", until=None)
        assert next(live) == []
        with kafka.Producer(running.kafka) as producer:
            producer.publish(topic, [(None, b"new", [])])
        assert next(batch for batch in live if batch)[0].value == b"new"
        live.close()  # type: ignore[attr-defined]

    def test_an_end_behind_a_transaction_is_reached(self, running: Stack) -> None:
        """If this fails, reading an exactly-once topic never ends, or shows aborted records."""
        topic = "transactions"
        kafka.create_topics(running.kafka, {topic: {}})
        for value, commit in ((b"kept", True), (b"aborted", False)):
            exactly_once = {"transactional.id": f"test-{commit}", "enable.idempotence": True}
            producer = kafka.Producer(running.kafka, **exactly_once)
            client = producer._client
            client.init_transactions(10)
            client.begin_transaction()
            producer.publish(topic, [(None, value, [])])
            producer.flush()
            (client.commit_transaction if commit else client.abort_transaction)(10)
        got = [r.value for batch in kafka.records(running.kafka, topic) for r in batch]
        assert got == [b"kept"]

    def test_errors_are_ours(self, running: Stack) -> None:
        """If this fails, a missing topic or broker ends a command with a traceback of the client library."""
        with pytest.raises(DefinitionError, match="no topic 'nowhere'"):
            kafka.end_offsets(running.kafka, "nowhere")
        with pytest.raises(DefinitionError, match="cannot be created"):
            kafka.create_topics(running.kafka, {"bad": {"retention.ms": "soon"}})
        port = process.free_ports(1)[0]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            kafka.ping(f"127.0.0.1:{port}", seconds=0.5)
        with kafka.Producer(running.kafka) as producer:
            producer.publish("nowhere", [(None, b"x", [])])
            with pytest.raises(Unavailable, match="did not take a record"):
                producer.flush()

    def test_a_record_that_is_too_large_is_refused(self, running: Stack) -> None:
        """If this fails, an oversized record is dropped without a word."""
        kafka.create_topics(running.kafka, {"large": {}})
        producer = kafka.Producer(running.kafka)
        with pytest.raises(DefinitionError, match="cannot be published"):
            producer.publish("large", [(None, b"x" * (parts.MESSAGE_BYTES + 1024), [])])
