"""The ledger: every record of a workload's topics accounted for, or the counter-example with its coordinates.

Beside the way of an event, over topics as they are: every event ends as exactly one of decision, dead letter and
suppressed duplicate; what is said of one event twice is said in the same bytes; every outcome ends as one of the kinds
below, and no example is learned twice. An event is known by its id under its key; outcomes and examples name the id
alone. Of a record 50 bytes are kept: hashes of id and key, where it is, and a hash of what it says. Ids can be told
apart by `parts` of their hashes, one after the other, where that is too much.

Where Kafka's retention has taken the oldest records of a topic, what may have hung on those is no fault but `untold`.
Times of records are those of the broker: what comes of a record is written after it, and what is gone was written no
later than the oldest record that is left.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from schemas.frames import OFFSET
from schemas.topics import Topics
from streaming.kafka import Record
from streaming.learning import Learning
from streaming.rows import I64, ID, ROW, Flags, Rows, before, by_id, find, fresh
from streaming.signals import Deployed

LATER, DEAD, DECIDED, TAUGHT, UNSURE = 1, 2, 4, 8, 16
"""Bits of `how` in a row. LATER: it was read when the ends of the inputs had been noted, and may be about what came
behind them. Its dead letter, decision or example may be gone. UNSURE: what says how this decision waits may be gone."""

FOREVER = 1 << 62
Time = Annotated[int, msgspec.Meta(gt=-FOREVER, lt=FOREVER)]
"""ms; sums of two still fit into 64 bits. What says another cannot be read."""

UNREADABLE = msgspec.DecodeError, UnicodeDecodeError, RecursionError

LOST, UNTAUGHT = "was neither decided nor is it a dead letter", "became no example"
ILLEGIBLE = "cannot be read and is no dead letter"

Entry = tuple[bytes, int, bytes, int, int, int, int]


class CounterExample(NamedTuple):
    """A record that does not end as it must."""

    kind: str
    topic: str
    partition: int
    offset: int


class _Decision(msgspec.Struct):
    id: str
    at: Time
    key: str
    action: str = ""
    explored: bool = False


class _Outcome(msgspec.Struct):
    event: str
    at: Time
    label: bool
    source: str = ""


class _Example(msgspec.Struct):
    event: str
    at: Time
    label: bool
    label_at: Time
    presumed: bool
    source: str


class _Signal(msgspec.Struct):
    kind: str
    detail: msgspec.Raw


class _Counts(msgspec.Struct):
    examples: int
    capped: int
    waiting: int


class _Evaluated(msgspec.Struct):
    counts: _Counts


def _hash(text: str, size: int) -> bytes:
    return blake2b(text.encode(), digest_size=size).digest()


def _said(*what: object) -> bytes:
    return _hash(repr(what), 7) + b"w"  # NumPy drops zeros at the end


class Ledger:
    """What was read of the topics of one workload, by its rule of `learning` and the `actions` of its policy; `entity`:
    the field of events that is their key; `skew`: how far (ms) they may be ahead of their arrival.

    Feed `take` with the records of each topic, signals before other outputs, and those before events and outcomes; say
    with `began`, after each, where it begins by now; and ask for `account`.
    """

    def __init__(
        self, topics: Topics, learning: Learning | None, actions: Sequence[str], entity: str = "key", part: int = 0,
        parts: int = 1, skew: int = 300_000,
    ):  # fmt: skip
        self._topics, self._learning, self._actions = topics, learning, actions
        self._quiet = "quiet" in actions  # there are no decisions of those
        self._part, self._parts, self._skew = part, parts, skew
        self._event = msgspec.defstruct("Event", [("id", str), ("at", Time), ("key", str, msgspec.field(name=entity))])
        inputs = topics.events, topics.outcomes
        self._rows = {name: [np.empty(0, ROW)] for name in (*inputs, topics.decisions, topics.examples)}
        self._dead: dict[str, list[int]] = {topic: [] for topic in inputs}
        self._first: dict[str, dict[int, tuple[int, int]]] = {}
        self._begins: dict[str, dict[int, int]] = {}  # where topics begin whose oldest records are gone
        self._until: dict[str, int] = {}  # and since when they are whole
        self._foreign = dict.fromkeys((topics.deadletters, topics.signals), 0)
        self._deployed = list[Deployed]()
        self.learned = 0
        self.counts: dict[str, dict[str, int]] = {}
        self.gone: dict[str, dict[str, int]] = {}
        self.read: Mapping[str, Mapping[int, int]] = {}
        """Up to where a job had read inputs, where that is known, before the outputs were taken to their ends."""
        self.wrong: list[CounterExample] = []

    def take(self, topic: str, records: Sequence[Record], later: bool = False) -> None:
        """Enter records of `topic`; `later`: behind where it ended before the ends of the inputs were noted."""
        first = self._first.setdefault(topic, {})
        for record in records:
            first.setdefault(record.partition, (record.offset, record.timestamp))
        if topic in self._foreign:
            self._aside(topic, records)
            return
        rows: list[Entry] = []
        asked: list[tuple[str, str, bool]] = []
        doubts = self._doubts() if topic in self._dead else {}
        for record in records:
            where = record.partition << OFFSET | record.offset
            try:
                id, key, what, at, known, action, explored = self._read(topic, record.value or b"")
            except UNREADABLE:
                id, key, what, at, known, action, explored = "", "", b"", 0, 0, "", False
            digest = _hash(id, ID) + (_hash(key, 6) if key else b"") if id else b""
            if (digest or b"\0")[0] % self._parts == self._part:
                how = LATER * later + sum(bit for bit, until in doubts.items() if record.timestamp <= until)
                rows.append((digest, where, what, at, known, how, 0))
                asked.append((id, action, explored))
        self._rows[topic].append(np.array(rows, ROW))
        if self._learning is not None and topic in (self._topics.decisions, self._topics.outcomes):
            made, rules = self._rows[topic][-1], [self._learning]
            rules += [one.of(self._learning) for one in self._deployed]
            of = self._deployment(made["where"]) if topic == self._topics.decisions else np.zeros(len(made), np.int64)
            made["how"][of == 0] |= UNSURE * (self._topics.signals in self._begins)
            for number in np.unique(of).tolist():
                mine = np.flatnonzero(of == number)
                made["waits"][mine] = self._waits(rules[number], [asked[i] for i in mine.tolist()])

    def began(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Note where the partitions of `topic` begin, once it was taken to its end: what lay before is gone."""
        first = self._first.get(topic, {})
        begins = {p: min(offset, first.get(p, (offset, 0))[0]) for p, offset in offsets.items()}
        if any(begins.values()):
            self._begins[topic] = begins
            self._until[topic] = max(first.get(p, (0, FOREVER))[1] for p, offset in begins.items() if offset)

    def _doubts(self) -> dict[int, int]:
        """By the bit for `how`: until when (ms) a record was written of which that may be gone."""
        outputs = {DEAD: self._topics.deadletters, DECIDED: self._topics.decisions, TAUGHT: self._topics.examples}
        return {bit: self._until[topic] for bit, topic in outputs.items() if topic in self._until}

    def _aside(self, topic: str, records: Sequence[Record]) -> None:
        """Enter dead letters or signals; counts what is none of ours."""
        for record in records:
            told = dict(record.headers)
            try:
                if topic == self._topics.signals:
                    self._hear(msgspec.json.decode(record.value or b"", type=_Signal))
                else:
                    of, partition, offset = ((told[n] or b"").decode() for n in ("topic", "partition", "offset"))
                    if not 0 <= (where := int(partition) << OFFSET | int(offset)) < FOREVER:
                        raise ValueError(f"{topic} {record.partition}:{record.offset}: no place: {partition}:{offset}")
                    self._dead[of].append(where)
            except (*UNREADABLE, ValueError, KeyError):
                self._foreign[topic] += 1

    def _deployment(self, where: I64) -> I64:
        """Of each decision the number of the deployment that made it, 0 where none is known."""
        of = np.zeros(len(where), np.int64)
        for number, one in enumerate(self._deployed, start=1):
            of[~before(where, one.decisions)] = number
        return of

    def _hear(self, signal: _Signal) -> None:
        """What a signal says of examples that were learned, or of how decisions wait from then on."""
        if signal.kind == "evaluation":
            counts = msgspec.json.decode(signal.detail, type=_Evaluated).counts
            self.learned = max(self.learned, counts.examples + counts.capped + counts.waiting)
        elif signal.kind == "deployed":
            self._deployed.append(msgspec.json.decode(signal.detail, type=Deployed))

    def _waits(self, rule: Learning, told: list[tuple[str, str, bool]]) -> I64:
        """How long a decision on this id, with this action, by chance or not, waits for an outcome (ms)."""
        explored = np.array([one[2] for one in told], np.bool_)
        quiet, last = (np.array([one[1] == a for one in told], np.bool_) for a in (self._actions[0], self._actions[-1]))
        weight = rule.weight([one[0] for one in told], quiet & ~explored, last | explored, explored)
        return np.where(weight > 0, rule.horizon, 0)

    def _read(self, topic: str, value: bytes) -> tuple[str, str, bytes, int, int, str, bool]:
        """Id and key, hash of what is said, time of the event and of its label, 0 where there is none; action, and
        whether chance chose it."""
        if topic == self._topics.outcomes:
            outcome = msgspec.json.decode(value, type=_Outcome)
            return outcome.event, "", _said(outcome.label, outcome.source), 0, outcome.at, self._actions[0], False
        if topic == self._topics.examples:
            e = msgspec.json.decode(value, type=_Example)
            return e.event, "", b"presumed" if e.presumed else _said(e.label, e.source), e.at, e.label_at, "", False
        if topic == self._topics.decisions:
            decided = msgspec.json.decode(value, type=_Decision)
            return decided.id, decided.key, _said(value), decided.at, 0, decided.action, decided.explored
        event: Any = msgspec.json.decode(value, type=self._event)
        return event.id, event.key, b"", event.at, 0, "", False

    def account(self) -> bool:
        """Close the books over what was taken so far: fills `counts`, `gone` and `wrong`; whether nothing is wrong.

        `gone`, by topic: how many `records` retention took; of inputs also how many of those are `known` to have been
        decided, learned or dead; of events, where it can be told, how many are `unaccounted`: were neither, or have the
        id of another one."""
        self.counts, self.wrong = {}, []
        alone = self._part == 0  # what every part reads, one counts
        self.gone = {topic: {"records": alone * sum(offsets.values())} for topic, offsets in self._begins.items()}
        rows = {topic: self._all(topic) for topic in self._rows}
        anew = [one for one in self._deployed if one.examples is not None]
        decided = self._same(self._topics.decisions, rows[self._topics.decisions], [one.decisions for one in anew])
        events = self._events(rows[self._topics.events], decided)
        since = [one.examples or {} for one in anew]
        examples = self._same(self._topics.examples, rows[self._topics.examples], since, by="known")
        self._outcomes(rows[self._topics.outcomes], by_id(events), by_id(decided), examples)
        self.counts |= {_short(topic): {"foreign": count} for topic, count in self._foreign.items() if count and alone}
        return not self.wrong

    @property
    def pending(self) -> int:
        """How much of what is wrong, or unread, may be right once a running job has come so far."""
        unread = sum(of.get("unread", 0) for of in self.counts.values())
        return unread + sum(wrong.kind in (LOST, UNTAUGHT, ILLEGIBLE) for wrong in self.wrong)

    def _unread(self, topic: str, rows: Rows) -> Flags:
        """Which records of an input no job has come to yet."""
        behind = ~before(rows["where"], self.read.get(topic, {}))
        return behind & (topic in self.read)

    def _all(self, topic: str) -> Rows:
        """Rows of a topic, the first of each id first."""
        rows = np.concatenate(self._rows[topic])
        self._rows[topic] = [rows]
        ordered: Rows = rows[np.lexsort((rows["where"], rows["id"]))]
        return ordered

    def _fault(self, kind: str, topic: str, rows: Rows) -> None:
        mask = (1 << OFFSET) - 1
        self.wrong += [CounterExample(kind, topic, w >> OFFSET, w & mask) for w in rows["where"].tolist()]

    def _same(self, topic: str, rows: Rows, anew: Sequence[Mapping[int, int]], by: str = "at") -> Rows:
        """The first row of each id; a fault where a later one says something else, but where the id is said for the
        first time since one of the places from which all was said `anew`."""
        new, life = fresh(rows), np.zeros(len(rows), np.int64)
        for offsets in anew:
            life += ~before(rows["where"], offsets)
        begins = new | np.append(True, np.diff(life) != 0)[: len(rows)]
        first, own = rows[new], rows[np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))]
        differs = (rows["what"] != own["what"]) | (rows[by] != own[by])
        self._fault("says something else than the first record of its id", topic, rows[differs])
        if len(first):  # a job that begins anew says it again, and lets it wait as its definition has it
            first["waits"] = rows["waits"][np.append(np.flatnonzero(new)[1:], len(rows)) - 1]
        again = int(begins.sum()) - len(first)
        counts = {"records": len(rows), "ids": len(first), "repeats": len(rows) - len(first) - again}
        self.counts[_short(topic)] = counts | _some("said anew", again)
        return first

    def _living(self, topic: str, rows: Rows) -> tuple[Rows, int, int, int]:
        """The rows that are no dead letters, how many are, of how many that is untold, and how many without an id are
        unread; a fault where one has no id and is none."""
        dead, doubt = np.isin(rows["where"], np.array(self._dead[topic], np.int64)), rows["how"] & DEAD > 0
        illegible = ~dead & (rows["id"] == b"")
        unread = illegible & ~doubt & self._unread(topic, rows)
        self._fault(ILLEGIBLE, topic, rows[illegible & ~doubt & ~unread])
        return rows[~dead & ~illegible], int(dead.sum()), int((illegible & doubt).sum()), int(unread.sum())

    def _beyond(self, kind: str, topic: str, rows: Rows, of: str) -> None:
        """Rows of an output about no record that is left `of` an input: faults, unless they came later or that may be
        gone."""
        later = rows["how"] & LATER > 0
        about = ~later & (rows["id"] != b"") & (of in self._begins)
        self._fault(kind, topic, rows[~later & ~about])
        if of in self._begins:
            dead = np.unique(np.array(self._dead[of], np.int64))
            known = about.sum() + (self._part == 0) * before(dead, self._begins[of]).sum()
            self.counts[_short(topic)][f"of {_short(of)} that are gone"] = int(about.sum())
            self.gone[of]["known"] = int(known)
            if of == self._topics.events and not self._quiet and not self._doubts().keys() & {DEAD, DECIDED}:
                self.gone[of]["unaccounted"] = self.gone[of]["records"] - int(known + later.sum())

    def _events(self, rows: Rows, decided: Rows) -> Rows:
        """Account for events; returns the first row of each id."""
        topic = self._topics.events
        living, dead, untold, illegible = self._living(topic, rows)
        first = living[fresh(living)]
        if topic in self._begins:  # may repeat one that is gone, unless that would have come from the future
            first["how"][first["at"] <= self._until[topic] + self._skew] |= sum(self._doubts())
        there, doubt = np.isin(first["id"], decided["id"]), first["how"] & (DEAD | DECIDED) > 0
        unread = ~there & ~doubt & self._unread(topic, first)
        lost = ~there & ~doubt & ~unread
        if not self._quiet:
            self._fault(LOST, topic, first[lost])
        strange = decided[~np.isin(decided["id"], first["id"])]
        self._beyond("is about no event that could be decided", self._topics.decisions, strange, topic)
        self.counts["events"] = {
            "records": len(rows), "decided": int(there.sum()), "dead": dead, "duplicates": len(living) - len(first),
            "quiet" if self._quiet else "lost": int(lost.sum()),
        } | self._open(illegible + int(unread.sum()), untold + int((~there & doubt).sum()))  # fmt: skip
        return first

    def _open(self, unread: int, untold: int) -> dict[str, int]:
        """How many records of an input are unread, if any, and may have ended in what is gone, where anything is."""
        return _some("unread", unread) | ({"untold": untold} if self._begins else {})

    def _outcomes(self, rows: Rows, events: Rows, decided: Rows, examples: Rows) -> None:
        """Account for outcomes and examples."""
        topic, rule = self._topics.outcomes, self._learning
        living, dead, untold, illegible = self._living(topic, rows)
        event, known = find(living, events)
        example, there = find(living, examples)
        stray = int((~known & ~(there & (rule is not None))).sum())
        gone = self._topics.events in self._begins  # the event of a stray one may be
        counts = {"records": len(rows), "dead": dead, "unknown": 0 if gone else stray}
        self.counts["outcomes"], untold = counts, untold + stray * gone
        if rule is None:
            counts |= {"of an event": int(known.sum())} | self._open(illegible, untold)
            self._beyond("is of no outcome", self._topics.examples, examples[:0], topic)
            return
        presumed = there & (example["what"] == b"presumed")
        about = there & ~presumed & (example["what"] == living["what"])
        about &= np.maximum(living["known"], example["at"]) == example["known"]
        taught = np.isin(examples["id"], living["id"][about]) | (examples["what"] == b"presumed")
        self._beyond("is of no outcome", self._topics.examples, examples[~taught], topic)
        learned = fresh(living[about])
        decision, loud = find(living, decided)
        waits = np.where(loud, decision["waits"], living["waits"])
        late = known & ~about & (presumed | (living["known"] > event["at"] + np.where(waits, waits, rule.horizon)))
        other = there & ~about & ~late
        rest = known & ~there & ~late
        unsure = np.where(loud, decision["how"] & UNSURE, event["how"] & (DEAD | DECIDED)) | event["how"] & TAUGHT
        told = rest & (unsure == 0)
        clock = int(examples["known"].max(initial=-1))
        unsampled = told & (waits == 0)
        due = told & ~unsampled & (np.maximum(living["known"], event["at"]) < clock)
        unread = due & self._unread(topic, living)
        due &= ~unread
        self._fault(UNTAUGHT, topic, living[due])
        counts |= {
            "learned": int(learned.sum()),
            "repeated": int(about.sum()) - int(learned.sum()), "corrected": int(other.sum()), "late": int(late.sum()),
            "waiting": int((told & ~unsampled & ~due & ~unread).sum()), "unsampled": int(unsampled.sum()),
            "lost": int(due.sum()),
        } | self._open(illegible + int(unread.sum()), untold + int((rest & ~told).sum()))  # fmt: skip


def _some(what: str, count: int) -> dict[str, int]:
    return {what: count} if count else {}


def _short(topic: str) -> str:
    return topic.rpartition(".")[2]


def together(parts: Sequence[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """The sums of what all parts count."""
    names = {t: list(dict.fromkeys(n for part in parts for n in part.get(t, ()))) for part in parts for t in part}
    return {t: {n: max(sum(part.get(t, {}).get(n, 0) for part in parts), 0) for n in of} for t, of in names.items()}
