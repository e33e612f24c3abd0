"""The README, run: its files are written, its commands executed in order, and what it shows is what they print."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from streaming import shows, stack
from streaming.cli import app
from streaming.settings import PREFIX, Settings, inherited

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "=== command"


class Command(NamedTuple):
    """One command of a console block, and the lines that are shown below it; `…` in them stands for anything."""

    text: str
    shown: list[str]


def commands(block: str) -> list[Command]:
    """Lines after `$ `, with those after `> ` as their continuation."""
    found: list[Command] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:], []))
        elif line.startswith("> "):
            found[-1] = Command(f"{found[-1].text}\n{line[2:]}", [])
        else:
            found[-1].shown.append(line)
    return found


def pattern(line: str) -> re.Pattern[str]:
    """What a shown line matches."""
    return re.compile("^" + ".*".join(re.escape(part) for part in line.split("…")), re.MULTILINE)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A stack of its own in the folder where the README is followed, as a reader has one."""
    chosen = Settings(home=tmp_path / ".millrace", heap=768)
    try:
        yield chosen
    finally:
        stack.down(chosen)


def follow(block: str, folder: Path, environment: dict[str, str]) -> None:
    """Run the commands of a console block in one shell, and compare what they print with what is shown."""
    wanted = commands(block)
    script = "set -eu -o pipefail\n" + "".join(f"echo '{MARK}'\n{command.text}\n" for command in wanted)
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    printed = done.stdout.split(f"{MARK}\n")[1:]
    assert done.returncode == 0, f"$ {wanted[len(printed) - 1].text}\n{printed[-1]}{done.stderr}"
    for command, text in zip(wanted, printed, strict=True):
        for line in command.shown:
            assert pattern(line).search(text), f"$ {command.text}\nshows {line!r}, printed:\n{text}"


def resolved(block: str, settings: Settings) -> str:
    """The block with this machine's services in the place of the README's."""
    if "example" not in block and "localhost" not in block:
        return block
    found = stack.stack(settings)
    for pattern, address in (
        (r"kafka\.example:9092", found.kafka),
        (r"redis://(redis\.example|localhost):6379/0", found.redis),
        (r"http://flink\.example:8081", found.flink),
    ):
        block = re.sub(pattern, address, block)
    return block


@pytest.mark.services
@pytest.mark.timeout(900)
def test_every_block_runs(settings: Settings, tmp_path: Path) -> None:
    """The first things that a reader tries do not work, or show something else than the README says."""
    environment = {name: value for name, value in inherited().items() if not name.startswith(PREFIX)}
    kept = {name: value for name, value in inherited().items() if name == f"{PREFIX}CACHE"}
    own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}", f"{PREFIX}HEAP": "768"}
    environment |= kept | own | {f"{PREFIX}HOME": str(settings.home), "COLUMNS": "200"}
    run = 0
    for kind, block in BLOCK.findall(README):
        if kind == "python":
            name = block.partition("\n")[0].removeprefix("# ")
            (tmp_path / name).write_text(block)
        elif kind == "console":
            follow(resolved(block, settings), tmp_path, environment)
            run += 1
    assert run >= 5
    assert not any(part.pid for part in stack.status(settings))


def test_blocks_are_of_known_kinds() -> None:
    """A block is left out of the test above because of how its fence is written, or names a target that is not there;
    or `make demo` does not know what can be shown."""
    kinds = {kind for kind, _ in BLOCK.findall(README)}
    assert kinds <= {"python", "console", "text", "sh"}
    assert README.count("```") == 2 * len(BLOCK.findall(README))
    targets = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in targets
    assert sorted(re.findall(r"^SHOWS := (.*)", targets, re.MULTILINE)[0].split()) == sorted(shows.NAMES)


def test_every_command_is_listed() -> None:
    """A command exists that the README does not name, or the README names one that does not exist."""
    table = README.partition("## Commands")[2].partition("\nW is")[0]
    named = set(re.findall(r"`(?:millrace )?([a-z]+)(?: W)?`", table))
    assert named == {command.name for command in app.registered_commands}
