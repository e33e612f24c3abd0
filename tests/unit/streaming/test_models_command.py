"""The registry's commands: what `train` makes is listed, promoted, frozen and rolled back by hand, and each says so."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.linear import linear
from models.registry import Registry
from schemas.errors import DefinitionError, ModelRejected
from streaming import cli
from streaming.workloads import load

DAY = 86_400_000
Run = Callable[..., dict[str, object]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in a home of its own, where no broker is up, and returns what it prints as JSON."""
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MILLRACE_KAFKA", raising=False)

    def run(*words: str, json_: bool = True) -> dict[str, object]:
        monkeypatch.setattr(sys, "argv", ["millrace", *words, *(["--json"] if json_ else [])])
        cli.app([*words, *(["--json"] if json_ else [])], standalone_mode=False)
        printed = capsys.readouterr().out
        found: dict[str, object] = json.loads(printed) if json_ else {"text": printed}
        return found

    return run


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Served readings of 40 days, of which large values tend to be positive."""
    names = ("value", *load("reference").model.features)
    rng, path = np.random.default_rng(1), tmp_path / "examples.jsonl"
    with path.open("w") as file:
        for i, row in enumerate(rng.normal(50, 20, (1_500, len(names)))):
            at, label = i * 40 * DAY // 1_500, bool(row[1] + rng.normal(0, 10) > 70)
            features = dict(zip(names, row.tolist(), strict=True))
            line = {"event": f"e{i}", "at": at, "key": "k", "label": label, "label_at": at + DAY, "features": features}
            file.write(json.dumps(line) + "\n")
    return path


def test_from_examples_to_champion_and_back(run: Run, examples: Path, tmp_path: Path) -> None:
    """What was trained cannot be found, promoted or taken back, or nobody can tell later what happened."""
    trained = run("train", "reference", "--examples", str(examples), "--skip-days", "10")
    version, own = str(trained["model"]), load("reference").model.version
    assert (trained["alias"], trained["announced"]) == ("challenger", False)
    listed = run("models", "reference")
    (entry,) = listed["versions"]  # type: ignore[misc]
    assert (entry["version"], entry["alias"], entry["parent"]) == (version, "challenger", own)
    assert (entry["range"][0] // DAY, entry["range"][1] // DAY) == (10, 39)
    assert entry["metrics"]["validation_average_precision"] > 0.5
    promoted = run("promote", "reference", version, "--why", "better")
    assert (promoted["champion"], promoted["why"], promoted["revision"]) == (version, "better", 2)
    assert run("freeze", "reference")["frozen"]
    with pytest.raises(DefinitionError, match="frozen"):
        run("rollback", "reference")
    assert not run("freeze", "reference", "--off")["frozen"]
    assert run("rollback", "reference", "--why", "worse")["champion"] is None
    told = run("models", "reference", json_=False)["text"]
    assert f"rolled back {version}" in str(told)
    assert own in str(told)
    assert Registry(tmp_path / "home" / "models").history("reference")[1].why == "better"


def test_train_writes_where_it_is_told(run: Run, examples: Path, tmp_path: Path) -> None:
    """`--out` makes a challenger that nobody asked for, or `--registry` is not heard."""
    folder, url = tmp_path / "model", tmp_path / "elsewhere"
    out = run("train", "reference", "--examples", str(examples), "--out", str(folder))
    assert (folder / "manifest.json").exists()
    assert not (tmp_path / "home").exists()
    both = run("train", "reference", "--examples", str(examples), "--out", str(folder), "--registry", str(url))
    assert both["model"] == out["model"]
    assert Registry(url).challengers("reference") == (out["model"],)


def test_a_bad_model_is_not_promoted(run: Run, tmp_path: Path) -> None:
    """A person promotes what every job refuses, and the registry says that it decides."""
    r = Registry(tmp_path / "home" / "models")
    version = r.register("reference", linear("reference", {"amount": 1.0}))
    with pytest.raises(ModelRejected, match="amount"):
        run("promote", "reference", version)
    with pytest.raises(DefinitionError, match=f"only {version}"):
        run("promote", "reference", "reference-000000000000")
    assert r.champion("reference") is None


@pytest.mark.parametrize("command", ["models", "promote", "rollback", "freeze", "train"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command does not say how it is used."""
    cli.app([command, "--help"], standalone_mode=False)
    assert f"Example: millrace {command}" in capsys.readouterr().out
