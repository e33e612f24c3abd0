"""The demo: the whole system on this machine, with simulated traffic, watched live. One command from nothing."""

import json
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live as Screen

from schemas.errors import DefinitionError, MillraceError, Unavailable
from streaming import settings as configuration
from streaming import stack
from streaming.commands import options, screen
from streaming.commands.options import Json
from streaming.commands.stack import Steps

if TYPE_CHECKING:
    from streaming.course import Course
    from streaming.live import Live, Offsets, Pace, Summary, Tally
    from streaming.settings import Settings
    from streaming.simulator import Record
    from streaming.workload import Workload

FIRST = 120.0  # seconds that the first decision may take: a job without savepoint reads its whole topic first
PATIENCE = 10.0  # seconds without any progress after which what has not come is lost
LINES = 5.0  # seconds between two lines of progress where there is no terminal
SIMULATED = {"fraud": {"learn": "true", "model": "rule", "compile": "3d"}}
"""Workloads that can be simulated, and what a demo overrides: it starts with a weak model; and every simulated day,
one a second, would be too often for new ones, each of which is tried in a process of its own."""


@dataclass(frozen=True)
class Site:
    """Where a demo runs, and what of it was there before: that is left as it was found."""

    workload: "Workload"
    stack: stack.Stack
    traffic: "Iterator[Record]"
    tally: "Tally"
    course: "Course"
    since: "Offsets"
    job_was_up: bool


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("demo")(demo_command)


def demo_command(
    workload: Annotated[str, typer.Argument(metavar="WORKLOAD", help="What to show.")] = "fraud",
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long, from the first decision on.")] = 60.0,
    rate: Annotated[float, typer.Option(min=1, max=10_000, help="Simulated events a second.")] = 500.0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave stack and job running at the end.")] = False,
    as_json: Json = False,
) -> None:
    """Start everything, publish simulated events, and show the decisions as they come; Ctrl-C ends it early.

    Example: millrace demo --seconds 20
    """
    if workload not in SIMULATED:
        raise DefinitionError(f"demo {workload}: found no simulation of it, expected {', '.join(SIMULATED)}")
    chosen = configuration.read()
    began = time.monotonic()
    with ExitStack() as undo, _interruptible():
        quiet = as_json and not options.err.is_terminal
        stack_was_up = any(part.pid for part in stack.status(chosen))
        if not keep and not stack_was_up:
            undo.callback(_stop_stack, chosen, quiet)
        site = _deploy(_up(chosen, quiet), chosen, workload, (rate, seconds), None if keep else undo)
        summary, waited = _run(site, seconds, as_json, began)
        if as_json:
            print(json.dumps(asdict(summary)), flush=True)
        else:
            options.out.print(_told(summary, waited), highlight=False)
            options.out.print(_learned(site, chosen), highlight=False, markup=False, soft_wrap=True)
        if summary.lost:
            found = f"{summary.lost:,} events without a decision, and no progress for {PATIENCE:.0f} s; {_job(site)}"
            options.err.print(found, highlight=False, markup=False)
    if not as_json:
        options.out.print(_next(workload, keep or site.job_was_up, stack_was_up), highlight=False, soft_wrap=True)
    if summary.lost:
        raise typer.Exit(1)


