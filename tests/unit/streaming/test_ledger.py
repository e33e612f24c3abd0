"""The ledger: whatever is lost, said twice, or about nothing is found with its coordinates; what is right is not."""

import json
from collections.abc import Callable, Iterable, Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.exploration import by_chance, exploration
from schemas.topics import Topics
from streaming.commands.ledger import _lines
from streaming.kafka import Record
from streaming.learning import learning
from streaming.ledger import LOST, UNTAUGHT, Ledger, together
from streaming.signals import Deployed, Signal, encode_signal

TOPICS = Topics("small")
DAY = 86_400_000
RULE = learning(horizon="10d", presume=False)
ACTIONS = "approve", "review", "decline"
Values = list[bytes]


def records(values: Iterable[bytes], headers: Iterable[tuple[tuple[str, bytes], ...]] | None = None) -> list[Record]:
    """Records of one partition."""
    values = list(values)
    told = [()] * len(values) if headers is None else list(headers)
    return [Record(0, i, 0, None, value, one) for i, (value, one) in enumerate(zip(values, told, strict=True))]


def event(id: str, at: int = DAY, key: str = "k") -> bytes:
    """An event."""
    return json.dumps({"id": id, "at": at, "key": key}).encode()


def outcome(id: str, at: int, label: bool = True, source: str = "") -> bytes:
    """An outcome."""
    return json.dumps({"event": id, "at": at, "label": label, "source": source}).encode()


def example(id: str, at: int, known: int, label: bool = True, presumed: bool = False) -> bytes:
    """An example."""
    more = {"label": label, "label_at": known, "presumed": presumed, "source": "", "features": {}}
    return json.dumps({"event": id, "at": at} | more).encode()


def dead(*where: tuple[str, int]) -> list[Record]:
    """Dead letters about these records."""
    headers = [(("topic", t.encode()), ("partition", b"0"), ("offset", str(o).encode())) for t, o in where]
    return records([b"bad"] * len(where), headers)


def good() -> dict[str, list[Record]]:
    """What a job leaves: a repeat after a crash, a duplicate, a dead letter, and outcomes of every kind."""
    at = 2 * DAY
    return {
        TOPICS.signals: records([json.dumps({"kind": "evaluation", "detail": {"counts": counts}}).encode()])
        if (counts := {"examples": 2, "capped": 0, "waiting": 1, "presumed": 1})
        else [],
        TOPICS.deadletters: dead((TOPICS.events, 2), (TOPICS.events, 2), (TOPICS.outcomes, 1)),
        TOPICS.decisions: records(map(event, ("a", "b", "a", "c", "d"))),
        TOPICS.examples: records([
            example("a", DAY, at), example("a", DAY, at), example("b", DAY, 11 * DAY, False, presumed=True),
            example("d", DAY, 3 * DAY, False),
        ]),
        TOPICS.events: records([event("a"), event("b"), b"{", event("a"), event("c"), event("d")]),
        TOPICS.outcomes: records([
            outcome("a", at), b"no", outcome("a", at), outcome("b", 30 * DAY), outcome("zzz", at),
            outcome("c", 12 * DAY), outcome("d", at), outcome("d", 3 * DAY, False), outcome("c", 10**15),
        ]),
    }  # fmt: skip


def ledgers(
    topics: dict[str, list[Record]], parts: int = 1, begins: Mapping[str, int] | None = None,
    read: Mapping[str, Mapping[int, int]] | None = None, **options: object,
) -> list[Ledger]:  # fmt: skip
    """Closed accounts of these topics, whose records before `begins` are gone, and of which some were `read`."""
    made = []
    for part in range(parts):
        given = {"learning": RULE, "actions": ACTIONS} | options
        ledger = Ledger(TOPICS, part=part, parts=parts, **given)  # type: ignore[arg-type]
        ledger.read = read or {}
        for topic, batch in topics.items():
            first = (begins or {}).get(topic, 0)
            for record in batch:
                if record.offset >= first:
                    ledger.take(topic, [record])
            ledger.began(topic, {0: first})
        ledger.account()
        made.append(ledger)
    return made


