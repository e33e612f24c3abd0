"""`millrace explain`: one decision, with the features it was made on, and computed again with the model that made it.

Features as served are public on the examples topic, from when the outcome of a decision is known.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import typer
from rich.table import Table

from schemas.errors import DefinitionError, MillraceError
from schemas.time import MILLISECONDS
from streaming import kafka, stack
from streaming.commands import options
from streaming.commands.models import Url, deployed, registry
from streaming.commands.options import Json, Name, Set
from streaming.settings import read

if TYPE_CHECKING:
    from models.artifact import Artifact
    from streaming.workload import Workload

Id = Annotated[str, typer.Argument(metavar="ID", help="Of the event, which is that of its decision.")]
Found = dict[str, Any]

STRONGEST = 10
"""Features that are shown with what they added; all of them with --json."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("explain")(explain_command)


def find(brokers: str, topic: str, field: str, id: str, advance: Callable[[int], None]) -> list[tuple[Found, int]]:
    """The records of `topic` whose `field` is `id`, each with its timestamp (ms); reads from the beginning."""
    text, found = msgspec.json.encode(id), list[tuple[Found, int]]()
    for batch in kafka.records(brokers, topic):
        for record in batch:
            body = record.value or b""
            value = msgspec.json.decode(body, type=Found) if text in body else {}
            found += [(value, record.timestamp)] * (value.get(field) == id)
        advance(len(batch))
    return found


def newest(decided: Sequence[Found], examples: Sequence[Found]) -> tuple[Found, Found | None]:
    """The newest decision and the example that was made of it: where an event was decided anew, with `deploy --fresh`,
    the one of that score; any where none is, and None where there is none."""
    from models.policy import DIGITS

    decision = decided[-1]
    for example in reversed(examples):
        score = example["scores"].get(decision["model"])
        if score is not None and round(score, DIGITS) == decision.get("score"):
            return decision, example
    return decision, examples[-1] if examples else None


def again(workload: "Workload", decision: Found, features: Found, url: str | None) -> Found:
    """The score of `features` by the model that decided, whether it is the one that was served, and what each added."""
    from models.native import Native
    from models.onnx import Session
    from models.policy import DIGITS

    own, version = workload.model, decision["model"]
    if version == own.version and isinstance(own, Native):
        score = features[own.column]
        return {"score_again": score, "agrees": round(score, DIGITS) == decision.get("score")}
    artifact: Artifact = own if version == own.version else registry(url).get(workload.name, version)  # type: ignore[assignment]
    missing = [name for name in artifact.features if features.get(name) is None]
    if missing:
        raise DefinitionError(f"model {version} reads {missing[0]!r}, which has no number in the example")
    row = np.array([[features[name] for name in artifact.features]]).astype(np.float32)
    session = Session(artifact)
    score, added = float(session.score(row)[0]), session.contributions(row)[0].tolist()
    columns = zip(artifact.features, row[0].tolist(), artifact.baseline, added, strict=True)
    told = [dict(zip(("feature", "value", "usual", "added"), column, strict=True)) for column in columns]
    told.sort(key=lambda one: -abs(float(str(one["added"]))))
    agrees = round(score, DIGITS) == decision.get("score")
    return {"sha256": artifact.sha256, "score_again": score, "agrees": agrees, "contributions": told}


def explain_command(workload: Name, id: Id, url: Url = None, set: Set = None, as_json: Json = False) -> None:
    """Explain one decision: its features, ages and model, what each feature added, and the score computed again.

    Example: millrace explain fraud 123456 --set learn=true
    """
    definition, brokers = deployed(workload, set), stack.brokers(read())
    topics = definition.topics
    total = sum(sum(kafka.end_offsets(brokers, topic).values()) for topic in (topics.decisions, topics.examples))
    with options.progress("read", total, as_json) as (bar, task):
        decided = find(brokers, topics.decisions, "id", id, lambda count: bar.advance(task, count))
        examples = find(brokers, topics.examples, "event", id, lambda count: bar.advance(task, count))
    if not decided:
        raise DefinitionError(f"found no decision {id!r} on {topics.decisions}; `millrace tail {workload}` shows ids")
    decision, example = newest([value for value, _ in decided], [value for value, _ in examples])
    when, repeats = decided[-1][1], sum(value == decision for value, _ in decided) - 1
    result: Found = {"decision": decision, "ages": {"written_ms": when - decision["at"]}, "repeats": repeats}
    if example is None:
        why = "its outcome is not known yet" if definition.learning else "this declaration has no learning"
        result["missing"] = f"features are published with the example, on {topics.examples}; there is none: {why}"
    else:
        result["ages"] |= {"label_ms": example["label_at"] - example["at"]}
        result |= {name: example[name] for name in ("label", "presumed", "features", "scores")}
        try:
            result |= again(definition, decision, example["features"], url)
        except MillraceError as error:
            result["missing"] = f"the score was not computed again: {error}"
    options.show(result, as_json, "\n".join(_told(result)))
    if not as_json and "contributions" in result:
        table = Table("feature", "value", "usual", "added to the score", box=None)
        for one in result["contributions"][:STRONGEST]:
            table.add_row(one["feature"], f"{one['value']:g}", f"{one['usual']:g}", f"{one['added']:+.6f}")
        options.out.print(table, highlight=False)


def _told(result: Found) -> list[str]:
    decision, ages = result["decision"], result["ages"]
    known = {name: decision[name] for name in ("score", "action", "reasons", "degraded") if name in decision}
    lines = [f"{decision['id']} of {decision['key']}: {', '.join(f'{name} {value}' for name, value in known.items())}"]
    lines.append(f"written {ages['written_ms'] / 1000:,.3f} s after the event's own time")
    if "label" in result:
        days = ages["label_ms"] / MILLISECONDS["d"]
        lines.append(f"label {result['label']}{' (presumed)' * result['presumed']}, known {days:,.2f} days after it")
    lines.append(f"model {decision['model']}" + (f", sha256 {result['sha256']}" if "sha256" in result else ""))
    if "agrees" in result:
        # What is said again is said as it was; why its features differ cannot be seen from here.
        why = "; decided again after a failure, outcomes may have come between" if result["repeats"] else ""
        verdict = "as served" if result["agrees"] else f"NOT the {decision.get('score')} that was served{why}"
        lines.append(f"computed again: {result['score_again']:.6f}, {verdict}")
    return lines + ([result["missing"]] if "missing" in result else [])
