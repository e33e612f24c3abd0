"""Commands over files, without any service: simulate, replay, train."""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from schemas.errors import DefinitionError
from schemas.time import duration
from streaming.commands import models, options
from streaming.commands.options import Json, Name, Set, read_lines

if TYPE_CHECKING:
    from models.artifact import Artifact
    from streaming.examples import Truth
    from streaming.plan import Plan
    from streaming.replay import Step


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("simulate")(simulate_command)
    app.command("replay")(replay_command)
    app.command("train")(train_command)


def simulate_command(
    out: Annotated[Path, typer.Option(help="Folder for events.jsonl and outcomes.jsonl.")],
    days: Annotated[int, typer.Option(min=1, help="Days from 2018-04-01 on.")] = 183,
    cards: Annotated[int, typer.Option(min=1)] = 5_000,
    terminals: Annotated[int, typer.Option(min=1)] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="0 makes the book's data set.")] = 0,
    as_json: Json = False,
) -> None:
    """Make card transactions with known frauds, as event and outcome files.

    Example: millrace simulate --days 60 --out data
    """
    from streaming.simulator import Spec, simulate

    out.mkdir(parents=True, exist_ok=True)
    events, outcomes = out / "events.jsonl", out / "outcomes.jsonl"
    with options.err.status(f"simulating {days} days of {cards:,} cards"):
        transactions = simulate(Spec(cards=cards, terminals=terminals, days=days).seeded(seed))
        transactions.write(events, outcomes)
    frauds = int(transactions.label.sum())
    result = {"events": len(transactions), "frauds": frauds, "files": [str(events), str(outcomes)]}
    text = f"{len(transactions):,} transactions, {frauds:,} of them fraudulent, in {out}\n"
    text += f"Next: millrace replay fraud --events {events} --outcomes {outcomes} --out {out}/decisions.jsonl"
    options.show(result, as_json, text)