@pytest.mark.parametrize("parts", [1, 3])
def test_what_is_right_is_accounted_for(parts: int) -> None:
    """A job that lost nothing is accused, or a kind of end is counted as another."""
    made = ledgers(good(), parts)
    assert [one.wrong for one in made] == [[]] * parts
    assert together([one.counts for one in made]) == {
        "decisions": {"records": 5, "ids": 4, "repeats": 1},
        "events": {"records": 6, "decided": 4, "dead": 1, "duplicates": 1, "lost": 0},
        "examples": {"records": 4, "ids": 3, "repeats": 1},
        "outcomes": {
            "records": 9, "dead": 1, "unknown": 1, "learned": 2, "repeated": 1, "corrected": 1, "late": 3,
            "waiting": 0, "unsampled": 0, "lost": 0,
        },
    }  # fmt: skip
    assert max(one.learned for one in made) == 3


def dropped(topic: str, *rows: int) -> Callable[[dict[str, list[Record]]], None]:
    """Loses records of a topic."""

    def break_(topics: dict[str, list[Record]]) -> None:
        topics[topic] = [record for i, record in enumerate(topics[topic]) if i not in rows]

    return break_


def added(topic: str, value: bytes) -> Callable[[dict[str, list[Record]]], None]:
    """Adds a record to a topic, at offset 9."""
    return lambda topics: topics[topic].append(Record(0, 9, 0, None, value, ()))


