"""Commands on the registry: which versions of a workload's models there are, and which of them decides.

Each change is made in the registry first and then announced on `millrace.models`, where running jobs hear of it. An
announcement that could not be published says so and can be repeated; the registry is what counts.
"""

import getpass
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table

from schemas import models as records
from schemas.errors import DefinitionError, MillraceError
from schemas.time import about, duration
from schemas.topics import MODELS
from streaming import kafka, settings, stack
from streaming.commands import options
from streaming.commands.options import Json, Name, Set
from streaming.signals import SPANS, delay, quality, segments

if TYPE_CHECKING:
    from models.artifact import Artifact
    from models.drift import Reference
    from models.registry import Registry, Revision
    from streaming.plan import Plan
    from streaming.workload import Workload

Url = Annotated[
    str | None, typer.Option("--registry", metavar="URL", help="Folder or fsspec URL; default: models in the home.")
]
VersionName = Annotated[str, typer.Argument(metavar="VERSION", help="As `millrace models` lists it.")]
Why = Annotated[str, typer.Option(help="The reason, for the history.")]

LATEST = 5
"""Changes that `millrace models` shows; all of them with --json."""


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("models")(models_command)
    app.command("promote")(promote_command)
    app.command("rollback")(rollback_command)
    app.command("freeze")(freeze_command)
    app.command("retire")(retire_command)


def registry(url: str | None) -> "Registry":
    """The registry at `url`, or the one in the home."""
    from models.registry import Registry

    return Registry(url or settings.read().models)


def publish(brokers: str, announcement: records.Announcement) -> None:
    """Publish on `millrace.models`, which is made where missing; Unavailable where no broker answers."""
    kafka.ping(brokers)
    kafka.create_topics(brokers, {MODELS: {"cleanup.policy": "compact"}})
    with kafka.Producer(brokers) as producer:
        producer.publish(MODELS, [(announcement.workload.encode(), records.encode(announcement), ())])


def announce(registry: "Registry", workload: str) -> bool:
    """Tell running jobs what `registry` says about `workload`; False, with a note, where nobody can be told."""
    from models.registry import Registry, announcement

    chosen = settings.read()
    if registry.url != Registry(chosen.models).url:
        other = f"MILLRACE_REGISTRY={registry.url} would have them follow this one"
        note = f"not announced: jobs follow {chosen.models}; {other}"
        options.err.print(note, highlight=False, markup=False, soft_wrap=True)
        return False
    try:
        publish(chosen.kafka or stack.brokers(chosen), announcement(registry, workload))
    except MillraceError as error:
        note = f"not announced: {error}; then `millrace models {workload} --announce` (or its file)"
        options.err.print(note, highlight=False, markup=False, soft_wrap=True)
        return False
    return True


def enter(
    definition: "Workload", artifact: "Artifact", url: str | None, reference: "Reference", why: str
) -> dict[str, object]:
    """Register a trained model as a challenger and announce it; `reference`: what it was trained on."""
    chosen, name = registry(url), definition.name
    parent = chosen.champion(name) or definition.model.version
    chosen.register(name, artifact, reference=reference, parent=parent, by=_user(), why=why)
    return {"registry": chosen.url, "alias": "challenger", "announced": announce(chosen, name)}