def replay_command(
    workload: Name,
    events: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Events, JSON lines or .csv.")],
    outcomes: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Outcomes, JSON lines.")] = None,
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="Decisions, JSON lines.")] = None,
    examples: Annotated[Path | None, typer.Option(dir_okay=False, help="Features, outcomes; .parquet, .jsonl.")] = None,
    last: Annotated[bool, typer.Option("--last", help="Write only the newest decision of each key.")] = False,
    refit: Annotated[str | None, typer.Option(help="Fit trees to the examples so far, as often as 7d.")] = None,
    set: Set = None,
    as_json: Json = False,
) -> None:
    """Decide a file of events, in process: no services, the same decisions as on a cluster.

    The model of the definition decides, and no champion of a registry.
    Records that cannot be decided are written beside the decisions, to a file of the same name and `.deadletters`.
    A workload that learns does so as it goes: no label earlier than it was known. What was signalled goes to a file
    of the same name and `.signals`.

    Example: millrace replay fraud --events e.jsonl --outcomes o.jsonl --set learn=true --refit 7d
    Example: millrace replay fraud --events data/events.jsonl --outcomes data/outcomes.jsonl --out decisions.jsonl
    """
    from streaming.examples import ExampleWriter
    from streaming.plan import check_model
    from streaming.replay import Replay

    plan = options.compiled(workload, set)
    check_model(plan)
    _check_outcomes(plan, outcomes is not None, examples is not None, refit is not None)
    teach = plan.workload.learning is not None and outcomes is not None
    replay = Replay(plan, time.time_ns() // 1_000_000, teach=teach, refit=duration(refit) if refit else 0)
    began, total = time.perf_counter(), options.count_lines(events)
    with ExitStack() as stack:
        bar, task = stack.enter_context(options.progress(f"replay {plan.workload.name}", total, as_json))
        written = _Writer(stack, out, last)
        writer = stack.enter_context(ExampleWriter(examples, plan.names, replay.truth)) if examples else None
        values = options.read_events(events, plan.workload.event)
        for step in replay.run(values, read_lines(outcomes) if outcomes else ()):
            written.write(step, replay.truth)
            if writer is not None:
                writer.write(step.events, step.decided.columns)
            bar.advance(task, len(step.events.ids) + len(step.refused) + step.duplicates)
        written.finish()
    result = written.result(time.perf_counter() - began)
    if writer is not None:
        result["examples"] = writer.count
    told = dict(result)
    if replay.teacher is not None:
        result["learning"] = report = replay.teacher.report()
        told |= _learned(report, replay.teacher.contest.champion)
    options.show(result, as_json, "\n".join(f"{name:<19} {_told(value)}" for name, value in told.items()))


def _told(value: object) -> str:
    """A figure, or figures by name, in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(number)}" for name, number in value.items())
    return f"{round(value, 4):g}" if isinstance(value, float) else str(value)


def _learned(report: Mapping[str, object], champion: str) -> dict[str, object]:
    """Counts of examples, and of each lineage what its scores were worth before their labels were known."""
    from streaming.signals import quality

    found = {"learning": report["counts"]}
    for name, measures in quality(report, "lineages").items():
        figures = {of.removeprefix("prequential_"): value for of, value in measures.items() if of in FIGURES}
        found[f"  {name}{' (champion)' * (name == champion)}"] = figures
    return found


def _check_outcomes(plan: "Plan", given: bool, examples: bool, refit: bool) -> None:
    """What needs outcomes must have them, and something must need them; who reads Redis is told that nothing does."""
    if plan.enriched:
        options.err.print(f"no Redis is read: {plan.enriched[0].name} is its default, and every decision degraded")
    if given and plan.workload.outcome is None:
        raise DefinitionError(f"--outcomes: workload {plan.workload.name!r} declares no outcome=, and reads none")
    if examples and not given:
        raise DefinitionError("--examples: an example needs its outcome; add --outcomes FILE")
    if refit and (not given or plan.workload.learning is None):
        raise DefinitionError("--refit: expected a workload that learns (as `--set learn=true`), and --outcomes")


FIGURES = ("labels", "prequential_ap", "prequential_roc_auc", "prequential_log_loss")
"""Measures of a lineage that are told; all of them with --json."""

TOLD = 10
"""Refused records that are told one by one; the rest is in the file, and counted."""


class _Writer:
    """Writes what comes of a replay, and counts it."""

    def __init__(self, stack: ExitStack, out: Path | None, last: bool):
        if out and not out.parent.is_dir():
            raise DefinitionError(f"--out {out}: found no folder {out.parent}; make it first")
        self._out = stack.enter_context(out.open("wb")) if out else None
        self._dead = stack.enter_context(out.with_name(out.name + ".deadletters").open("wb")) if out else None
        self._signals = stack.enter_context(out.with_name(out.name + ".signals").open("wb")) if out else None
        self._newest: dict[str, bytes] | None = {} if last else None
        self._actions, self._reasons, self._counts = Counter[str](), Counter[str](), Counter[str]()
        self._told = 0
        self._known: list[tuple[bool, float]] = []

    def write(self, step: "Step", truth: "Truth") -> None:
        """Take one step."""
        from streaming.signals import encode_signal

        made = sum(value is not None for value in step.decided.values)
        self._counts.update(decisions=made, duplicates=step.duplicates)
        events = sum(refused.file == "events" for refused in step.refused)
        self._counts.update(deadletters=len(step.refused), events=len(step.events.ids) + step.duplicates + events)
        self._actions.update(step.decided.actions)
        self._reasons.update(refused.kind for refused in step.refused)
        pairs = zip(step.events.entities[0], step.decided.values, strict=True)
        decided = [(key, value) for key, value in pairs if value is not None]
        if self._newest is not None:
            self._newest.update(decided)
        elif self._out is not None:
            self._out.writelines(value + b"\n" for _, value in decided)
        for signal in step.signals:
            if self._signals is not None:
                self._signals.write(encode_signal(signal) + b"\n")
            if signal.kind in ("promote", "rollback", "refused"):
                options.err.print(f"{signal.kind}: {signal.detail}", highlight=False, markup=False)
        for file, record, value, kind, detail in step.refused:
            line = {"file": file, "record": record, "reason": kind, "detail": detail}
            if self._dead is not None:
                self._dead.write(msgspec.json.encode(line | {"value": value.decode(errors="replace")}) + b"\n")
            if self._told < TOLD:
                options.err.print(f"{file}, record {record}: {kind}: {detail}", highlight=False, markup=False)
            self._told += 1
        if truth:
            scored = zip(step.events.ids, step.decided.scores.tolist(), strict=True)
            self._known += [(truth[id][1], score) for id, score in scored if id in truth and score == score]

    def finish(self) -> None:
        """Write what had to wait for the end."""
        if self._newest is not None and self._out is not None:
            self._out.writelines(decision + b"\n" for decision in self._newest.values())

    def result(self, seconds: float) -> dict[str, object]:
        """Counts, speed, and the quality of the scores where outcomes are known."""
        import numpy as np

        from models.metrics import average_precision, log_loss, roc_auc

        names = ("events", "decisions", "deadletters", "duplicates")
        result: dict[str, object] = {name: self._counts[name] for name in names}
        speed = round(self._counts["events"] / seconds)
        result |= {"actions": dict(self._actions), "seconds": round(seconds, 2), "events_per_second": speed}
        if self._reasons:
            result["reasons"] = dict(self._reasons)
        labels, scores = np.array(self._known, np.float64).reshape(-1, 2).T
        if len(set(labels.tolist())) == 2:
            result["labelled"] = len(labels)
            for name, metric in (("ap", average_precision), ("auc", roc_auc), ("log_loss", log_loss)):
                result[name] = round(metric(labels, scores), 4)
        return result


def _fitted(artifact: "Artifact") -> tuple[dict[str, object], str]:
    """What came of training, as JSON and in words."""
    rows, left = artifact.recipe["rows"], artifact.recipe.get("left_out", 0)
    without = f", without {left} that have values which are no finite numbers" if left else ""
    text = f"{artifact.version} on {rows:,} examples{without}\n{_told(artifact.metrics)}"
    measured = dict(artifact.metrics)
    return {"model": artifact.version, "examples": rows, "left_out": left, "metrics": measured}, text


def _make(folder: Path) -> None:
    """Make a folder before the work whose result it is for."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DefinitionError(f"--out {folder}: {error.strerror}; expected a folder that can be written to") from error


def train_command(
    workload: Name,
    examples: Annotated[
        list[Path], typer.Option(exists=True, dir_okay=False, help="What `replay --examples` wrote; repeatable.")
    ],
    out: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for it, not the registry.")] = None,
    registry: models.Url = None,
    skip_days: Annotated[int, typer.Option(min=0, help="Leave out the first days: windows still fill.")] = 0,
    until_day: Annotated[int | None, typer.Option(min=1, help="Train on what was known by this day.")] = None,
    trees: Annotated[int, typer.Option(min=1, help="At most so many: fewer, of larger steps, score faster.")] = 150,
    set: Set = None,
    as_json: Json = False,
) -> None:
    """Fit boosted trees to examples, and register the ONNX model as a challenger, with its recipe and golden rows.

    With `--out` it is written to a folder instead, or as well where `--registry` is given.

    Example: millrace train fraud --examples examples.parquet
    Or: millrace train fraud --examples examples.parquet --out my-model
    Then: millrace deploy fraud --set model=$PWD/my-model
    """
    from models.boosting import Boosting, fit, reference
    from streaming.examples import read_examples
    from streaming.simulator import DAY

    plan = options.compiled(workload, set)
    data = read_examples(*examples)
    features = plan.workload.inputs or plan.names
    start = int(data.at[0])
    keep = data.at >= start + skip_days * DAY
    if until_day is not None:
        keep &= data.label_at < start + until_day * DAY
    if not keep.any():
        raise DefinitionError(f"--skip-days {skip_days} --until-day {until_day}: no example of {len(keep):,} is left")
    if out is not None:
        _make(out)
    with options.err.status(f"fitting {int(keep.sum()):,} examples"):
        rows, params = data.columns(features)[keep], Boosting.of(trees)
        name, at, kept = plan.workload.name, data.at[keep], data.weight[keep]
        recipe = {"command": " ".join(["millrace", *sys.argv[1:]]), "range": [int(at[0]), int(at[-1])]}
        artifact = fit(rows, data.label[keep], features, name, at=at, weight=kept, params=params, recipe=recipe)
    result, text = _fitted(artifact)
    if out is not None:
        result["out"] = str(artifact.save(out))
        text += f"\nin {out}"
    if out is None or registry is not None:
        result |= models.enter(plan.workload, artifact, registry, reference(artifact, rows, at), "millrace train")
        text += f"\nchallenger in {result['registry']}\nNext: millrace promote {workload} {artifact.version}"
        text += f" --registry {registry}" if registry else ""
    options.show(result, as_json, text)