FAULTS = {
    "a lost event": (dropped(TOPICS.decisions, 1), LOST, TOPICS.events, 1),
    "a lost dead letter": (dropped(TOPICS.deadletters, 0, 1), "cannot be read", TOPICS.events, 2),
    "a lost outcome's dead letter": (dropped(TOPICS.deadletters, 2), "cannot be read", TOPICS.outcomes, 1),
    "another decision": (added(TOPICS.decisions, event("a", 5)), "something else", TOPICS.decisions, 9),
    "a decision on nothing": (added(TOPICS.decisions, event("x")), "about no event", TOPICS.decisions, 9),
    "a dead event decided": (
        lambda topics: topics[TOPICS.deadletters].extend(dead((TOPICS.events, 4))),
        "about no event", TOPICS.decisions, 3,
    ),
    "a lost outcome": (dropped(TOPICS.examples, 0, 1), UNTAUGHT, TOPICS.outcomes, 0),
    "another example": (added(TOPICS.examples, example("a", DAY, 2 * DAY, False)), "else", TOPICS.examples, 9),
    "an example of nothing": (added(TOPICS.examples, example("c", DAY, 4 * DAY)), "no outcome", TOPICS.examples, 9),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_is_found(name: str) -> None:
    """A record is lost, or said in two ways, and the books balance; or the wrong record is named."""
    break_, kind, topic, offset = FAULTS[name]
    topics = good()
    break_(topics)
    (ledger,) = ledgers(topics)
    found = [(one.topic, one.offset) for one in ledger.wrong if kind in one.kind]
    assert found[:1] == [(topic, offset)], ledger.wrong
    assert {one.kind for one in ledger.wrong if kind not in one.kind} == set()
    assert bool(ledger.pending) == (kind in (LOST, UNTAUGHT, "cannot be read"))


def test_what_is_on_its_way_is_waited_for_beside_a_fault() -> None:
    """One contradiction, and all that a running job has still to say counts as lost at once."""
    topics = good()
    FAULTS["another decision"][0](topics)
    assert ledgers(topics)[0].pending == 0
    topics[TOPICS.events].append(records([event("new")])[0]._replace(offset=6))
    assert ledgers(topics)[0].pending == 1


def test_what_no_job_has_read_is_not_lost() -> None:
    """Events and outcomes that were published while no job ran count as lost, or lost ones as unread."""
    topics = good()
    topics[TOPICS.decisions] = [*topics[TOPICS.decisions][:3], topics[TOPICS.decisions][4]]  # not of c
    topics[TOPICS.examples] = topics[TOPICS.examples][2:]  # not of a
    topics[TOPICS.events] += [Record(0, 6, 0, None, b"{", ()), Record(0, 7, 0, None, event("new"), ())]
    (ledger,) = ledgers(topics, read={TOPICS.events: {0: 4}, TOPICS.outcomes: {0: 1}})
    assert [one[:] for one in ledger.wrong] == [(UNTAUGHT, TOPICS.outcomes, 0, 0)]
    events, outcomes = ledger.counts["events"], ledger.counts["outcomes"]
    assert (events["lost"], events["unread"], outcomes["lost"], outcomes["unread"]) == (0, 3, 1, 1)
    assert events["records"] == 8 == sum(events.values()) - 8
    assert outcomes["records"] == 9 == sum(outcomes.values()) - 9
    assert ledger.pending == 5
    (ledger,) = ledgers(topics, read={TOPICS.events: {0: 8}, TOPICS.outcomes: {0: 9}})
    assert {one.offset for one in ledger.wrong if one.topic == TOPICS.events} == {4, 6, 7}
    assert "unread" not in ledger.counts["events"]


def test_what_is_decided_anew_contradicts_nothing() -> None:
    """After a deploy with --fresh, which decides by another definition, each decision is a contradiction; or a job's
    own pass for another's."""
    said = [decision("a", "approve"), decision("b", "approve"), decision("a", "review"), decision("a", "review")]
    topics = {
        TOPICS.signals: records([deployed(1.0, False, 0), deployed(1.0, False, 2, examples=1)]),
        TOPICS.decisions: records(said),
        TOPICS.examples: records([example("a", DAY, 2 * DAY), example("a", DAY, 3 * DAY)]),
        TOPICS.events: records(map(event, "ab")),
        TOPICS.outcomes: records([outcome("a", 2 * DAY)]),
    }
    (ledger,) = ledgers(topics)
    assert ledger.wrong == []
    assert ledger.counts["decisions"] == {"records": 4, "ids": 2, "repeats": 1, "said anew": 1}
    assert ledger.counts["examples"] == {"records": 2, "ids": 1, "repeats": 0, "said anew": 1}
    topics[TOPICS.decisions] = records([*said, decision("a", "approve")])
    assert [one.offset for one in ledgers(topics)[0].wrong] == [4]
    topics[TOPICS.signals] = records([deployed(1.0, False, 0), deployed(1.0, False, 2)])
    found = {(one.topic, one.offset) for one in ledgers(topics)[0].wrong}
    assert found == {(TOPICS.decisions, 2), (TOPICS.decisions, 3), (TOPICS.examples, 1)}


def test_what_a_job_has_still_to_do_is_no_fault() -> None:
    """A job that runs is accused because of what came after the ends of its inputs were noted."""
    (ledger,) = ledgers(good())
    ledger.take(TOPICS.decisions, records([event("new")]), later=True)
    ledger.take(TOPICS.examples, records([example("c", DAY, 4 * DAY)]), later=True)
    assert ledger.account(), ledger.wrong
    topics = good()
    topics[TOPICS.decisions] = topics[TOPICS.decisions][:2]
    (ledger,) = ledgers(topics, begins={TOPICS.events: 1}, actions=("quiet", "alarm"), learning=None)
    assert ledger.wrong == []
    assert ledger.gone == {TOPICS.events: {"records": 1, "known": 0}}  # of the other it cannot be told
    assert ledger.counts["events"]["quiet"] == 2


def decision(id: str, action: str, **more: object) -> bytes:
    """A decision."""
    return json.dumps({"id": id, "at": DAY, "key": "k", "action": action} | more).encode()


def test_keys_number_their_events() -> None:
    """Two sensors that count from 1 contradict one another, or one's decision stands for the other's."""
    came = [event("1", DAY, "a"), event("1", 2 * DAY, "b"), event("1", DAY, "a")]
    topics = {TOPICS.decisions: records(came[:2]), TOPICS.events: records(came)}
    (ledger,) = ledgers(topics)
    assert (ledger.wrong, ledger.counts["events"]["decided"], ledger.counts["events"]["duplicates"]) == ([], 2, 1)
    topics[TOPICS.decisions] = records(came[:1])
    assert [one[:] for one in ledgers(topics)[0].wrong] == [(LOST, TOPICS.events, 0, 1)]


def test_what_never_waited_is_told_from_what_was_lost() -> None:
    """A lost outcome passes for one of an event that was not chosen, or an event that was not chosen for a loss."""
    explores = exploration(share=0.1, action="review", salt="s")
    rule = learning(horizon="10d", presume=False, share=0.5, exploration=explores)
    ids = [f"e{i}" for i in range(40)]
    taught = [id for id, waits in zip(ids, by_chance(ids, 0.5, "examples").tolist(), strict=True) if waits]
    said = dict.fromkeys(ids, "approve") | {"alert": "review", "declined": "decline", "chance": "review"}
    at = dict.fromkeys(said, 2 * DAY) | {"alert": 3 * DAY}  # learned last: by then the others are due
    topics = {
        TOPICS.decisions: records(decision(id, action, explored=id == "chance") for id, action in said.items()),
        TOPICS.examples: records(example(id, DAY, at[id]) for id in (*taught[1:], "alert")),
        TOPICS.events: records(map(event, said)),
        TOPICS.outcomes: records(outcome(id, at[id]) for id in said),
    }
    (ledger,) = ledgers(topics, learning=rule)
    counts = ledger.counts["outcomes"]
    assert (counts["learned"], counts["unsampled"], counts["lost"]) == (len(taught), len(ids) - len(taught) + 1, 2)
    lost = [list(said).index(id) for id in (taught[0], "chance")]
    assert {(one.kind, one.offset) for one in ledger.wrong} == {(UNTAUGHT, offset) for offset in lost}


def deployed(
    share: float | None, explores: bool, end: int, days: int = 10, examples: int | None = None
) -> bytes:  # fmt: skip
    """The signal of a deployment whose decisions begin at `end`; a share of None: it does not learn; where its examples
    begin is said of one that begins anew."""
    anew = None if examples is None else {0: examples}
    detail = Deployed(0 if share is None else days * DAY, share or 1.0, explores, {0: end}, anew)
    return encode_signal(Signal("deployed", "small", 1, msgspec.structs.asdict(detail)))


def test_decisions_wait_as_they_were_deployed() -> None:
    """After another definition is deployed, what was decided before counts as lost, or a loss of then as right."""
    rule = learning(horizon="10d", presume=False, share=0.5)
    ids = [f"e{i}" for i in range(40)]
    waits = dict(zip(ids, by_chance(ids, 0.5, "examples").tolist(), strict=True))
    out = next(id for id in ids[20:30] if not waits[id])  # first without learning, then none waits, half, each of them
    said = [*ids[:10], *ids[:30], "declined", *ids[30:]]
    actions = {"declined": "decline"}
    last = {"last": 3 * DAY}
    topics = {
        TOPICS.signals: records([
            deployed(None, False, 0), deployed(1.0, False, 10), deployed(0.5, True, 20), deployed(1.0, False, 41),
        ]),
        TOPICS.decisions: records(decision(id, actions.get(id, "approve")) for id in [*said, "last"]),
        TOPICS.examples: records([example("last", DAY, 3 * DAY)]),
        TOPICS.events: records(map(event, [*ids, "declined", "last"])),
        TOPICS.outcomes: records(outcome(id, last.get(id, 2 * DAY)) for id in [*ids, "declined", "last"]),
    }  # fmt: skip
    (ledger,) = ledgers(topics, learning=rule)
    lost = {one.offset for one in ledger.wrong}
    assert lost == {i for i, id in enumerate(ids) if i < 10 or i >= 30 or waits[id]}
    assert ids.index(out) not in lost
    topics[TOPICS.signals] = topics[TOPICS.signals][:1]
    (ledger,) = ledgers(topics, learning=rule)
    assert ledger.wrong == []
    for days, late in ((1, 0), (2, -1)):  # outcomes come a day after their events, and that of the last two
        topics[TOPICS.signals] = records([deployed(1.0, False, 0, days=1)])
        topics[TOPICS.outcomes] = records(outcome(id, last.get(id, (1 + days) * DAY)) for id in [*ids, "last"])
        (ledger,) = ledgers(topics, learning=rule)
        assert ledger.counts["outcomes"]["late"] == (len(ids) if late else 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["good", "dead"])), max_size=20), st.data())
