"""The join of outcomes with events: each id gives one label at most, whichever side comes first."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from operators.join import Join, Label

ids = st.sampled_from(["a", "b", "long-" + "x" * 40, "ü"])
events = st.tuples(st.just("event"), ids, st.integers(0, 2**53), st.floats(allow_nan=False), st.text(min_size=1))
outcomes = st.tuples(st.just("outcome"), ids, st.integers(0, 2**53), st.booleans())


@given(st.lists(events | outcomes, max_size=20))
def test_labels_are_those_of_a_naive_twin(steps: list[tuple[object, ...]]) -> None:
    """If this fails, an outcome is lost, counted twice, or told to another event."""
    join, states = Join(1), defaultdict[str, bytes](bytes)
    first: dict[str, dict[str, tuple[object, ...]]] = defaultdict(dict)
    for kind, id, at, *rest in steps:
        assert isinstance(id, str)
        assert isinstance(at, int)
        fresh = kind not in first[id]
        first[id].setdefault(str(kind), (at, *rest))
        if kind == "event":
            value, text = rest
            states[id], label = join.event(states[id], id, at, (float(str(value)),), (str(text),))
        else:
            states[id], label = join.outcome(states[id], id, at, bool(rest[0]))
        both = len(first[id]) == 2 and fresh
        assert (label is not None) == both
        if label is not None:
            origin, number, text = first[id]["event"]
            known, truth = first[id]["outcome"]
            assert label == Label(id, max(known, origin), origin, truth, (number,), (str(text).encode(),))  # type: ignore[arg-type]
