"""Commands on workloads and their jobs: list, describe, deploy, stop."""

import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import MillraceError
from streaming.commands import options
from streaming.commands.options import Json, Name, Set

if TYPE_CHECKING:
    from streaming.jobs import Deployment
    from streaming.settings import Settings
    from streaming.stack import Stack

Flink = Annotated[str | None, typer.Option("--flink", metavar="URL", help="REST address of another cluster.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("list")(list_command)
    app.command("describe")(describe_command)
    app.command("deploy")(deploy_command)
    app.command("stop")(stop_command)


def list_command(as_json: Json = False) -> None:
    """List the workloads that are known by name.

    Example: millrace list
    """
    from streaming.workloads import load, names

    found = {}
    for name in names():
        try:
            workload = load(name)
            entities = ", ".join(block.entity for block in workload.blocks)
            found[name] = f"{workload.event.__name__} by {entities}, {len(workload.policy.actions)} actions"
        except MillraceError as error:  # one broken workload must not hide the others
            found[name] = f"cannot be loaded: {error}"
    width = max(map(len, found))
    options.show(found, as_json, "\n".join(f"{name:<{width + 2}}{about}" for name, about in found.items()))


def describe_command(workload: Name, set: Set = None, as_json: Json = False) -> None:
    """Print the plan of a workload: its stages, features, model and parameters.

    Example: millrace describe fraud
    """
    from streaming.plan import check_model
    from streaming.workloads import describe_parameters

    plan = options.compiled(workload, set)
    check_model(plan)
    parameters = describe_parameters(workload)
    result = {
        "name": plan.workload.name, "topics": plan.workload.topics.all(), "columns": plan.names,
        "model": plan.workload.model.version, "inputs": plan.workload.model.features,
        "actions": plan.workload.policy.actions, "parameters": {k: str(v) for k, v in parameters.items()},
    }  # fmt: skip
    declared = "\n".join(f"  set       {name}={default}" for name, default in parameters.items())
    options.show(result, as_json, plan.describe() + ("\n" + declared if declared else ""))


def services(flink: str | None, parallelism: int | None = None, *needs: str) -> "tuple[Settings, Stack]":
    """Settings with the command's options on top, and the services to use, of which those it `needs` are up."""
    from streaming import stack
    from streaming.settings import Settings, read

    settings = read()
    changed = {name: value for name, value in (("flink", flink), ("parallelism", parallelism)) if value is not None}
    settings = Settings(**({name: getattr(settings, name) for name in settings.__slots__} | changed))
    return settings, stack.stack(settings, needs)


def deploy_command(
    workload: Name,
    parallelism: Annotated[int | None, typer.Option(min=1, max=128, help="Parallel instances of every stage.")] = None,
    flink: Flink = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start from the oldest event, not the savepoint.")] = False,
    set: Set = None,
    as_json: Json = False,
) -> None:
    """Submit a workload to the Flink cluster; it goes on from the savepoint of the last stop.

    Example: millrace deploy fraud --parallelism 2 --set review=0.4
    """
    from streaming import jobs
    from streaming.commands.models import announce, registry
    from streaming.workloads import refer

    settings, services_ = services(flink, parallelism, "kafka", "jobmanager", "taskmanager")
    if not any(part.healthy for part in services_.parts if part.name == "valkey"):
        options.err.print("Redis does not answer: no features are published, and what is read there is its default")
    deployment = jobs.deployment(refer(workload, options.overrides(set)), services_, settings)
    before, now = jobs.overrides(deployment.name, settings), deployment.reference.set
    if deployment.plan.workload.follows:  # it may have changed while no broker was there to hear of it
        announce(registry(None), deployment.name)
    known = jobs.expected(settings).get(deployment.name)
    if flink is None:  # noted before it can be interrupted
        jobs.expect(deployment.name, settings, _again(workload, now, parallelism))
    try:
        with options.err.status(f"deploying {deployment.name}"):
            deployed = jobs.deploy(deployment, services_, settings, fresh)
    except MillraceError:
        jobs.expect(deployment.name, settings, known)
        raise
    result = {
        "job": deployed.id, "name": deployment.name, "savepoint": deployed.savepoint, "flink": services_.flink,
        "unread": deployed.unread,
    }  # fmt: skip
    origin = f"from savepoint {deployed.savepoint}" if deployed.savepoint else "from the oldest event"
    text = f"{deployment.name} runs {origin}; job {deployed.id}, {services_.flink}\n"
    if deployed.savepoint and before is not None and before != now:
        text += f"it ran with {jobs.as_options(before)}, and now with {jobs.as_options(now)}\n"
    for topic, count in deployed.unread.items():
        text += f"{count:,} records of {topic} were deleted (retention) before any job read them\n"
    text += _decides(deployment, settings)
    text += f"Next: millrace publish {workload} --events FILE, millrace tail {workload}"
    options.show(result, as_json, text)


def _again(workload: str, set: Mapping[str, str], parallelism: int | None) -> str:
    """The command that deploys a workload as it is deployed now, for a shell and from any folder."""
    from streaming.settings import chosen

    name = str(Path(workload).absolute()) if Path(workload).suffix == ".py" else workload
    words = [word for one, value in set.items() for word in ("--set", f"{one}={value}")]
    wide = ["--parallelism", str(parallelism)] if parallelism else []
    before = [f"{variable}={shlex.quote(value)}" for variable, value in chosen().items()]
    return " ".join((*before, shlex.join(["millrace", "deploy", name, *words, *wide])))


def _decides(deployment: "Deployment", settings: "Settings") -> str:
    """Who decides where that is not the model of the definition, in words."""
    from models.registry import Registry

    workload, registry = deployment.plan.workload, Registry(settings.models)
    own, champion = workload.model.version, registry.aliases(deployment.name).champion
    if champion in (None, own):
        return ""
    if not workload.follows:
        return f"{own} decides, which is no ONNX model: its job follows no registry, whose champion is {champion}\n"
    try:
        lost = registry.lacking(deployment.name, champion, deployment.plan.names)
    except MillraceError as error:  # the job, which runs, refuses it too
        return f"{own} decides: {error}\n"
    if lost:
        return f"{own} decides: {champion}, champion of the registry, reads {lost[0]!r}, which no feature provides\n"
    return f"{champion} decides, the champion of the registry; the model of the definition is {own}\n"


def stop_command(
    workload: Name,
    flink: Flink = None,
    savepoints: Annotated[str | None, typer.Option(metavar="URI", help="Folder for the savepoint.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Take none: its last checkpoint counts.")] = False,
    as_json: Json = False,
) -> None:
    """Stop the job of a workload with a savepoint; the next deploy goes on from there. Waits for a job that recovers.

    One that fails for ever takes no savepoint: --cancel ends it, and the next deploy goes on from its last checkpoint.

    Example: millrace stop fraud
    """
    from streaming import jobs
    from streaming.workloads import load

    settings, services_ = services(flink, None, "jobmanager")
    known = workload in jobs.expected(settings) or jobs.running(services_.flink, workload) is not None
    name = workload if known else load(workload).name  # a job of somebody's file has a name, too
    if cancel and flink is None:  # elsewhere it is nobody's business here
        jobs.expect(name, settings, None)
    with options.err.status(f"stopping {name}"):
        ended = jobs.cancel if cancel else partial(jobs.stop, folder=savepoints)
        savepoint = ended(name, services_, settings)
    if flink is None:
        jobs.expect(name, settings, None)
    what = "cancelled; it was last whole in" if cancel else "stopped; savepoint"
    options.show({"name": name, "savepoint": savepoint}, as_json, f"{name} is {what} {savepoint}")