def test_every_event_ends_once(given: list[tuple[str, str]], data: st.DataObject) -> None:
    """Counts of events do not add up to the records, whatever is decided of them."""
    living = {id for id, kind in given if kind == "good"}
    decided = sorted(living - data.draw(st.sets(st.sampled_from("abcdef"))))
    topics = {
        TOPICS.deadletters: dead(*((TOPICS.events, i) for i, (_, kind) in enumerate(given) if kind == "dead")),
        TOPICS.decisions: records(event(id) for id in decided),
        TOPICS.events: records(event(id) for id, _ in given),
    }
    (ledger,) = ledgers(topics)
    counts = ledger.counts["events"]
    assert counts["records"] == len(given) == sum(counts.values()) - counts["records"]
    assert (counts["decided"], counts["lost"]) == (len(decided), len(living) - len(decided))
    assert {one.kind for one in ledger.wrong} == ({LOST} if counts["lost"] else set())


HUGE = 99999999999999999999999


@pytest.mark.parametrize("parts", [1, 3])
def test_what_is_foreign_breaks_nothing(parts: int) -> None:
    """One record of a stranger, or a time no computer holds, ends the ledger with a traceback for ever."""
    topics = good()
    added(TOPICS.events, event("huge", HUGE))(topics)
    added(TOPICS.outcomes, outcome("a", -HUGE))(topics)
    topics[TOPICS.deadletters] += dead((TOPICS.events, 9), (TOPICS.outcomes, 9))
    junk = b"junk", b"\xff", b"[" * 100_000, b'{"kind": "evaluation", "detail": {}}', deployed(1.0, False, HUGE)
    topics[TOPICS.signals] += records(junk)
    place = (("partition", b"0"), ("offset", b"1"))
    topic = ("topic", TOPICS.events.encode())
    topics[TOPICS.deadletters] += records(
        [b"junk"] * 6,
        [
            (), place, (("topic", b"other"), *place), (topic, ("partition", b"one"), ("offset", b"1")),
            (topic, ("partition", b"0"), ("offset", b"%d" % HUGE)), (("topic", b"\xff"), *place),
        ],
    )  # fmt: skip
    made = ledgers(topics, parts)
    assert [one.wrong for one in made] == [[]] * parts
    counts = together([one.counts for one in made])
    assert (counts["signals"], counts["deadletters"]) == ({"foreign": 5}, {"foreign": 6})
    assert (counts["events"]["dead"], counts["outcomes"]["dead"]) == (2, 2)
    topics[TOPICS.deadletters] = dead((TOPICS.events, 2), (TOPICS.outcomes, 1))
    found = [(one.kind, one.topic, one.offset) for part in ledgers(topics, parts) for one in part.wrong]
    unread = "cannot be read and is no dead letter"
    assert sorted(found) == [(unread, TOPICS.events, 9), (unread, TOPICS.outcomes, 9)]