def models_command(
    workload: Name,
    url: Url = None,
    again: Annotated[bool, typer.Option("--announce", help="Tell running jobs again.")] = False,
    mlflow: Annotated[str | None, typer.Option(metavar="URI", help="Log to this MLflow tracking server, too.")] = None,
    set: Set = None,
    as_json: Json = False,
) -> None:
    """List the versions of a workload's models: alias, training range, metrics, and the latest changes.

    Below stands what each lineage, whose versions follow one another, was worth before its labels came: over all of
    them, fading, over the last days and by segment; --json also has that of each version, and how the contests stand.

    The definition is that of the last deploy; `--set` says another.

    Example: millrace models fraud
    """
    definition, chosen = deployed(workload, set), registry(url)
    now, (versions, damaged) = chosen.aliases(definition.name), chosen.listed(definition.name)
    history, own = chosen.history(definition.name), definition.model
    result: dict[str, object] = {
        "workload": definition.name, "registry": chosen.url, "definition": own.version,
        "aliases": msgspec.to_builtins(now), "history": msgspec.to_builtins(history),
        "versions": [msgspec.to_builtins(entry) | {"alias": _alias(now, entry.version)} for entry in versions],
        "damaged": damaged, "report": (report := chosen.reported(definition.name)),
    }  # fmt: skip
    if again:
        result["announced"] = announce(chosen, definition.name)
    if mlflow is not None:
        from models.tracking import Tracking  # brings MLflow

        result["logged"] = Tracking(mlflow).log(chosen, definition.name)
    options.show(result, as_json, f"{definition.name} in {chosen.url}, revision {now.revision}")
    if as_json:
        return
    table = Table(box=None)
    for title in ("version", "alias", "trained on", "labels", "unlabelled", "AP", "in training"):
        table.add_column(title, no_wrap=title not in ("trained on", "in training"), overflow="fold")
    served = quality(report, "versions") if report else {}
    if own.version not in {entry.version for entry in versions}:
        alias = "champion" if now.champion is None else "definition"
        table.add_row(own.version, alias, "", *_figures({**own.metrics, **served.get(own.version, {})}))
    for entry in versions:
        days = "" if entry.range is None else " to ".join(map(_day, entry.range))
        figures = _figures(entry.metrics | entry.measured | served.get(entry.version, {}))
        table.add_row(entry.version, _alias(now, entry.version), days, *figures)
    options.out.print(table, highlight=False)
    lines = [*(_worth(report) if report else ()), *(f"damaged: {reason}" for reason in damaged.values())]
    for line in (*lines, *map(_told, history[-LATEST:])):
        options.out.print(line, highlight=False, markup=False, soft_wrap=True)


def deployed(workload: str, set: list[str] | None) -> "Workload":
    """The definition with the parameters of `set`, or with those of its last deploy."""
    from streaming import jobs
    from streaming.workloads import load

    definition = load(workload, options.overrides(set))
    if set is None and (known := jobs.overrides(definition.name, settings.read())):
        with suppress(DefinitionError):  # a parameter that is no more
            return load(workload, known)
    return definition


def _plan(workload: str, set: list[str] | None) -> "Plan":
    """What the running job serves, as far as is known."""
    from streaming.plan import plan

    return plan(deployed(workload, set))


def promote_command(
    workload: Name, version: VersionName, why: Why = "", url: Url = None, set: Set = None, as_json: Json = False
) -> None:
    """Make a version champion, once it has passed its checks; the one before stays as a challenger.

    Example: millrace promote fraud fraud-57a9d5df3560 --why "better since Monday"
    """
    plan, chosen = _plan(workload, set), registry(url)
    name = plan.workload.name
    own = version == plan.workload.model.version and version not in chosen.aliases(name).challengers
    if not own:  # it serves already, under no alias
        _try(chosen, plan, version)
    _show(chosen, name, chosen.promote(name, None if own else version, why=why, by=_user()), as_json, plan)


def rollback_command(workload: Name, why: Why = "", url: Url = None, set: Set = None, as_json: Json = False) -> None:
    """Make the champion before the present one champion again, once it has passed its checks.

    Example: millrace rollback fraud --why "too many alerts"
    """
    plan, chosen = _plan(workload, set), registry(url)
    name = plan.workload.name
    if former := [version for version in chosen.aliases(name).former[-1:] if version]:
        _try(chosen, plan, *former)
    _show(chosen, name, chosen.rollback(name, why=why, by=_user()), as_json, plan)


