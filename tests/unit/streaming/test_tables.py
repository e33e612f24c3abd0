"""CSV files as events."""

from pathlib import Path

import msgspec
import pytest

from schemas.anomaly import Reading
from schemas.codec import Decoder
from schemas.errors import DefinitionError
from schemas.records import Event
from streaming.commands.options import read_events
from streaming.tables import events


def rows(folder: Path, text: str) -> list[dict[str, object]]:
    """The events of a file with this text."""
    file = folder / "sensors.csv"
    file.write_text(text)
    return [msgspec.json.decode(value) for value in events(file, Reading)]


def test_rows_become_events(tmp_path: Path) -> None:
    """If this fails, a time is read in another zone, a sensor's number becomes a number, or an empty cell a value."""
    text = "at,sensor,value,note\n2026-01-01T00:00:00,7,1.5,x\n2026-01-01 01:00:00+01:00,7,,\n1767225600000,8,oops,\n"
    text += "20260101,7,1,\n1767225600000.0,7,1,\n"
    found = rows(tmp_path, text)
    assert [str(row.pop("id"))[:-8] for row in found] == [f"row-{i}-" for i in range(1, 6)]
    assert found == [
        {"at": 1767225600000, "sensor": "7", "value": 1.5, "note": "x"},
        {"at": 1767225600000, "sensor": "7"},
        {"at": 1767225600000, "sensor": "8", "value": "oops"},
        {"at": 1767225600000, "sensor": "7", "value": 1},
        {"at": 1767225600000, "sensor": "7", "value": 1},
    ]


def test_rows_of_two_files_are_events_of_their_own(tmp_path: Path) -> None:
    """If this fails, what a second file adds to a sensor is a duplicate of the first, or a file sent twice is not."""
    first = rows(tmp_path, "at,sensor,value\n20260101,7,1\n20260102,7,1\n")
    again = rows(tmp_path, "at,sensor,value\n20260101,7,1\n20260103,7,1\n")
    assert (first[0]["id"] == again[0]["id"], first[1]["id"] == again[1]["id"]) == (True, False)


class Mixed(Event, frozen=True):
    """Each kind of cell."""

    zip: str | None = None
    new: bool = False
    count: int | None = None


def test_cells_are_what_their_fields_are(tmp_path: Path) -> None:
    """If this fails, text of digits becomes a number, or a truth value stays text, and each row a dead letter."""
    (tmp_path / "m.csv").write_text("at,id,zip,new,count\n20260101,a,12345,true,7\n20260101,b,,0,\n")
    found, _, dead = Decoder(Mixed).batch(list(events(tmp_path / "m.csv", Mixed)))
    assert not dead
    assert [(one.zip, one.new, one.count) for one in found] == [("12345", True, 7), (None, False, None)]


@pytest.mark.parametrize(
    ("text", "found"),
    [("time,sensor\n1,2\n", "'at'"), ("", "'at'"), ("at,sensor,value\n1,2,3,4\n", ":2:"),
     ("at,sensor,value\n1767225600,a,3\n", ":2: .*expected milliseconds"),
     ("at,sensor,value\n20260102,a,3\n20260102,b,3\n20260101,a,3\n", "newest first.*tac")],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, found: str) -> None:
    """If this fails, a file with a missing or a surplus column is decided as something else."""
    with pytest.raises(DefinitionError, match=found):
        rows(tmp_path, text)


@pytest.mark.parametrize(
    "file", ["at,sensor,value\n1,é,1\n".encode("latin-1"), "at,sensor,value\n1,a,1\n".encode("utf-16"),
             b"at,sensor,value\n1," + 200_000 * b"a" + b",1\n"], ids=["latin-1", "utf-16", "wide"],
)  # fmt: skip
def test_a_file_in_another_encoding_or_a_huge_cell_is_named(tmp_path: Path, file: bytes) -> None:
    """If this fails, a file that is no table in UTF-8 ends in a traceback that does not say which file, or where."""
    (path := tmp_path / "sensors.csv").write_bytes(file)
    with pytest.raises(DefinitionError, match=r"sensors\.csv:\d: .*expected text in UTF-8"):
        list(events(path, Reading))


def test_json_lines_in_seconds_are_refused(tmp_path: Path) -> None:
    """If this fails, a file of seconds is decided as one of 1970, or one that has seconds inside is refused."""
    file = tmp_path / "events.jsonl"
    for line, good in (
        ('{"id":"a","at":1767225600}', False), ('{"id":"a","of":{"at":1767225600},"at":1767225600000}', True),
        ("no event", True),
    ):  # fmt: skip
        file.write_text(f"{line}\n{line}\n")
        if good:
            assert list(read_events(file, Reading)) == [line.encode()] * 2
        else:
            with pytest.raises(DefinitionError, match=r"events\.jsonl:1: .*expected milliseconds"):
                read_events(file, Reading)


def test_a_reading_without_a_number_is_told_from_one_with_both(tmp_path: Path) -> None:
    """If this fails, an empty cell or NaN is said to be a field that is missing, or there twice."""
    decoder = Decoder(Reading)
    for cell in ("", "NaN"):
        (tmp_path / "sensors.csv").write_text(f"at,sensor,value\n1,a,{cell}\n")
        _, _, [dead] = decoder.batch(list(events(tmp_path / "sensors.csv", Reading)))
        assert (dead.kind, "NaN" in dead.detail, "both" in dead.detail) == ("missing-field", True, False)
    _, _, [dead] = decoder.batch([b'{"id":"a","at":1,"sensor":"a","value":1,"values":{"x":1}}'])
    assert "expected one of them" in dead.detail
