"""The demo as people run it: from nothing, again on the same home, ended early, and what it says to try next."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming import jobs, stack
from streaming.settings import Settings, inherited
from streaming.shows import kind

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

MILLRACE = Path(sys.executable).with_name("millrace")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A home that nothing was started in, wiped at the end."""
    settings = Settings(home=tmp_path_factory.mktemp("demo"), heap=768)
    try:
        yield settings
    finally:
        stack.down(settings)


def start(settings: Settings, *words: str) -> subprocess.Popen[str]:
    """Begin a command, with its standard output to be read."""
    environment = inherited() | settings.environment()
    return subprocess.Popen(
        [str(MILLRACE), *words], env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=interruptible
    )


def interruptible() -> None:
    """Let a command hear Ctrl-C also where the tests run in the background of a shell, which ignores it there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(settings: Settings, *words: str) -> str:
    """What a command prints; it must succeed."""
    process = start(settings, *words)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def is_whole(text: str) -> None:
    """Assert that a summary tells of events of which none is lost."""
    found = json.loads(text)
    assert list(found) == ["events", "decisions", "deadletters", "lost", "repeated", "p50_ms", "p99_ms"]
    assert found["events"] == found["decisions"] > 0
    assert found["deadletters"] == found["lost"] == found["repeated"] == 0
    assert 0 <= found["p50_ms"] <= found["p99_ms"]


def has_picture(text: str) -> None:
    """Assert that a summary names a picture with curves."""
    assert "<polyline" in Path(text.partition("plot over event time: ")[2].splitlines()[0]).read_text()


def test_from_nothing_and_again(home: Settings) -> None:
    """`make demo` does not work on a new machine, leaves services behind, or works only once."""
    first = run(home, "demo", "--seconds", "3", "--rate", "200")
    assert "600 events: 600 decisions, 0 dead letters, 0 lost, 0 repeated" in first
    assert "started with fraud-rule (amount, card_amount_mean_7d)" in first
    assert "drift injected on " in first
    assert "outcomes: " in first
    assert " 0 lost, " in first.partition("outcomes: ")[2]
    has_picture(first)
    assert not any(part.pid for part in stack.status(home))
    commands = [line.split() for line in first.partition("Next:")[2].splitlines() if line]
    assert [words[1] for words in commands] == ["up", "tail", "deploy"]
    for words in commands:
        assert Path(words[0]).name == "millrace"
        printed = run(home, *words[1:])
        assert words[1] != "tail" or len(printed.splitlines()) == 3
    is_whole(run(home, "demo", "--seconds", "2", "--rate", "100", "--json"))
    found = stack.stack(home)  # what ran before the demo still does
    assert jobs.running(found.flink, "fraud") is not None
    run(home, "stop", "fraud")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_early_end_is_clean(home: Settings, number: signal.Signals) -> None:
    """Ctrl-C ends the demo with a traceback, without its summary, or with its job still running, or a deploy after it
    fails with words of Flink's, or forgets what was learned."""
    found = stack.up(home)
    process = start(home, "demo", "--seconds", "600", "--rate", "100")
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if " of 600 s" in line:
                break
        process.send_signal(number)
        text, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0
    assert " 0 lost, 0 repeated" in text
    assert "Next:" in text
    assert jobs.running(found.flink, "fraud") is None
    words = [str(MILLRACE), "deploy", "fraud"]
    environment = inherited() | home.environment()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "--set learn=true --set model=rule --set compile=3d" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("name", "told"),
    [("anomaly", "spike: 1 of 1 caught"), ("forecast", r"\b1 h ahead: MASE 0\.\d\d, coverage \d\d")],
)
def test_sensors_and_series(home: Settings, name: str, told: str) -> None:
    """The demos of anomalies and forecasts lose readings, notice nothing, or leave no picture."""
    text = run(home, "demo", name, "--seconds", "6", "--rate", "200")
    assert "1,200 events: 1,200 decisions, 0 dead letters, 0 lost, 0 repeated" in text, text
    assert re.search(told, text), text
    has_picture(text)
    words = text.partition("Next:")[2].split()
    assert all(f"--set {name}={value}" in " ".join(words) for name, value in kind(name).sets.items())


def test_what_dies_comes_back(home: Settings) -> None:
    """kill -9 during a demo loses an outcome, teaches one twice, or ends the demo."""
    stack.up(home)
    process = start(home, "demo", "--seconds", "20", "--rate", "200")
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if re.match(r" *[1-9]\d* of 20 s", line):
                break
        stack.kill(home, "taskmanager-0")
        text, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, text
    assert "taskmanager-0 died" in text
    assert "4,000 events: 4,000 decisions, 0 dead letters, 0 lost" in text
    assert re.search(r"outcomes: [\d,]+ published, 0 lost, 0 learned twice", text), text
