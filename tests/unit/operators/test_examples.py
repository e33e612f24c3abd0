"""The join of a decision with its outcome: whatever comes when, an event teaches at most once, and never too early."""

from dataclasses import dataclass, field
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from operators.examples import MOST, Due, ExampleJoin

HORIZON, AT = 20, 10  # ms; when the event was

Step = tuple[str, int, bool]
"""What comes: a decision, an outcome of a time and a label, or the clock, which has come to a time."""

times = st.integers(0, 50)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("decision"), st.just(AT), st.just(False)),
        st.tuples(st.just("outcome"), times, st.booleans()),
        st.tuples(st.just("clock"), times, st.just(False)),
    ),
    max_size=14,
).filter(lambda came: sum(what == "outcome" for what, _, _ in came) <= MOST)


@dataclass
class Naive:
    """What an event teaches, by the book: keeps everything that came."""

    presume: bool | None
    decided: bool = False
    done: bool = False
    outcomes: list[tuple[int, bool, str]] = field(default_factory=list)
    made: list[tuple[int, bool, bool, str]] = field(default_factory=list)

    def clock(self, now: int) -> None:
        """It is `now`."""
        if self.done or not self.decided:
            return
        ordered = sorted(self.outcomes, key=lambda outcome: outcome[0])
        early = [outcome for outcome in ordered if outcome[0] <= AT]
        late = [outcome for outcome in ordered if AT < outcome[0] <= AT + HORIZON]
        first = [outcome for outcome in late if outcome[0] == late[0][0]]
        if early or late:
            known, label, source = early[-1] if early else first[-1]
            if max(known, AT) <= now:
                self.done = True
                self.made.append((max(known, AT), label, False, source))
        elif now >= AT + HORIZON:
            self.done = True
            if self.presume is not None:
                self.made.append((AT + HORIZON, self.presume, True, ""))

    def decision(self) -> None:
        """The event was decided."""
        self.decided = True

    def told(self, at: int, label: bool, source: str) -> None:
        """An outcome came."""
        self.outcomes.append((at, label, source))


def joined(presume: bool | None, came: list[Step]) -> tuple[list[Due], list[str], bytes]:
    """Examples of one event, with timers as Flink fires them: once, when the clock reaches them."""
    join, state, timers, made, said = ExampleJoin(HORIZON, presume), b"", set[int](), list[Due](), list[str]()
    for number, (what, at, label) in enumerate(came):
        if what == "clock":
            for timer in sorted(t for t in timers if t <= at):
                timers.discard(timer)
                state, due, kind = join.due(state, at)
                said += [kind] if kind else []
                made += [] if due is None else [due]
            continue
        if what == "decision":
            state, when, kind = join.decision(state, at, b"served")
        else:
            state, when, kind = join.outcome(state, at, label, f"s\u00e9{number}")
        said.append(kind)
        timers |= set() if when is None else {when}
    return made, said, state


@settings(max_examples=1000, deadline=None)
@given(steps, st.sampled_from([None, False, True]))
def test_every_interleaving_makes_at_most_one_example(came: list[Step], presume: bool | None) -> None:
    """An event is learned twice, before its label was known, with another label than the one known first, or not at
    all."""
    clock, ordered = 0, []
    for what, at, label in came:  # the clock only goes on
        clock = max(clock, at) if what == "clock" else clock
        ordered.append((what, clock if what == "clock" else at, label))
    ordered.append(("clock", 1000, False))
    naive = Naive(presume)
    for number, (what, at, label) in enumerate(ordered):
        if what == "decision":
            naive.decision()
        elif what == "outcome":
            naive.told(at, label, f"s\u00e9{number}")
        else:
            naive.clock(at)
    made, _, state = joined(presume, ordered)
    assert [(due.known, due.label, due.presumed, due.source) for due in made] == naive.made
    assert all(due.served == b"served" and due.known >= AT for due in made)
    assert len(made) <= 1
    assert state[:1] != b"L" or len(state) == 2, "what is done keeps its row"


def test_what_happened_is_counted_by_its_name() -> None:
    """A counter says that a correction came too late when it was a repetition, or the other way round."""
    decision, yes, no = ("decision", AT, False), ("outcome", 12, True), ("outcome", 13, False)
    end = ("clock", 100, False)
    same = ("outcome", 12, False)
    assert joined(None, [decision, decision, yes, same, end, no, yes])[1][3:] == [
        "corrected", "examples", "repeated", "too-late",
    ]  # fmt: skip
    assert joined(None, [decision, yes, no, yes, end])[1] == ["waiting", "joined", "too-late", "corrected", "examples"]
    assert joined(None, [no, yes, decision, end])[1] == ["unmatched", "corrected", "early", "examples"]
    assert joined(False, [decision, end, yes])[1] == ["waiting", "presumed", "too-late"]
    assert joined(None, [decision, end, yes, no])[1] == ["waiting", "dropped", "too-late", "too-late"]
    assert joined(None, [decision, ("outcome", AT + HORIZON + 1, True), end])[1] == ["waiting", "too-late", "dropped"]


def test_in_any_order() -> None:
    """A correction that is read ahead of time, as in a backfill, is learned instead of what would have been; or one
    beyond the horizon erases what was said in time."""
    decision, end = ("decision", AT, False), ("clock", 100, False)
    first, corrected, beyond = ("outcome", 12, True), ("outcome", 20, False), ("outcome", AT + HORIZON + 5, False)
    for came in permutations([decision, first, corrected, beyond]):
        (due,), _, _ = joined(None, [*came, end])
        assert (due.known, due.label) == (12, True), came
    many = [("outcome", 12 + i, i == 0) for i in range(MOST + 3)]
    (due,), _, _ = joined(None, [*many, decision, end])
    assert due.label
    few = [("outcome", at, at == 8) for at in range(3, 11 - 2)]
    (due,), _, _ = joined(None, [*few, ("outcome", 40, False), decision, end])
    assert due.label, "the newest before the event is gone"
    state = b""
    for at in range(100):
        state = ExampleJoin(HORIZON, None).outcome(state, at, True, "s")[0]
    assert len(state) == 1 + 12 * MOST, "an event that never comes takes room without end"


def test_what_still_waits_is_looked_at_again() -> None:
    """If this fails, a decision that came twice, or whose outcome came too late, waits beyond its horizon for ever."""
    join = ExampleJoin(100, presume=False)
    state, when, _ = join.decision(b"", 5, b"served")
    assert when == 105
    assert join.decision(state, 5, b"served")[:2] == (state, 105)
    assert join.outcome(state, 200, True, "")[:2] == (state, 105)
