"""The demo: the whole system on this machine, with simulated traffic, watched live. One command from nothing."""

import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live as Screen

from schemas.errors import MillraceError, Unavailable
from streaming import settings as configuration
from streaming import shows, stack
from streaming.commands import options, screen
from streaming.commands.options import Json
from streaming.commands.stack import Steps

if TYPE_CHECKING:
    from streaming.live import Live, Offsets, Pace, Summary, Tally
    from streaming.settings import Settings
    from streaming.shows import Show
    from streaming.simulator import Record
    from streaming.workload import Workload
    from streaming.workloads import Reference

FIRST = 120.0  # seconds that the first decision may take: a job without savepoint reads its whole topic first
PATIENCE = 30.0
RECOVERY = 120.0  # seconds that a job may take to run again
LINES = 5.0  # seconds between two lines of progress where there is no terminal


@dataclass(frozen=True)
class Site:
    """Where a demo runs, and what of it was there before: that is left as it was found."""

    workload: "Workload"
    care: "Care"
    show: "Show"
    traffic: "Iterator[Record]"
    tally: "Tally"
    since: "Offsets"
    job_was_up: bool


class Care:
    """Starts again what dies during a demo: parts of the stack that run here, and a job that died with its JobManager,
    which goes on from its last checkpoint."""

    def __init__(self, found: stack.Stack, chosen: "Settings", reference: "Reference") -> None:
        self.stack, self.told = found, list[str]()
        self._chosen, self._reference, self._began = chosen, reference, time.monotonic()
        self._pool, self._work = ThreadPoolExecutor(1), Future[None]()
        self._work.set_result(None)
        self._given_up = False

    @property
    def patience(self) -> float:
        """Seconds without any progress after which what has not come is lost."""
        return RECOVERY / 2 if self.told else PATIENCE

    def busy(self) -> bool:
        """Look whether everything lives; whether something is being mended."""
        if not self._work.done():
            return True
        self._work.result()
        if self._given_up:
            return False
        dead = [part.name for part in self.stack.parts if part.process is not None and not part.process.alive()]
        if dead:
            self._say(f"{', '.join(dead)} died; starting again what is gone")
            self._work = self._pool.submit(self._mend)
        return bool(dead)

    def _mend(self) -> None:
        deadline = time.monotonic() + RECOVERY
        while not self._given_up:
            try:
                self._start()
                return self._say("everything runs again")
            except MillraceError as error:  # something else may have died, and a job that restarts fails some times
                self._given_up = time.monotonic() > deadline
                reason = str(error)
                time.sleep(1)
        self._say(f"given up: {reason}")

    def _start(self) -> None:
        from streaming import flink, jobs

        self.stack = stack.up(self._chosen)
        deployment = jobs.deployment(self._reference, self.stack, self._chosen)
        job = jobs.running(self.stack.flink, deployment.name)
        if job is None:
            self._say(f"job {deployment.name} is gone; it is deployed again, and goes on from its last checkpoint")
            jobs.deploy(deployment, self.stack, self._chosen)
        else:
            flink.wait_running(self.stack.flink, job.id, seconds=20.0)

    def _say(self, what: str) -> None:
        self.told.append(f"after {time.monotonic() - self._began:.0f} s: {what}")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("demo")(demo_command)


def demo_command(
    workload: Annotated[str, typer.Argument(metavar="[fraud|anomaly|forecast]", help="What to show.")] = "fraud",
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long, from the first decision on.")] = 60.0,
    rate: Annotated[float, typer.Option(min=1, max=10_000, help="Simulated events a second.")] = 500.0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave stack and job running at the end.")] = False,
    as_json: Json = False,
) -> None:
    """Start everything, publish simulated events, and show the decisions as they come; Ctrl-C ends it early.

    Example: millrace demo --seconds 20
    """
    shows.kind(workload)
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
            print(options.to_json(asdict(summary)), flush=True)
        else:
            options.out.print(_told(summary, waited, site.tally.differing), highlight=False)
            options.out.print(_happened(site, chosen), highlight=False, markup=False, soft_wrap=True)
        if summary.lost:
            found = f"{summary.lost:,} events without a decision, and no progress for {site.care.patience:.0f} s"
            options.err.print(f"{found}; {_job(site)}", highlight=False, markup=False)
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
    from streaming.workloads import refer

    kind = shows.kind(name)
    job_was_up = jobs.running(found.flink, name) is not None
    before = jobs.overrides(name, chosen) if job_was_up else None
    sets = kind.sets if before is None else before
    if sets != kind.sets:
        asked = f"this demo is made for {jobs.as_options(kind.sets)}"
        options.err.print(f"{name} runs already, with {jobs.as_options(sets)}; {asked}", highlight=False, markup=False)
    deployment = jobs.deployment(refer(name, sets), found, chosen)
    topics = deployment.topics
    with options.err.status(f"deploying {name}, with a simulated past"):
        kafka.create_topics(found.kafka, {topic: {} for topic in topics.all()}, chosen.parallelism)
        newest, now = live.newest(found.kafka, topics.events), time.time_ns() // 1_000_000
        show = kind(shows.Run(f"{secrets.token_hex(4)}-", deployment.plan.workload, *pace, newest, now))
        read = (topics.decisions, topics.deadletters, *show.takers(topics))
        since = {topic: kafka.end_offsets(found.kafka, topic) for topic in read}
        past, traffic = live.history(found.kafka, topics, show.records(), show.before)
        if not job_was_up:
            if undo is not None:
                undo.callback(_stop_job, deployment.name, found, chosen)
            jobs.deploy(deployment, found, chosen)
    tally = live.Tally(show.run.prefix, past, show.decision, show.decided)
    care = Care(found, chosen, deployment.reference)
    return Site(deployment.plan.workload, care, show, traffic, tally, since, job_was_up)


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

    tally, care = site.tally, site.care
    with Live(care.stack.kafka, site.workload.topics, tally, site.show, site.since) as live:
        try:
            live.send(site.traffic, seconds)
            (_watch if options.out.is_terminal and not as_json else _report)(live, site, seconds, as_json)
        except KeyboardInterrupt:  # enough seen; what is on its way is still waited for
            live.halt()
        try:
            live.drain(lambda: care.patience, care.busy)
        except KeyboardInterrupt:
            options.err.print("not waiting for the rest", highlight=False)
        return tally.summary(), tally.shown - began if tally.shown else None


