"""Where a job goes on: what is remembered of its savepoints and checkpoints."""

import errno
import io
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from schemas.errors import Unavailable
from streaming import cli, jobs
from streaming.commands import options
from streaming.settings import Settings
from streaming.stack import State


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


@pytest.mark.parametrize("found", ["", "{", "[]", "{}", '{"savepoint": 5}', "\udcff"])
def test_a_damaged_record_is_named(tmp_path: Path, found: str) -> None:
    """A disk that was full once gives a traceback from then on, or a job begins anew without a word."""
    chosen = Settings(home=tmp_path)
    jobs._record(chosen, "fraud").write_bytes(found.encode(errors="surrogateescape"))
    with pytest.raises(Unavailable, match=r"fraud\.json is damaged .*--fresh"):
        jobs.newest("fraud", chosen)
    jobs._overrides(chosen, "fraud").write_bytes(found.encode(errors="surrogateescape") or b"[]")
    if found != "{}":
        with pytest.raises(Unavailable, match=r"fraud\.set\.json is damaged .*delete it"):
            jobs.overrides("fraud", chosen)


@pytest.mark.parametrize(
    "found", ["[]", '{"kafka": 5}', '{"kafka": {"ports": [1]}}', '{"no": {"ports": [1]}}', '{"kafka": {"ports": "12"}}']
)
def test_a_damaged_stack_is_named(tmp_path: Path, found: str) -> None:
    """A state file of another shape ends every command in a traceback."""
    (tmp_path / "stack.json").write_text(found)
    with pytest.raises(Unavailable, match=r"stack\.json is damaged"):
        State(tmp_path)


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