WRITTEN = {
    TOPICS.signals: (180,), TOPICS.deadletters: (25, 26, 115), TOPICS.decisions: (5, 15, 35, 45, 55),
    TOPICS.examples: (105, 106, 107, 175), TOPICS.events: (0, 10, 20, 30, 40, 50),
    TOPICS.outcomes: tuple(range(100, 190, 10)),
}  # fmt: skip
"""When the records of `good` were written: each after those that it is about."""


def written(topics: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """`good` topics with times of records, all of them later than the events' own, and an event again at last."""
    times = WRITTEN | {TOPICS.events: (*WRITTEN[TOPICS.events], 190)}
    topics[TOPICS.events] = [*topics[TOPICS.events], Record(0, 6, 0, None, event("b"), ())]
    return {t: [r._replace(timestamp=DAY + times[t][r.offset]) for r in batch] for t, batch in topics.items()}


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({topic: st.integers(0, len(times)) for topic, times in WRITTEN.items()}))
def test_retention_accuses_nobody(begins: dict[str, int]) -> None:
    """When Kafka has deleted the oldest records of some topics, what hung on them counts as lost, or as nothing."""
    (ledger,) = ledgers(written(good()), begins=begins)
    assert ledger.wrong == []
    assert {topic: one["records"] for topic, one in ledger.gone.items()} == {t: n for t, n in begins.items() if n}
    for name, total in ("events", 7), ("outcomes", 9):
        counts = ledger.counts[name]
        assert counts["records"] == total - begins[f"small.{name}"] == sum(counts.values()) - counts["records"]
        gone = ledger.gone.get(f"small.{name}", {})
        assert gone.get("known", 0) <= gone.get("records", 0)
        if "unaccounted" in gone:  # repeats of what is left, or nothing
            assert gone["unaccounted"] <= {0: 0, 1: 1, 2: 2, 3: 2, 4: 2, 5: 2, 6: 2}[gone["records"]]