def retire_command(
    workload: Name, version: VersionName, why: Why = "", url: Url = None, as_json: Json = False
) -> None:
    """Let a challenger be scored no longer; it stays in the registry, and `millrace promote` finds it.

    Example: millrace retire fraud fraud-57a9d5df3560 --why "too slow"
    """
    from streaming.workloads import load

    name, chosen = load(workload).name, registry(url)
    _show(chosen, name, chosen.retire(name, version, why=why, by=_user()), as_json)


def freeze_command(
    workload: Name,
    off: Annotated[bool, typer.Option("--off", help="Let promotions and rollbacks go on.")] = False,
    why: Why = "",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Keep the champion: nothing is promoted or rolled back, by hand or by itself, until `--off`.

    Example: millrace freeze fraud --why "audit"
    """
    from streaming.workloads import load

    name, chosen = load(workload).name, registry(url)
    _show(chosen, name, chosen.freeze(name, not off, why=why, by=_user()), as_json)


def _try(registry: "Registry", plan: "Plan", version: str) -> None:
    """Have a version pass its checks, as a running job would; ModelRejected where it does not."""
    from models.admission import admit

    with options.err.status(f"trying {version}"):
        artifact = registry.get(plan.workload.name, version)
        admit(artifact, features=plan.names, budget_ms=duration(plan.workload.budget))


def _show(
    registry: "Registry", workload: str, change: "Revision", as_json: bool, plan: "Plan | None" = None
) -> None:
    """Announce and print what was changed; where `plan`, as it is deployed, follows no registry, that too."""
    announced = announce(registry, workload)
    text = f"{_told(change)}\nchampion: {change.champion or 'the model of the definition'}"
    text += f"; challengers: {', '.join(change.challengers) or 'none'}\n"
    text += "announced to running jobs" if announced else "no running job has heard of it"
    if plan is not None and not plan.workload.follows:
        text += "\nbut what decides there is no ONNX model, and its jobs follow no registry"
    options.show(msgspec.to_builtins(change) | {"workload": workload, "announced": announced}, as_json, text)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user id, as in some containers
        return "unknown"


def _alias(now: "Revision", version: str) -> str:
    return "champion" if version == now.champion else "challenger" if version in now.challengers else ""


def _day(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d")


def _worth(report: Mapping[str, object]) -> list[str]:
    """What each lineage was worth before its labels came, a line each; nothing where none came."""
    if not (late := delay(report)):
        return []
    half, most = (about(late[f"label_delay_{of}"]) for of in ("p50", "p90"))
    lines = [f"before labels came, which took {half}, nine in ten at most {most}:"]
    parts = {(name, ""): measures for name, measures in quality(report, "lineages").items()} | segments(report)
    for (name, segment), measures in sorted(parts.items()):
        for span, begin in SPANS.items():
            of = {n.removeprefix(f"{begin}_"): v for n, v in measures.items() if n.startswith(f"{begin}_")}
            if of.get("n") and not (segment and span != "overall"):
                where = f"{name}, segment {segment}" if segment else f"{name}, {span}"
                lines.append(f"  {where}: {', '.join(f'{n} {_number(v)}' for n, v in of.items())}")
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _figures(metrics: Mapping[str, float]) -> tuple[str, str, str, str]:
    """Labels seen, the share that is unlabelled and prequential AP, where they were measured, and AP and AUC of the
    training's validation."""
    labels, served, left = (metrics.get(name) for name in ("labels", "prequential_ap", "unlabelled"))
    training = {"AP": metrics.get("validation_average_precision"), "AUC": metrics.get("validation_roc_auc")}
    shown = " ".join(f"{name} {value:.4f}" for name, value in training.items() if value is not None)
    come = "" if left is None else f"{left:.0%}"
    return "" if labels is None else f"{labels:,.0f}", come, "" if served is None else f"{served:.4f}", shown


def _told(change: "Revision") -> str:
    when = datetime.fromtimestamp(change.at / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    version = change.version or ("the model of the definition" if change.action == "promoted" else "")
    return " ".join(filter(None, (when, change.action, version, change.by and f"by {change.by}", change.why)))