@contextmanager
def _interruptible() -> Iterator[None]:
    """A request to terminate ends the demo as Ctrl-C does, so that nothing that it started is left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _up(chosen: "Settings", quiet: bool) -> stack.Stack:
    """The stack, up; what the rest imports takes as long as the services need to start."""
    with ThreadPoolExecutor(1) as pool, Steps("starting", quiet) as steps:
        imported = pool.submit(_import)
        found = stack.up(chosen, steps)
        imported.result()
    return found


def _deploy(
    found: stack.Stack, chosen: "Settings", name: str, pace: tuple[float, float], undo: ExitStack | None
) -> Site:
    """The simulated traffic's history published, and the job deployed where none runs; `undo` stops that one."""
    from streaming import jobs, kafka, live
    from streaming.course import Course
    from streaming.simulator import stream
    from streaming.workloads import refer

    deployment = jobs.deployment(refer(name, SIMULATED[name]), found, chosen)
    workload, topics = deployment.plan.workload, deployment.topics
    job_was_up = jobs.running(found.flink, deployment.name) is not None
    prefix = f"{secrets.token_hex(4)}-"
    with options.err.status(f"deploying {name}, with simulated weeks before it"):
        kafka.create_topics(found.kafka, {topic: {} for topic in topics.all()}, chosen.parallelism)
        world = live.calendar(live.newest(found.kafka, topics.events), *pace, time.time_ns() // 1_000_000)
        since = {topic: kafka.end_offsets(found.kafka, topic) for topic in (topics.examples, topics.signals)}
        before, traffic = live.history(found.kafka, topics, stream(world, pace[0], prefix=prefix))
        if not job_was_up:
            if undo is not None:
                undo.callback(_stop_job, deployment.name, found, chosen)
            jobs.deploy(deployment, found, chosen)
    tally = live.Tally(prefix, workload.policy.actions[-1], before)
    course = Course(prefix, workload.model, live.injected(world))
    return Site(workload, found, traffic, tally, course, since, job_was_up)


def _import() -> None:
    from streaming import jobs, live  # noqa: F401


def _stop_stack(chosen: "Settings", quiet: bool) -> None:
    with Steps("stopping", quiet) as steps:
        stack.down(chosen, progress=steps)


def _stop_job(name: str, found: stack.Stack, chosen: "Settings") -> None:
    """Stop the job with a savepoint, so that the next one goes on from there; cancel it where it cannot take one."""
    from streaming import flink, jobs

    with options.err.status(f"stopping {name}"):
        job = jobs.running(found.flink, name)
        if job is None:  # it has failed
            return
        try:
            jobs.stop(name, found, chosen)
        except MillraceError as error:
            options.err.print(f"{name} is cancelled: {error}", highlight=False, markup=False)
            flink.cancel(found.flink, job.id)


def _run(site: Site, seconds: float, as_json: bool, began: float) -> "tuple[Summary, float | None]":
    """Send, show and wait for the rest; returns the summary, and the seconds from `began` to the first decision."""
    from streaming.live import Live

    with Live(site.stack.kafka, site.workload.topics, site.tally, site.course, site.since) as live:
        try:
            live.send(site.traffic, seconds)
            _await_first(live, site)
            (_watch if options.out.is_terminal and not as_json else _report)(live, seconds, as_json)
        except KeyboardInterrupt:  # enough seen; what is on its way is still waited for
            live.halt()
        try:
            live.drain(PATIENCE)
        except KeyboardInterrupt:
            options.err.print("not waiting for the rest", highlight=False)
        return site.tally.summary(), live.began - began if live.began else None


def _await_first(live: "Live", site: Site) -> None:
    """Wait until the first event is decided; Unavailable with the job's own words when it is not."""
    deadline = time.monotonic() + FIRST
    with options.err.status("waiting for the first decision"):
        while not live.tally.first.wait(0.1):
            live.check()
            if time.monotonic() > deadline:
                raise Unavailable(f"demo: found no decision within {FIRST:.0f} s, expected one; {_job(site)}")


def _job(site: Site) -> str:
    """What the cluster says about the job."""
    from streaming import flink

    name, address = site.workload.name, site.stack.flink
    job = next((job for job in flink.jobs(address) if job.name == name), None)
    return f"job {name} is {job.state}: {flink.failure(address, job.id) or 'no failure'}" if job else f"no job {name}"


def _report(live: "Live", seconds: float, as_json: bool) -> None:
    """Lines of progress, until everything is sent."""
    from streaming.live import Pace

    pace, said = Pace(live.tally), time.monotonic()
    console = options.err if as_json else options.out
    while live.sending:
        time.sleep(0.2)
        live.check()
        pace.look()
        if time.monotonic() - said >= LINES and (not as_json or options.err.is_terminal):
            said = time.monotonic()
            line = f"{live.seconds:3.0f} of {seconds:.0f} s  {_counts(live, pace)}"
            learned = f"   {screen.learning(live.course, live.tally.at)}"
            console.print(f"{line}\n{learned}", highlight=False, markup=False, soft_wrap=True)


def _counts(live: "Live", pace: "Pace") -> str:
    tally = live.tally
    actions = ", ".join(f"{name} {count:,}" for name, count in sorted(tally.actions.items()))
    latency = f"p50 {screen.ms(pace.p50)}  p99 {screen.ms(pace.p99)}"
    return f"{pace.events:,.0f} events/s  {pace.decisions:,.0f} decisions/s  {latency}  {actions}"


def _watch(live: "Live", seconds: float, as_json: bool) -> None:
    """The live view, until everything is sent."""
    from streaming.live import Pace

    pace, history = Pace(live.tally), list[float]()
    with Screen(console=options.out, auto_refresh=False) as shown:
        while live.sending:
            time.sleep(0.25)
            live.check()
            pace.look()
            history.append(pace.decisions)
            shown.update(screen.view(live, pace, history, seconds), refresh=True)


def _told(summary: "Summary", waited: float | None) -> str:
    s = summary
    text = (
        f"\n{s.events:,} events: {s.decisions:,} decisions, {s.deadletters:,} dead letters, {s.lost:,} lost, "
        f"{s.repeated:,} repeated\n"
        f"latency topic to topic (Kafka's stamps, whole run): p50 {screen.ms(s.p50_ms)}, p99 {screen.ms(s.p99_ms)}\n"
    )
    return text if waited is None else f"{text}first decision {waited:.1f} s after the start of the command\n"


def _learned(site: Site, chosen: "Settings") -> str:
    """What was learned, in words, and where the picture of it is."""
    from streaming import plot

    course, path = site.course, chosen.home / "demo.svg"
    path.write_text(plot.draw(course, f"{site.workload.name}: starts with {course.start}"))
    lines = [f"{len(course.learned):,} labels learned, {course.models} models compiled; started with {course.start}"]
    lines += [*map(screen.happened, course.changes), *screen.drift(course, site.tally.at)]
    lines += [f"{course.refused} models refused: {site.workload.topics.signals} says why"] if course.refused else []
    return "\n".join([*lines, f"average precision by model over time: {path}", ""])


def _next(name: str, job_is_up: bool, stack_is_up: bool) -> str:
    """Three commands that work now, one after the other."""
    millrace = "millrace" if shutil.which("millrace") else sys.argv[0]
    tail = f"tail {name} --from-beginning --limit 3"
    deploy = f"deploy {name} " + " ".join(f"--set {key}={value}" for key, value in SIMULATED[name].items())
    if job_is_up:
        commands = [tail, f"stop {name}", "down"]
    elif stack_is_up:
        commands = [tail, f"describe {name}", deploy]
    else:
        commands = ["up", tail, deploy]
    return "Next:\n" + "\n".join(f"  {millrace} {command}" for command in commands)