def test_what_is_gone_is_told() -> None:
    """Events that retention took before they were decided pass for accounted for; or what became of others is not
    known."""
    topics = written(good())
    (ledger,) = ledgers(topics, begins={TOPICS.events: 5})
    assert ledger.gone == {TOPICS.events: {"records": 5, "known": 3, "unaccounted": 2}}  # b, left, is a duplicate
    assert ledger.counts["decisions"]["of events that are gone"] == 2
    made = ledgers(topics, 3, {TOPICS.events: 5})
    assert together([one.gone for one in made]) == ledger.gone
    (ledger,) = ledgers(topics, begins={TOPICS.events: 5, TOPICS.deadletters: 1})
    assert ledger.gone[TOPICS.events] == {"records": 5, "known": 3}
    topics[TOPICS.decisions] = topics[TOPICS.decisions][-1:]
    ledger = Ledger(TOPICS, RULE, ACTIONS)
    ledger.take(TOPICS.decisions, topics[TOPICS.decisions])
    ledger.take(TOPICS.events, topics[TOPICS.events][5:6])
    ledger.began(TOPICS.events, {0: 5})
    ledger.take(TOPICS.decisions, records([event("new")]), later=True)  # about one that is gone, or came since
    assert ledger.account()
    assert ledger.gone == {TOPICS.events: {"records": 5, "known": 0, "unaccounted": 4}}
    ledger.began(TOPICS.events, {0: 6})  # one of those was taken by retention after it was read
    ledger.account()
    assert ledger.gone[TOPICS.events]["records"] == 5
    (ledger,) = ledgers(written(good()), begins={TOPICS.outcomes: 8})
    assert ledger.gone == {TOPICS.outcomes: {"records": 8, "known": 3}}


def test_what_is_certain_is_a_fault_also_where_something_is_gone() -> None:
    """Once retention has begun nothing is found any more; or a duplicate of what is gone counts as lost."""
    topics = written(good())
    topics[TOPICS.decisions] = [r for r in topics[TOPICS.decisions] if r.offset not in (3, 4)]  # of c and d
    begins = {TOPICS.decisions: 2}  # left is what was written from 35 on
    (ledger,) = ledgers(topics, begins=begins)
    found = {(one.kind, one.offset) for one in ledger.wrong if one.topic == TOPICS.events}
    assert found == {(LOST, 4), (LOST, 5)}
    assert ledger.counts["events"] == {
        "records": 7, "decided": 1, "dead": 1, "duplicates": 2, "lost": 2, "untold": 1,
    }  # fmt: skip
    begins[TOPICS.events] = 2  # by now they may repeat events that are gone …
    (ledger,) = ledgers(topics, begins=begins)
    assert [one for one in ledger.wrong if one.topic == TOPICS.events] == []
    for offset, id in (4, "c"), (5, "d"):  # … but for what happened long after those were written
        topics[TOPICS.events][offset] = topics[TOPICS.events][offset]._replace(value=event(id, DAY + 400_000))
    (ledger,) = ledgers(topics, begins=begins)
    assert {one.offset for one in ledger.wrong if one.topic == TOPICS.events} == {4, 5}
    (ledger,) = ledgers(topics, begins=begins, skew=500_000)
    assert [one for one in ledger.wrong if one.topic == TOPICS.events] == []
    foreign = written(good())
    foreign[TOPICS.decisions].append(Record(0, 9, DAY, None, b"junk", ()))
    (ledger,) = ledgers(foreign, begins={TOPICS.events: 2})
    assert [(one.topic, one.offset) for one in ledger.wrong] == [(TOPICS.decisions, 9)]
    lost = written(good())
    lost[TOPICS.deadletters] = lost[TOPICS.deadletters][:2]
    lost[TOPICS.examples] = [r for r in lost[TOPICS.examples] if r.offset >= 2]
    (ledger,) = ledgers(lost, begins={TOPICS.deadletters: 1, TOPICS.decisions: 1})
    assert {(one.topic, one.offset) for one in ledger.wrong} == {(TOPICS.outcomes, offset) for offset in (0, 1, 2)}


