"""The registry's commands: what `train` makes is listed, promoted, frozen and rolled back by hand, and each says so."""

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from models.artifact import load as load_artifact
from models.linear import linear
from models.onnx import Session
from models.registry import Registry
from schemas.errors import DefinitionError, ModelRejected
from streaming import cli
from streaming.commands import models, options
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
        found: dict[str, object] = json.loads(printed, parse_constant=refuse) if json_ else {"text": printed}
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"found {constant}, which is no JSON")

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
    assert entry["reference"]["names"][-1] == "score"
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


def test_what_no_job_follows_is_not_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a promotion in another registry is said to be announced, and jobs never hear of it, or go back."""
    said = io.StringIO()
    monkeypatch.setattr(options, "err", Console(file=said, width=400))
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MILLRACE_KAFKA", "127.0.0.1:1")
    other = Registry(tmp_path / "other")
    other.register("fraud", linear("fraud", {"amount": 0.1}))
    assert not models.announce(other, "fraud")
    assert f"MILLRACE_REGISTRY={other.url}" in said.getvalue()
    monkeypatch.setenv("MILLRACE_REGISTRY", other.url)
    assert models.registry(None).url == other.url
    assert not models.announce(other, "fraud")
    assert "is it up?" in said.getvalue(), "only as there is no broker"


def test_a_damaged_registry_is_noted_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a full disk cut keeps a workload from being deployed."""
    chosen = Registry(tmp_path / "models")
    chosen.register("fraud", linear("fraud", {"amount": 0.1}))
    (aliases,) = Path(chosen.url).rglob("aliases/*.json")
    aliases.write_bytes(b"{")
    monkeypatch.setenv("MILLRACE_KAFKA", "127.0.0.1:1")
    assert not models.announce(chosen, "fraud")


def test_a_replay_that_learns_tells_what_it_learned(run: Run, tmp_path: Path) -> None:
    """If this fails, a replay prints pages of Python, or JSON that no other language reads."""
    run("simulate", "--days", "3", "--cards", "20", "--terminals", "40", "--out", str(tmp_path))
    files = ("--events", str(tmp_path / "events.jsonl"), "--outcomes", str(tmp_path / "outcomes.jsonl"))
    told = str(run("replay", "fraud", "--set", "learn=true", *files, json_=False)["text"])
    assert not set("{}'") & set(told)
    assert re.search(r"^learning +examples \d+, presumed \d+,", told, re.MULTILINE)
    assert re.search(r"^  fraud \(champion\) +labels \d+", told, re.MULTILINE)
    assert re.search(r"^actions +approve \d+", told, re.MULTILINE)
    assert len(told.splitlines()) < 20
    report = run("replay", "fraud", "--set", "learn=true", *files)["learning"]
    assert '"average_precision": null' in json.dumps(report)  # of so few, none was fraud
    run("simulate", "--days", "12", "--cards", "20", "--terminals", "40", "--out", str(tmp_path))
    report = run("replay", "fraud", "--set", "learn=true", *files)["learning"]
    Registry(tmp_path / "home" / "models").report("fraud", report)  # type: ignore[arg-type]
    told = str(run("models", "fraud", json_=False)["text"])
    assert re.search(r"before labels came, which took [67](\.\d+)?d, nine in ten at most [67](\.\d+)?d:", told)
    assert re.search(r"^  fraud, window: n \d+, .*brier 0\.\d+, .*precision_at_100 0\.\d+$", told, re.MULTILINE)
    assert run("models", "fraud")["report"] == report


