"""The command that measures: latency at a rate, or drain throughput."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from schemas.errors import DefinitionError
from streaming.commands import options
from streaming.commands.options import Json, Set

Workload = Annotated[str, typer.Argument(metavar="WORKLOAD", help="reference, fraud, anomaly, forecast.")]


class Beside(StrEnum):
    """What else is measured, in turns with the workload."""

    RAW = "raw"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("bench")(bench_command)


def bench_command(
    workload: Workload = "reference",
    rate: Annotated[float | None, typer.Option(min=1, help="Events a second: measures latency.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long, after a warm-up.")] = 60.0,
    drain: Annotated[int | None, typer.Option(min=1000, help="Events in a full topic: measures throughput.")] = None,
    beside: Annotated[Beside | None, typer.Option(help="Take turns with a raw Kafka loop that does the same.")] = None,
    set: Set = None,
    as_json: Json = False,
) -> None:
    """Measure a workload on the local stack, topic to topic, with JSON in and out.

    Example: millrace bench reference --rate 10000 --seconds 60 --beside raw
    Example: millrace bench fraud --drain 1000000 --json
    """
    from streaming import bench, settings, stack
    from streaming.load import STEP
    from streaming.workloads import refer

    if (rate is None) == (drain is None):
        raise DefinitionError("bench: say either --rate R (latency) or --drain N (throughput)")
    if workload not in STEP:
        raise DefinitionError(f"bench {workload}: there is a load for {', '.join(STEP)}")
    configured, reference = settings.read(), refer(workload, options.overrides(set))
    services = stack.up(configured)
    with options.err.status("starting") as status:
        say = status.update if options.err.is_terminal else lambda text: options.err.print(text, highlight=False)
        if drain is not None:
            figures = bench.drain(reference, services, configured, drain, beside is not None, say)
        else:
            assert rate is not None
            figures = bench.latency(reference, services, configured, rate, seconds, beside is not None, say)
    result: dict[str, object] = dict(figures["millrace"])
    if beside is not None:
        result |= {"raw": figures["raw"], "ratios": bench.ratios(figures)}
    options.show(result, as_json, json.dumps(result, indent=2))
