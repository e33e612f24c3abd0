"""`millrace ledger`: proves on the topics that nothing was lost, or shows what was."""

import shlex
import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from schemas.time import duration
from schemas.topics import Topics
from streaming import kafka, stack
from streaming.commands import options
from streaming.commands.options import Json, Name, Set
from streaming.settings import read

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from streaming.ledger import CounterExample, Ledger
    from streaming.workload import Workload

Patience = Annotated[float, typer.Option(min=0, help="Seconds without news that a running job may take.")]
Memory = Annotated[int, typer.Option(min=16, help="MiB to use at most; topics are read several times where they must.")]

ROOM = 200
"""Bytes that a record takes while the books are closed: its row, sorted, and what is compared."""

SHOWN = 10
"""Counter-examples that are told."""


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("ledger")(ledger_command)


class Books:
    """Reads the topics of a workload into ledgers."""

    def __init__(self, brokers: str, workload: "Workload", topics: Topics, memory: int = 1024, patience: float = 10.0):
        self._brokers, self._workload, self._topics, self._patience = brokers, workload, topics, patience
        self._outputs = (topics.deadletters, topics.decisions, topics.examples)
        self._read = self._committed()  # before the outputs: of what was read by then, all that was said is there
        self.ends = {t: kafka.end_offsets(brokers, t) for t in (topics.signals, *self._outputs)}
        self.ends |= {topic: kafka.end_offsets(brokers, topic) for topic in (topics.events, topics.outcomes)}
        self.parts = -(-sum(sum(ends.values()) for ends in self.ends.values()) * ROOM // (memory << 20)) or 1

    def _committed(self) -> dict[str, dict[int, int]]:
        """Up to where the job had read its inputs at its last checkpoint; its group is called so by Deploy.java."""
        inputs = self._topics.events, self._topics.outcomes
        return kafka.committed_offsets(self._brokers, f"millrace-{self._topics.name}", inputs)

    @property
    def records(self) -> int:
        """How many are to be read."""
        return self.parts * sum(sum(ends.values()) for ends in self.ends.values())

    def part(self, number: int, examples: int, bar: "Progress", task: "TaskID") -> "Ledger":
        """The accounts of one part of the ids, where the parts before have so many `examples`; waits for a job that is
        behind."""
        from streaming.ledger import Ledger

        of = self._workload
        entity, skew = of.blocks[0].entity, duration(of.skew)
        ledger = Ledger(self._topics, of.learning, of.policy.actions, entity, number, self.parts, skew)
        for topic, ends in self.ends.items():
            for batch in kafka.records(self._brokers, topic, until=ends):
                ledger.take(topic, batch)
                bar.advance(task, len(batch))
            ledger.began(topic, kafka.start_offsets(self._brokers, topic))
        ledger.read = self._read
        offsets = {topic: dict(self.ends[topic]) for topic in self._outputs}

        def missing() -> int:
            """How much of what is wrong or unread may come right."""
            ledger.account()
            told = self._examples(ledger) + examples
            untold = max(ledger.learned - told, 0) if number == self.parts - 1 else 0
            return ledger.pending + untold

        left, deadline = missing(), time.monotonic() + self._patience
        while left and time.monotonic() < deadline:
            time.sleep(0.2)
            ledger.read = self._committed()
            for topic in self._outputs:
                self._later(ledger, topic, offsets[topic])
            before, left = left, missing()
            deadline = time.monotonic() + self._patience if left < before else deadline
        return ledger

    def _examples(self, ledger: "Ledger") -> int:
        """How many there are, and at most were."""
        return ledger.counts["examples"]["ids"] + ledger.gone.get(self._topics.examples, {"records": 0})["records"]

    def _later(self, ledger: "Ledger", topic: str, offsets: dict[int, int]) -> None:
        """Read what came behind `offsets`, which follow."""
        for batch in kafka.records(self._brokers, topic, offsets):
            ledger.take(topic, batch, later=True)
            for record in batch:
                offsets[record.partition] = max(offsets.get(record.partition, 0), record.offset + 1)

    def close(self, bar: "Progress", task: "TaskID") -> dict[str, Any]:
        """The counts of every topic, what is gone of them, whether all that is left holds, and what does not."""
        from streaming.ledger import together

        parts, found = list["Ledger"](), 0
        for number in range(self.parts):
            parts.append(self.part(number, found, bar, task))
            found += self._examples(parts[-1])
        counts, wrong = together([part.counts for part in parts]), [one for part in parts for one in part.wrong]
        told = [self._told(one) for one in wrong[:SHOWN]]
        learned, gone = max(part.learned for part in parts), together([part.gone for part in parts])
        short = f"{learned} examples were learned, there are {found}"
        whole = [(self._topics.signals, short)] if learned > found else []
        events = gone.get(self._topics.events, {"records": 0})
        if events["records"] and events["records"] == events.get("unaccounted") and not counts["decisions"]["records"]:
            whole.append((self._topics.events, f"{events['records']} records are gone, and none was ever decided"))
        told += [{"kind": kind, "topic": of, "partition": None, "offset": None, "id": None} for of, kind in whole]
        bad = len(wrong) + len(whole)
        return {"holds": not bad, **counts, "gone": gone, "learned": learned, "faults": bad, "counterexamples": told}

    def _told(self, wrong: "CounterExample") -> dict[str, object]:
        """A counter-example, with the id that its record names."""
        start = kafka.end_offsets(self._brokers, wrong.topic) | {wrong.partition: wrong.offset}
        until = {wrong.partition: wrong.offset + 1}
        value = next((r.value for batch in kafka.records(self._brokers, wrong.topic, start, until) for r in batch), b"")
        try:
            found = msgspec.json.decode(value or b"", type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = {}
        return wrong._asdict() | {"id": found.get("id") or found.get("event")}


def ledger_command(
    workload: Name, patience: Patience = 10.0, memory: Memory = 1024, set: Set = None, as_json: Json = False
) -> None:
    """Prove on the topics that every event ended as one decision, dead letter or duplicate, or show one that did not.

    Example: millrace ledger fraud --set learn=true
    """
    from streaming.workloads import load

    definition = load(workload, options.overrides(set))
    books = Books(stack.brokers(read()), definition, definition.topics, memory, patience)
    with options.progress("read", books.records, as_json) as (bar, task):
        result = books.close(bar, task)
    deploy = shlex.join(["millrace", "deploy", workload, *(word for one in set or () for word in ("--set", one))])
    options.show({"workload": definition.name} | result, as_json, "\n".join(_lines(result, deploy)))
    if result["counterexamples"]:
        raise typer.Exit(1)


def _lines(result: dict[str, Any], deploy: str = "millrace deploy") -> list[str]:
    """What was counted, what is gone, what is unread until someone says `deploy`, what is wrong, and the verdict."""
    gone, wrong = result["gone"], result["counterexamples"]
    counted = {name: found for name, found in result.items() if isinstance(found, dict) and found is not gone}
    lines = [f"{name:<10} " + ", ".join(f"{n:,} {what}" for what, n in of.items()) for name, of in counted.items()]
    for topic, one in gone.items():
        known, n = one.get("known", one["records"]), one.get("unaccounted")
        rest = "; nothing can be said of the rest" * (known < one["records"])
        rest = f"; {n:,} were neither, or have the id of another record" if n else rest
        ended = "learned" if topic.endswith(".outcomes") else "decided"
        told = f", of which {known:,} are known to have been {ended} or dead{rest}" if "known" in one else ""
        lines.append(f"{one['records']:,} records of {topic} are gone (retention){told}")
    unread = {name: of["unread"] for name, of in counted.items() if of.get("unread")}
    mend = f"not lost: no job has come to them. `millrace status` shows whether one runs, `{deploy}` starts one"
    lines += [f"{n:,} records of {name} are unread, {mend}" for name, n in unread.items()]
    lines += [f"{one['topic']} {one['partition']}:{one['offset']}, id {one['id']}: {one['kind']}" for one in wrong]
    partly = any("known" in one for one in gone.values()) or any(of.get("untold") for of in counted.values())
    whole = "nothing is wrong in what was read" if unread else "every record is accounted for"
    verdict = "nothing is wrong in what is left" if partly else whole
    return [*lines, f"{result['faults']:,} counter-examples" if wrong else verdict]