def _ticks(live: "Live", site: Site, every: float) -> "Iterator[Pace]":
    """Moments to look at, until everything is sent; Unavailable, with the job's own words, where nothing is decided."""
    from streaming.live import Pace

    pace, deadline = Pace(live.tally), time.monotonic() + FIRST
    while live.sending or site.care.busy():
        time.sleep(every)
        live.check()
        if site.care.busy():
            deadline = time.monotonic() + FIRST
        elif live.tally.shown is None and time.monotonic() > deadline:
            raise Unavailable(f"demo: found no decision within {FIRST:.0f} s, expected one; {_job(site)}")
        pace.look()
        yield pace


def _job(site: Site) -> str:
    """What the cluster says about the job."""
    from streaming import flink

    name, address = site.workload.name, site.care.stack.flink
    try:
        job = next((job for job in flink.jobs(address) if job.name == name), None)
        return (
            f"job {name} is {job.state}: {flink.failure(address, job.id) or 'no failure'}" if job else f"no job {name}"
        )
    except MillraceError as error:
        return str(error)


def _report(live: "Live", site: Site, seconds: float, as_json: bool) -> None:
    """Lines of progress, until everything is sent."""
    said, told = time.monotonic() - LINES, 0
    console = options.err if as_json else options.out
    tally = live.tally
    for pace in _ticks(live, site, 0.2):
        lines, told = site.care.told[told:], len(site.care.told)
        if tally.shown is not None and time.monotonic() - said >= LINES:
            said = time.monotonic()
            latency = f"p50 {screen.ms(pace.p50)}  p99 {screen.ms(pace.p99)}"
            rates = f"{pace.events:,.0f} events/s  {pace.decisions:,.0f} decisions/s  {latency}"
            lines += [f"{live.seconds:3.0f} of {seconds:.0f} s  {rates}  {screen.actions(tally)} {screen.past(tally)}"]
            lines += [f"   {live.show.line()}"]
        if lines and (not as_json or console.is_terminal):
            console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _watch(live: "Live", site: Site, seconds: float, as_json: bool) -> None:
    """The live view, until everything is sent."""
    history = list[float]()
    with Screen(console=options.out, auto_refresh=False) as shown:
        for pace in _ticks(live, site, 0.25):
            history.append(pace.decisions)
            shown.update(screen.view(live, pace, history, seconds, options.out.width, site.care.told), refresh=True)


def _told(summary: "Summary", waited: float | None, differing: int) -> str:
    s = summary
    otherwise = f" ({differing:,} otherwise)" if differing else ""
    text = (
        f"\n{s.events:,} events: {s.decisions:,} decisions, {s.deadletters:,} dead letters, {s.lost:,} lost, "
        f"{s.repeated:,} repeated{otherwise}\n"
        f"latency topic to topic (Kafka's stamps, whole run): p50 {screen.ms(s.p50_ms)}, p99 {screen.ms(s.p99_ms)}\n"
    )
    return text if waited is None else f"{text}first decision {waited:.1f} s after the start of the command\n"


def _happened(site: Site, chosen: "Settings") -> str:
    """What happened, in words, and where the picture of it is."""
    path = chosen.home / f"demo-{site.workload.name}.html"
    path.write_text(site.show.picture())
    return "\n".join([*site.care.told, *site.show.told(), f"plot over event time: {path}", ""])


def _next(name: str, job_is_up: bool, stack_is_up: bool) -> str:
    """Three commands that work now, one after the other."""
    millrace = "millrace" if shutil.which("millrace") else sys.argv[0]
    tail = f"tail {name} --from-beginning --limit 3"
    deploy = f"deploy {name} " + " ".join(f"--set {key}={value}" for key, value in shows.kind(name).sets.items())
    if job_is_up:
        commands = [tail, f"stop {name}", "down"]
    elif stack_is_up:
        commands = [tail, f"describe {name}", deploy]
    else:
        commands = ["up", tail, deploy]
    return "Next:\n" + "\n".join(f"  {millrace} {command}" for command in commands)