def test_a_refused_outcome_is_no_truth(run: Run, tmp_path: Path) -> None:
    """If this fails, figures and examples of a replay are of outcomes that it refused, or of a later correction."""
    run("simulate", "--days", "3", "--cards", "20", "--terminals", "40", "--out", str(tmp_path))
    files = ("--events", str(tmp_path / "events.jsonl"), "--outcomes", str(tmp_path / "outcomes.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    lines[0]["at"], lines[1]["label"], lines[2]["label"] = 10**15, "no", True
    lines += [lines[3] | {"label": not lines[3]["label"], "at": lines[3]["at"] + 1}]
    (tmp_path / "outcomes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = run("replay", "fraud", *files, "--examples", str(tmp_path / "x.jsonl"))
    assert (told["deadletters"], told["labelled"]) == (2, len(lines) - 3)
    found = {line["event"]: line["label"] for line in map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())}
    assert found == {line["event"]: line["label"] for line in lines[2:-1]}
    for command in ("replay", "publish"):
        with pytest.raises(DefinitionError, match="declares no outcome"):
            run(command, "reference", *files)


def test_a_file_with_a_bad_row_is_not_published(run: Run, tmp_path: Path) -> None:
    """If this fails, the rows before a bad one are on the topic, and published twice with the corrected file."""
    (tmp_path / "bad.csv").write_text("at,sensor,value\n1,a,1.5\n2,a,1.5,7\n")
    with pytest.raises(DefinitionError, match=r"bad\.csv:3: found more cells.*nothing was published"):
        run("publish", "anomaly", "--events", str(tmp_path / "bad.csv"))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_training_on_what_may_be_missing_names_a_way_out(run: Run, examples: Path, tmp_path: Path) -> None:
    """If this fails, an author whose event has an optional field can't train, and isn't told how."""
    lines = [json.loads(line) for line in examples.read_text().splitlines()]
    for line in lines[::20]:
        line["features"]["value"] = 1e300  # what is missing is no float32 either
    examples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ModelRejected, match=r"\['value'\].*inputs=\(…\)"):
        run("train", "reference", "--examples", str(examples), "--out", str(tmp_path / "model"))


def test_train_writes_where_it_is_told(run: Run, examples: Path, tmp_path: Path) -> None:
    """`--out` makes a challenger that nobody asked for, or `--registry` is not heard."""
    folder, url = tmp_path / "model", tmp_path / "elsewhere"
    told = str(run("train", "reference", "--examples", str(examples), "--out", str(folder), json_=False)["text"])
    assert "{" not in told
    assert "validation_roc_auc 0." in told
    out = run("train", "reference", "--examples", str(examples), "--out", str(folder))
    assert (folder / "manifest.json").exists()
    assert not (tmp_path / "home").exists()
    both = run("train", "reference", "--examples", str(examples), "--out", str(folder), "--registry", str(url))
    assert both["model"] == out["model"]
    assert Registry(url).challengers("reference") == (out["model"],)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_sampled_examples_are_weighed(run: Run, examples: Path, tmp_path: Path) -> None:
    """If this fails, a model trained on the examples topic says that most events are positive."""
    lines = [json.loads(line) for line in examples.read_text().splitlines()]
    share = sum(line["label"] for line in lines) / len(lines)
    few = [line for i, line in enumerate(lines) if line["label"] or i % 10 == 0]
    kept = [line | {"weight": 1.0 if line["label"] else 10.0} for line in few]
    for line in kept[:3]:
        line["features"]["value"] = 1e300
    examples.write_text("".join(json.dumps(line) + "\n" for line in kept))
    told = run("train", "reference", "--examples", str(examples), "--trees", "20", "--out", str(tmp_path / "model"))
    assert (told["examples"], told["left_out"]) == (len(kept) - 3, 3)
    model = load_artifact(tmp_path / "model")
    rows = np.array([[line["features"][name] for name in model.features] for line in lines], np.float32)
    assert Session(model).score(rows).mean() == pytest.approx(share, rel=0.4)
    with pytest.raises(DefinitionError, match="expected a folder that can be written to"):
        run("train", "reference", "--examples", str(examples), "--out", str(examples / "x"))


def test_people_change_what_is_deployed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a model is promoted by another definition than the one that runs, or a challenger stays."""
    r, own = Registry(tmp_path / "home" / "models"), load("reference").model.version
    ran = {"fraud": {"review": "0.4"}}
    monkeypatch.setattr("streaming.jobs.overrides", lambda name, settings: ran.get(name))
    assert models.deployed("fraud", None).policy != load("fraud").policy
    assert models.deployed("fraud", ["review=0.6"]).policy == load("fraud", {"review": "0.6"}).policy
    version = r.register("reference", load("reference").model)  # type: ignore[arg-type]
    assert version == own
    other = r.register("reference", linear("reference", {"value": -0.01}))
    assert run("promote", "reference", other)["champion"] == other
    assert run("retire", "reference", own, "--why", "slow")["challengers"] == []
    assert run("promote", "reference", own)["champion"] is None  # the definition's, under no alias


def test_a_bad_model_is_not_promoted(run: Run, tmp_path: Path) -> None:
    """A person promotes what every job refuses, and the registry says that it decides."""
    r = Registry(tmp_path / "home" / "models")
    version = r.register("reference", linear("reference", {"amount": 1.0}))
    with pytest.raises(ModelRejected, match="amount"):
        run("promote", "reference", version)
    with pytest.raises(DefinitionError, match=f"only {version}"):
        run("promote", "reference", "reference-000000000000")
    assert r.champion("reference") is None


@pytest.mark.parametrize("command", ["models", "promote", "rollback", "freeze", "retire", "train"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command does not say how it is used."""
    cli.app([command, "--help"], standalone_mode=False)
    assert f"Example: millrace {command}" in capsys.readouterr().out
