"""Commands on the local stack: up, down, status, doctor."""

import threading
import time
from dataclasses import replace
from typing import Annotated

import typer
from rich.status import Status
from rich.table import Table

from streaming import flink, stack
from streaming import settings as configuration
from streaming.commands import doctor, options
from streaming.commands.options import Json

TaskManagers = Annotated[
    int | None, typer.Option("--taskmanagers", min=1, max=64, help="TaskManager processes to start.")
]
Wipe = Annotated[bool, typer.Option("--wipe", help="Delete topics, states, savepoints, models and logs, too.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("up")(up_command)
    app.command("down")(down_command)
    app.command("status")(status_command)
    app.command("doctor")(doctor_command)


class Steps:
    """Tells on standard error which parts are being waited for; nothing on a quiet run."""

    def __init__(self, verb: str, quiet: bool) -> None:
        self.verb, self.quiet = verb, quiet
        self.waiting: list[str] = []
        self.lock = threading.Lock()
        self.status = Status("", console=options.err)

    def __call__(self, name: str, happening: str) -> None:
        """Note what happens to a part; parts report from threads of their own."""
        with self.lock:
            if happening in ("starting", "stopping", "moving", "kept") and name not in self.waiting:
                self.waiting.append(name)
            elif happening in ("ready", "stopped", "failed"):
                self.waiting.remove(name)
                self._print(f"{name} {happening}")
            self.status.update(f"{self.verb} {', '.join(self.waiting)}")

    def _print(self, text: str) -> None:
        if self.quiet or options.err.is_terminal:
            return
        try:
            options.err.print(text, highlight=False)
        except (BrokenPipeError, SystemExit):  # what rich makes of it: nobody reads on, and what was begun is ended
            self.quiet = True

    def __enter__(self) -> "Steps":
        """Show the line, on a terminal."""
        if not self.quiet and options.err.is_terminal:
            self.status.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the line away."""
        self.status.stop()


def up_command(taskmanagers: TaskManagers = None, as_json: Json = False) -> None:
    """Start Kafka, Valkey and Flink here, or those of them that are not running; wait until they answer.

    Example: millrace up --taskmanagers 2
    """
    chosen = configuration.read()
    if taskmanagers is not None:
        chosen = replace(chosen, taskmanagers=taskmanagers)
    with Steps("starting", as_json) as steps:
        found = stack.up(chosen, steps)
    redis = configuration.shown(found.redis)
    result = {"kafka": found.kafka, "redis": redis, "flink": found.flink, "home": str(chosen.home)}
    text = "\n".join(f"{name:6} {address}" for name, address in result.items())
    options.show(result, as_json, f"{text}\nnext: millrace deploy fraud")


def down_command(wipe: Wipe = False, as_json: Json = False) -> None:
    """Stop what `millrace up` started; topics and checkpoints are kept for the next `up`.

    Example: millrace down --wipe
    """
    chosen = configuration.read()
    with Steps("stopping", as_json) as steps:
        stopped = stack.down(chosen, wipe, steps)
    text = f"stopped {', '.join(stopped)}" if stopped else f"nothing runs in {chosen.home}"
    kept = "" if wipe else f"\ndata is kept in {chosen.home}\nnext: millrace up, or millrace down --wipe"
    options.show({"stopped": stopped, "wiped": wipe, "home": str(chosen.home)}, as_json, text + kept)


def status_command(as_json: Json = False) -> None:
    """Show every service: whether it answers, where, its process and its log. Exit code 1 if one does not.

    Below stands each job that the cluster runs, with its state and since when it has that.

    Example: millrace status --json
    """
    chosen = configuration.read()
    found = stack.status(chosen)
    well, address = all(part.healthy for part in found), stack.rest(chosen, found)
    jobs = [job for job in flink.jobs(address) if job.state not in flink.TERMINAL] if address else []
    if as_json:
        rows = [
            {
                "name": p.name,
                "healthy": p.healthy,
                "address": p.address,
                "pid": p.pid,
                "log": p.log and str(p.log),
            }
            for p in found
        ]
        jobs_ = [{"name": j.name, "id": j.id, "state": j.state, "since": j.since} for j in jobs] if address else None
        options.show({"healthy": well, "parts": rows, "jobs": jobs_}, True, "")
    else:
        table = Table("part", "answers", "address", "pid", box=None)
        table.add_column("log", overflow="fold")
        for p in found:
            answers = "[green]yes" if p.healthy else "[red]no"
            pid = "elsewhere" if p.process is None and p.healthy else str(p.pid or "-")
            table.add_row(p.name, answers, p.address or "-", pid, str(p.log or "-"))
        options.out.print(table)
        for j in jobs:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(j.since / 1000))
            options.out.print(f"job {j.name} is {j.state} since {since} UTC, {j.id}", highlight=False, soft_wrap=True)
        if not (well and jobs):
            options.out.print("next: " + ("millrace deploy fraud" if well else "millrace up"), highlight=False)
    if not well:
        raise typer.Exit(1)


def doctor_command(as_json: Json = False) -> None:
    """Check what Millrace needs of this machine; each fault comes with the command that mends it.

    Example: millrace doctor
    """
    found = doctor.examine(configuration.read())
    faults = [finding for finding in found if not finding.well]
    if as_json:
        rows = [{"check": f.check, "well": f.well, "found": f.found, "mend": f.mend} for f in found]
        options.show({"healthy": not faults, "findings": rows}, True, "")
    else:
        for finding in found:
            mark = "[green]ok  [/]" if finding.well else "[red]wrong"
            options.out.print(f"{mark} {finding.check}: {finding.found}", highlight=False)
            if not finding.well:
                options.out.print(f"      mend: {finding.mend}", highlight=False)
    if faults:
        raise typer.Exit(1)