def test_how_decisions_waited_may_be_gone() -> None:
    """Outcomes of decisions that never waited count as lost once the signal, or the decision, that says so is gone."""
    explores = exploration(share=0.1, action="review", salt="s")
    rule = learning(horizon="10d", presume=False, exploration=explores)
    topics = {
        TOPICS.signals: records([deployed(None, False, 0), deployed(1.0, True, 1)]),
        TOPICS.decisions: records([decision("a", "approve"), decision("b", "decline"), decision("c", "approve")]),
        TOPICS.examples: records([example("c", DAY, 3 * DAY)]),
        TOPICS.events: records(map(event, "abc")),
        TOPICS.outcomes: records([outcome("a", 2 * DAY), outcome("b", 2 * DAY), outcome("c", 3 * DAY)]),
    }
    (ledger,) = ledgers(topics, learning=rule)
    assert (ledger.wrong, ledger.counts["outcomes"]["unsampled"]) == ([], 2)
    for begins, untold in ({TOPICS.signals: 1}, 1), ({TOPICS.decisions: 2}, 2), ({TOPICS.deadletters: 1}, 0):
        topics[TOPICS.deadletters] = []
        order = dict(sorted(topics.items(), key=lambda one: list(WRITTEN).index(one[0])))
        (ledger,) = ledgers(order, begins=begins, learning=rule)
        assert ledger.wrong == []
        assert ledger.counts["outcomes"]["untold"] == untold


def test_the_verdict_says_what_it_is_of() -> None:
    """`every record is accounted for` is said of topics whose oldest records are gone, or never said again."""
    counts = {"records": 5, "decided": 5}
    good: dict[str, object] = {"events": counts, "gone": {}, "faults": 0, "counterexamples": []}
    assert _lines(good)[-1] == "every record is accounted for"
    assert _lines(good | {"gone": {TOPICS.decisions: {"records": 9}}})[1:] == [
        "9 records of small.decisions are gone (retention)", "every record is accounted for",
    ]  # fmt: skip
    unread = _lines(good | {"events": counts | {"unread": 2}}, "millrace deploy small --set a=1")
    assert "2 records of events are unread, not lost" in unread[1]
    assert "`millrace deploy small --set a=1` starts one" in unread[1]
    assert unread[2:] == ["nothing is wrong in what was read"]
    untold = good | {"events": counts | {"untold": 1}, "gone": {TOPICS.decisions: {"records": 9}}}
    assert _lines(untold)[-1] == "nothing is wrong in what is left"
    lost = {TOPICS.events: {"records": 1500, "known": 50, "unaccounted": 1450}}
    assert _lines(good | {"gone": lost})[1:] == [
        "1,500 records of small.events are gone (retention), of which 50 are known to have been decided or dead; "
        "1,450 were neither, or have the id of another record", "nothing is wrong in what is left",
    ]  # fmt: skip
    assert _lines(good | {"gone": {TOPICS.outcomes: {"records": 9, "known": 2}}})[1] == (
        "9 records of small.outcomes are gone (retention), of which 2 are known to have been learned or dead; "
        "nothing can be said of the rest"
    )
    assert _lines(good | {"gone": {TOPICS.outcomes: {"records": 2, "known": 2}}})[1].endswith(" or dead")
    wrong = {"topic": TOPICS.events, "partition": 0, "offset": 1, "id": "a", "kind": LOST}
    assert _lines(good | {"faults": 1, "counterexamples": [wrong]})[-1] == "1 counter-examples"
