"""Where a job goes on: what is remembered of its savepoints and checkpoints."""

import errno
import io
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from schemas.errors import Unavailable
from streaming import cli, jobs, process
from streaming.commands import options
from streaming.commands.doctor import _elsewhere, _processes
from streaming.commands.jobs import _again as again
from streaming.settings import Settings
from streaming.stack import Entry, Stack, State, brokers, stack
from streaming.workloads import Reference


def test_a_checkpoint_has_what_its_job_began_with_however_many_jobs_ago(tmp_path: Path) -> None:
    """A job that went on from a checkpoint with another parallelism, and ended soon, can never go on again."""
    savepoint, record = tmp_path / "savepoint-1", tmp_path / "record"
    starts = [savepoint, *(tmp_path / f"chk-{n}" for n in range(3))]
    for start in starts:
        start.mkdir()
    (savepoint / "a-file").write_text("state")
    for start in starts:
        jobs._complete(start.as_uri(), record)
        assert (start / "a-file").read_text() == "state"
        if start != savepoint:
            shutil.rmtree(start)  # as Flink does, once it has newer ones
    other = tmp_path / "savepoint-2"
    other.mkdir()
    for start in (other, tmp_path / "chk-9"):
        start.mkdir(exist_ok=True)
        jobs._complete(start.as_uri(), record)
        assert not (start / "a-file").exists()


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
def test_a_job_is_told_of_kafka(tmp_path: Path, delivery: str) -> None:
    """With exactly-once delivery no trees are fitted, as nobody says where the examples are; or a job counts as said
    what a transaction has undone."""
    there = Stack("kafka:9092", "", "", tmp_path, ())
    services = jobs.deployment(Reference("fraud"), there, Settings(home=tmp_path, delivery=delivery)).services
    assert (services.brokers, services.counts) == ("kafka:9092", delivery == "at-least-once")


@pytest.mark.parametrize("found", ["", "{", "[]", "{}", '{"savepoint": 5}', "\udcff"])
def test_a_damaged_record_is_named(tmp_path: Path, found: str) -> None:
    """A disk that was full once gives a traceback from then on, or a job begins anew without a word."""
    chosen = Settings(home=tmp_path)
    assert jobs.expected(chosen) == {}
    assert not (tmp_path / "jobs").exists(), "to read makes nothing"
    (tmp_path / "jobs").mkdir()
    jobs._record(chosen, "fraud").write_bytes(found.encode(errors="surrogateescape"))
    with pytest.raises(Unavailable, match=r"fraud\.json is damaged .*--fresh"):
        jobs.newest("fraud", chosen)
    jobs._overrides(chosen, "fraud").write_bytes(found.encode(errors="surrogateescape") or b"[]")
    if found != "{}":
        with pytest.raises(Unavailable, match=r"fraud\.set\.json is damaged .*delete it"):
            jobs.overrides("fraud", chosen)


def test_the_savepoint_of_an_interrupted_stop_counts(tmp_path: Path) -> None:
    """If this fails, a stop that was cut short makes the next deploy decide again what was decided."""
    chosen = Settings(home=tmp_path)
    for name, whole in (("old", True), ("new", True), ("half", False)):
        time.sleep(0.02)  # as coarse as times of files are
        folder = tmp_path / "savepoints" / "fraud" / name
        folder.mkdir(parents=True)
        if whole:
            (folder / "_metadata").write_text("")
        if name == "old":
            assert jobs.newest("fraud", chosen) == folder.as_uri()
            jobs._remember(chosen, "fraud", folder.as_uri())
            assert jobs.newest("fraud", chosen) == folder.as_uri()
    assert jobs.newest("fraud", chosen) == (tmp_path / "savepoints" / "fraud" / "new").as_uri()
    time.sleep(0.02)
    jobs._remember(chosen, "fraud", None)
    assert jobs.newest("fraud", chosen) is None, "--fresh"


def test_what_is_to_be_deployed_again_is_said_for_any_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, the command that `doctor` gives for a job that is gone runs another one, or none."""
    for name in [name for name in os.environ if name.startswith("MILLRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MILLRACE_DELIVERY", "exactly-once")
    monkeypatch.setenv("MILLRACE_REDIS", "redis://:secret@h:1/0")
    said = again("my dir/t.py", {"model": "a b"}, 2)
    path = shlex.quote(str(Path("my dir/t.py").absolute()))
    assert said == f"MILLRACE_DELIVERY=exactly-once millrace deploy {path} --set 'model=a b' --parallelism 2"
    assert again("fraud", {}, None) == "MILLRACE_DELIVERY=exactly-once millrace deploy fraud"


@pytest.mark.parametrize(
    "found", ["[]", '{"kafka": 5}', '{"kafka": {"ports": [1]}}', '{"no": {"ports": [1]}}', '{"kafka": {"ports": "12"}}']
)
def test_a_damaged_stack_is_named(tmp_path: Path, found: str) -> None:
    """A state file of another shape ends every command in a traceback."""
    (tmp_path / "stack.json").write_text(found)
    with pytest.raises(Unavailable, match=r"stack\.json is damaged"):
        State(tmp_path)


def test_a_mistaken_address_is_named(tmp_path: Path) -> None:
    """Who mistypes an address is told to start what runs already, or to take it down."""
    nobody = f"127.0.0.1:{process.free_ports(1)[0]}"
    chosen = Settings(home=tmp_path, kafka=nobody)
    with pytest.raises(Unavailable, match=f"^MILLRACE_KAFKA: found nobody at {nobody}.*correct it") as caught:
        brokers(chosen)
    assert "run `millrace up`" not in str(caught.value)
    with pytest.raises(Unavailable, match=r"MILLRACE_FLINK or --flink: .*\nkafka in .* not up; run `millrace up`"):
        stack(Settings(home=tmp_path, flink=f"http://{nobody}"), ("kafka", "jobmanager"))
    living = process.spawn(["sleep", "60"], {}, tmp_path / "log")
    try:
        State(tmp_path).record("kafka", Entry([1, 2], process=living))
        assert list(_processes(chosen)) == []
        assert [one.mend for one in _processes(replace(chosen, kafka=None))] == ["millrace down && millrace up"]
        assert [one.check for one in _elsewhere(chosen) if "correct MILLRACE_KAFKA" in one.mend] == ["MILLRACE_KAFKA"]
    finally:
        process.stop([living], grace=5.0)


def test_what_is_no_terminal_folds_nothing() -> None:
    """If this fails, no script can take a table of `millrace models` or `status` apart, or find a long message."""
    code = "from streaming.commands.options import out, err; out.print('word ' * 100); err.print('word ' * 100)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (said.stdout.count("\n"), said.stderr.count("\n")) == (1, 1)


def test_a_disk_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no right to write, or no room, gets a traceback; or a fault of ours looks like theirs."""
    said = io.StringIO()
    monkeypatch.setattr(options, "err", Console(file=said, width=200))
    for number, ours in ((errno.ENOSPC, False), (errno.EROFS, False), (errno.EACCES, False), (errno.ENOENT, True)):

        def fail(number: int = number) -> None:
            raise OSError(number, os.strerror(number), str(tmp_path / "x"))

        monkeypatch.setattr(cli, "app", fail)
        with pytest.raises(OSError if ours else SystemExit):
            cli.main()
        assert (os.strerror(number) in said.getvalue()) != ours
