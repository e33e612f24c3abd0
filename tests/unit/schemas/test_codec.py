"""Decoding: a bad value becomes a dead letter of the right kind and costs its neighbours nothing."""

import json
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import KINDS, MAX_VALUE_BYTES, Decoder
from schemas.errors import PoisonEvent
from schemas.fraud import Transaction

GOOD = b'{"id":"a","at":1,"card":"c","terminal":"t","amount":1.5}'
DECODER = Decoder(Transaction)


def bad(**fields: str) -> bytes:
    """The good event with raw JSON in place of some fields."""
    parts = {"id": '"a"', "at": "1", "card": '"c"', "terminal": '"t"', "amount": "1.5"} | fields
    return ("{" + ",".join(f'"{k}":{v}' for k, v in parts.items() if v) + "}").encode()


POISON = {
    "null": [None],
    "too-large": [bad(note='"' + "x" * MAX_VALUE_BYTES + '"')],
    "encoding": [b"\xff\xfe", GOOD.replace(b'"c"', b'"\xff"'), bad(note='"?"').replace(b"?", b"\xc3")],
    "syntax": [
        b"",
        b" ",
        b"not json",
        GOOD[:-1],
        GOOD + GOOD,
        GOOD + b"," + GOOD,
        bad(amount="NaN"),
        bad(id='"\\ud800"'),
    ],
    "depth": [bad(note="[" * 50_000 + "]" * 50_000)],
    "missing-field": [bad(card=""), b"{}"],
    "wrong-type": [
        b"null",
        b"[]",
        b"[" * 50_000,
        bad(amount='"1.5"'),
        bad(at="1.5"),
        bad(card="7"),
        bad(amount="true"),
    ],
    "not-finite": [bad(amount="1e400")],
    "out-of-range": [bad(id='""'), bad(at="-1"), bad(at="99999999999999999999"), bad(card='"' + "c" * 257 + '"')],
}


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in POISON.items() for value in values])
def test_every_kind_of_poison_is_named_and_isolated(kind: str, value: bytes | None) -> None:
    """If this fails, a bad record stops the job, hides its neighbours, or carries the wrong reason."""
    records, positions, dead = DECODER.batch([GOOD, value, GOOD])
    assert [record.id for record in records] == ["a", "a"]
    assert positions == [0, 2]
    assert [(letter.index, letter.kind) for letter in dead] == [(1, kind)]
    assert kind in KINDS


def test_values_cut_in_two_are_not_completed_by_their_neighbours() -> None:
    """If this fails, two bad records add up to two good ones, under each other's coordinates."""
    first, second = b'{"id":"a","at":1,"card":"c","terminal":"t","amount":1},{"id":"b', GOOD[7:]
    for values in ([first, second], [GOOD + b"\n" + GOOD, b""], [GOOD + b"\n", b" "]):
        _, _, dead = DECODER.batch(values)
        assert dead


def test_values_of_several_lines_are_read() -> None:
    """If this fails, pretty-printed JSON is refused."""
    value = json.dumps(json.loads(GOOD), indent=2).encode()
    records, _, dead = DECODER.batch([value, GOOD])
    assert len(records) == 2
    assert not dead


@given(st.lists(st.one_of(st.just(GOOD), st.binary(max_size=80), st.none()), max_size=12))
def test_a_batch_says_of_each_value_what_one_alone_says(values: list[bytes | None]) -> None:
    """If this fails, what becomes of a record depends on the batch it came in."""
    records, positions, dead = DECODER.batch(values)
    where = list(range(len(values))) if positions is None else positions
    assert sorted(where + [letter.index for letter in dead]) == list(range(len(values)))
    for index, record in zip(where, records, strict=True):
        assert DECODER.one(values[index]) == record
    for letter in dead:
        with pytest.raises(PoisonEvent) as error:
            DECODER.one(values[letter.index])
        assert error.value.args[0] == letter.kind


class Strict(msgspec.Struct):
    """A bound that is no value itself."""

    value: Annotated[float, msgspec.Meta(gt=0, lt=10)]


@pytest.mark.parametrize("value", [b'{"value": 0}', b'{"value": 10}'])
def test_strict_bounds_are_bounds(value: bytes) -> None:
    """If this fails, a number out of range is counted as a wrong type."""
    assert [letter.kind for letter in Decoder(Strict).batch([value])[2]] == ["out-of-range"]
