"""Files of examples: what models are trained on is what was served, in the order of time, from one file or several."""

import json
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import DefinitionError
from streaming.engine import Events
from streaming.examples import Example, ExampleWriter, read_examples


def written(path: Path, *at: int, feature: str = "value") -> Path:
    """A file of examples of these times, whose feature is the time."""
    lines = [Example(f"{path.stem}{t}", t, "k", t % 2 == 1, t + 7, {feature: float(t)}) for t in at]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_missing_value_is_read_as_it_was_served(tmp_path: Path, kind: str) -> None:
    """A workload whose events may lack a field writes examples that it cannot be trained on."""
    file, columns = tmp_path / f"examples.{kind}", np.array([[1.5, np.nan], [np.nan, 2.5]])
    nothing = np.zeros(2, np.int64), np.zeros(2, np.uint64), np.empty((2, 0)), np.empty((2, 0))
    events = Events(np.arange(2), ["a", "b"], (["k", "k"],), *nothing)
    with ExampleWriter(file, ("x", "y"), {"a": (3, True), "b": (4, False)}) as writer:
        writer.write(events, columns)
    np.testing.assert_array_equal(read_examples(file).X, columns)


def test_a_file_without_examples_says_so(tmp_path: Path) -> None:
    """Training on the examples of a replay without outcomes, or on a damaged file, ends in a traceback."""
    for kind in ("jsonl", "parquet"):
        ExampleWriter(tmp_path / f"none.{kind}", ("x",), {}).close()
        with pytest.raises(DefinitionError, match=f"none.{kind}: found none"):
            read_examples(tmp_path / f"none.{kind}")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DefinitionError, match=r"examples .*bad\.parquet: "):
        read_examples(tmp_path / "bad.parquet")


def test_columns_of_other_types(tmp_path: Path) -> None:
    """A Parquet file that another program wrote ends in a traceback, or its times are taken for others."""
    at = np.array(["2026-01-01", "2026-01-02"], "datetime64[us]")
    good = {"event": ["a", "b"], "at": at, "key": ["k", "k"], "label": [0, 1], "label_at": at, "x": [2**53 + 1, 2]}
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table(good), file)
    found = read_examples(file)
    assert found.at.tolist() == [1767225600000, 1767312000000]
    assert (found.label.tolist(), found.X[:, 0].tolist()) == ([0.0, 1.0], [2.0**53, 2.0])
    for name, values in (
        ("x", ["one", "two"]), ("label", [0, 3]), ("label", ["False", "True"]), ("label", [None, True]),
        ("at", [1.5, 2.0]), ("at", [None, 3]), ("x", [[1.0], [2.0]]),
    ):  # fmt: skip
        pq.write_table(pa.table(good | {name: values}), file)
        with pytest.raises(DefinitionError, match=f"x.parquet.*{name}"):
            read_examples(file)
    pq.write_table(pa.table({name: values for name, values in good.items() if name != "x"}), file)
    with pytest.raises(DefinitionError, match="and features"):
        read_examples(file)
    pq.write_table(pa.table(good), file)
    whole = file.read_bytes()
    for start in range(4, len(whole) - 8, 7):
        file.write_bytes(whole[:start] + b"\xff" * 5 + whole[start + 5 :])
        with suppress(DefinitionError):  # nothing else; where only a number is another, nobody can tell
            read_examples(file)


def test_examples_of_the_topic_weigh_what_they_say_and_count_once(tmp_path: Path) -> None:
    """If this fails, trees fitted to sampled examples take what is rare for common, or an event is in both halves."""
    path = tmp_path / "topic.jsonl"
    line = {"at": 5, "key": "k", "label": False, "label_at": 6, "features": {"x": 1.0}, "scores": {"m": 0.1}}
    more = ({"event": "a", "weight": 20.0}, {"event": "b"}, {"event": "a", "at": 1, "label": True})
    lines = [line | one for one in more]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    found = read_examples(path, path)
    assert (list(found.event), found.weight.tolist(), found.at.tolist()) == (["a", "b"], [20.0, 1.0], [5, 5])
    path.write_text(json.dumps(line | {"event": "a", "weight": -1}))
    with pytest.raises(DefinitionError, match=r"topic\.jsonl:1: found weight -1"):
        read_examples(path)


def test_files_are_read_as_one_in_the_order_of_time(tmp_path: Path) -> None:
    """A model of two half-years is trained on one of them, or labels stand beside the rows of others."""
    found = read_examples(written(tmp_path / "a.jsonl", 1, 4, 8), written(tmp_path / "b.jsonl", 9, 3))
    assert found.at.tolist() == [1, 3, 4, 8, 9]
    assert list(found.event) == ["a1", "b3", "a4", "a8", "b9"]
    np.testing.assert_array_equal(found.columns(["value"])[:, 0], found.at)
    np.testing.assert_array_equal(found.label, found.at % 2)
    with pytest.raises(DefinitionError, match="different features"):
        read_examples(tmp_path / "a.jsonl", written(tmp_path / "c.jsonl", 1, feature="other"))
    with pytest.raises(DefinitionError, match="no such file"):
        read_examples(tmp_path / "a.jsonl", tmp_path / "d.jsonl")
