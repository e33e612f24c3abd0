"""The registry: versions never change, aliases move one at a time, and what is fetched is what was announced."""

import importlib.util
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import artifact as artifacts
from models.linear import linear
from models.registry import Registry, announcement, fetch
from models.store import Folder, store
from schemas.errors import DefinitionError, ModelRejected, Unavailable
from schemas.models import decode, encode

A, B, C = (linear("fraud", {"amount": weight, "night": 1.0}) for weight in (0.1, 0.2, 0.3))
REMOTE = pytest.mark.skipif(importlib.util.find_spec("fsspec") is None, reason="fsspec is not installed")


@pytest.fixture(params=["folder", pytest.param("memory", marks=REMOTE)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    """An empty one, as a folder and behind fsspec."""
    return Registry(tmp_path / "models" if request.param == "folder" else f"memory://{tmp_path.name}")


def test_a_folder_is_one_however_it_is_named(tmp_path: Path) -> None:
    """Behind file://, whoever reads a registry while it is written finds half a file."""
    Registry(tmp_path / "models").register("fraud", A)
    for url in (f"file://{tmp_path}/models", f"local://{tmp_path}/models/"):
        assert isinstance(store(url), Folder)
        assert Registry(url).get("fraud", A.version).onnx == A.onnx


def test_a_version_comes_back_with_all_that_is_known(registry: Registry) -> None:
    """The registry loses where a model came from, or changes the model."""
    trained, reference = replace(A, recipe={**A.recipe, "range": [5, 9]}), {"amount": [0.5]}
    version = registry.register("fraud", trained, parent="fraud-000000000000", reference=reference, by="train", at=77)
    got, entry = registry.get("fraud", version), registry.entry("fraud", version)
    assert (got.onnx, got.features, got.version, dict(got.recipe)) == (
        A.onnx, A.features, A.version, dict(trained.recipe),
    )  # fmt: skip
    np.testing.assert_array_equal(got.golden, A.golden)
    assert (entry.range, entry.parent, entry.reference) == ((5, 9), "fraud-000000000000", {"amount": [0.5]})
    assert (entry.by, entry.created, entry.size, entry.sha256) == ("train", 77, len(A.onnx), A.sha256)
    registry.measure("fraud", version, {"labels": 3})
    registry.measure("fraud", version, {"labels": 4})
    registry.measure("fraud", B.version, {"labels": 5})  # is not registered: a definition's own
    registry.measure("fraud", "conformal-1", {"labels": 5})
    registry.measure("fraud", version, {"labels": 4, "prequential_ap": float("nan")})
    assert [entry.measured for entry in registry.versions("fraud")] == [{"labels": 4}]
    registry.register("fraud", A, by="again", at=99)
    assert registry.entry("fraud", version).by == "train"
    assert len(registry.history("fraud")) == 1


def test_a_folder_of_the_registry_is_a_model(tmp_path: Path) -> None:
    """A registered version cannot be replayed or deployed by its path."""
    version = Registry(tmp_path).register("fraud", A, reference=[1])
    assert artifacts.load(tmp_path / "fraud" / "versions" / version).version == version


def test_promotion_and_rollback_move_aliases(registry: Registry) -> None:
    """A promotion loses the champion that a rollback needs, or a rolled-back model still scores."""
    assert registry.aliases("fraud").revision == 0
    a, b, c = (registry.register("fraud", model) for model in (A, B, C))
    assert (registry.champion("fraud"), registry.challengers("fraud")) == (None, (a, b, c))
    registry.promote("fraud", a)
    assert (registry.champion("fraud"), registry.challengers("fraud")) == (a, (b, c))
    registry.promote("fraud", b, why="better", by="me", at=50)
    assert registry.challengers("fraud") == (c, a)
    registry.promote("fraud", c)
    assert registry.challengers("fraud") == (b,)
    assert registry.rollback("fraud", why="worse").version == c
    assert (registry.champion("fraud"), registry.challengers("fraud")) == (b, ())
    registry.register("fraud", C)
    registry.retire("fraud", c)
    registry.rollback("fraud")
    registry.rollback("fraud")
    assert registry.champion("fraud") is None
    told = [(change.action, change.version) for change in registry.history("fraud")]
    assert told[3:7] == [("promoted", a), ("promoted", b), ("promoted", c), ("rolled back", c)]
    assert told[7:] == [("registered", c), ("retired", c), ("rolled back", b), ("rolled back", a)]
    promoted = registry.history("fraud")[4]
    assert (promoted.why, promoted.by, promoted.at, promoted.revision) == ("better", "me", 50, 5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.promote("fraud", A.version), "champion already"),
        (lambda r: r.promote("fraud", "fraud-000000000000"), f"only .*{A.version}"),
        (lambda r: r.promote("fraud", "../../etc"), "version"),
        (lambda r: r.register("../evil", A), "workload"),
        (lambda r: r.retire("fraud", C.version), f"only {B.version}"),
        (lambda r: (r.rollback("fraud"), r.rollback("fraud")), "no champion before"),
        (lambda r: (r.freeze("fraud"), r.promote("fraud", B.version)), "frozen"),
        (lambda r: (r.freeze("fraud"), r.rollback("fraud")), "frozen"),
    ],
)
def test_what_cannot_be_is_refused(registry: Registry, change: Callable[[Registry], object], reason: str) -> None:
    """A mistyped version, a doubled promotion or a frozen workload changes what decides."""
    registry.register("fraud", A)
    registry.promote("fraud", A.version)
    registry.register("fraud", B)
    with pytest.raises(DefinitionError, match=reason):
        change(registry)
    registry.freeze("fraud", False)
    assert registry.champion("fraud") in (A.version, None)
    registry.promote("fraud", B.version)


STEPS = st.lists(st.sampled_from(["register", "promote", "rollback", "retire", "freeze", "thaw"]), max_size=20)


@settings(max_examples=30, deadline=None)
@given(steps=STEPS, picks=st.lists(st.sampled_from([A, B, C]), min_size=20, max_size=20))
def test_aliases_stay_sound(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], picks: list[artifacts.Artifact]
) -> None:
    """Some order of changes makes one version both champion and challenger, or leaves a revision out."""
    r = Registry(tmp_path_factory.mktemp("models"))
    for step, pick in zip(steps, picks, strict=False):
        try:
            if step == "register":
                r.register("w", pick)
            elif step in ("promote", "retire"):
                getattr(r, step)("w", pick.version)
            elif step == "rollback":
                r.rollback("w")
            else:
                r.freeze("w", step == "freeze")
        except DefinitionError:
            continue
    history = r.history("w")
    assert [change.revision for change in history] == list(range(1, len(history) + 1))
    for before, change in zip([None, *history], history, strict=False):
        assert change.champion not in change.challengers
        assert len(set(change.challengers)) == len(change.challengers)
        if before is not None and before.frozen:
            assert change.champion == before.champion
    assert decode(encode(announcement(r, "w"))) == announcement(r, "w")


def _write(url: str, name: str, times: int) -> None:
    """Freezes and thaws, as one of several writers."""
    r = Registry(url)
    for i in range(times):
        r.freeze("fraud", bool(i % 2), by=name)


def test_writers_lose_no_change(tmp_path: Path) -> None:
    """Two commands at once both make the same revision, and one of them is lost."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(str(tmp_path), f"w{i}", 20)) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    history = Registry(tmp_path).history("fraud")
    assert [change.revision for change in history] == list(range(1, 81))
    assert sorted(change.by for change in history) == sorted(f"w{i}" for i in range(4) for _ in range(20))


def test_half_a_registration_is_no_version(tmp_path: Path) -> None:
    """A process that died while it registered leaves a version without golden rows."""
    r = Registry(tmp_path)
    folder = tmp_path / "fraud" / "versions" / A.version
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"half")
    assert r.versions("fraud") == []
    r.register("fraud", A)
    assert r.get("fraud", A.version).onnx == A.onnx
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "measured.json"])
@pytest.mark.parametrize("damage", [b"", b'{"version": 7}', b"\xff"])
def test_what_is_damaged_is_told_and_mended(tmp_path: Path, name: str, damage: bytes) -> None:
    """One version that a full disk cut hides all others, or stays as it is when it is registered again."""
    r = Registry(tmp_path)
    for model in (A, B):
        r.register("fraud", model)
    (tmp_path / "fraud" / "versions" / A.version / name).write_bytes(damage)
    whole, damaged = r.listed("fraud")
    if name == "manifest.json":
        assert [entry.version for entry in whole] == [B.version]
        assert name in damaged[A.version]
    r.register("fraud", A)
    r.measure("fraud", A.version, {"labels": 7.0})
    assert r.get("fraud", A.version).onnx == A.onnx
    assert r.entry("fraud", A.version).measured == {"labels": 7.0}
    assert len(r.versions("fraud")) == 2


def test_a_damaged_challenger_keeps_nobody_in_office(tmp_path: Path) -> None:
    """If this fails, a champion that was rolled back by hand decides on, as no job can be told."""
    r = Registry(tmp_path)
    other = linear("fraud", {"amount": 0.7})
    for artifact in (A, B, other):
        r.register("fraud", artifact)
    r.promote("fraud", A.version)
    (tmp_path / "fraud" / "versions" / B.version / "manifest.json").write_text("{")
    for path in (tmp_path / "fraud" / "versions" / other.version).iterdir():
        path.unlink()
    r.rollback("fraud")
    told = announcement(r, "fraud")
    assert (told.champion, [one.version for one in told.challengers]) == (None, [])
    (tmp_path / "fraud" / "versions" / A.version / "manifest.json").write_text("{")
    r.promote("fraud", A.version)
    with pytest.raises(ModelRejected, match="register the model again"):
        announcement(r, "fraud")


def test_an_alias_file_is_mended_by_the_one_before_it(tmp_path: Path) -> None:
    """A registry whose newest aliases are damaged takes no change any more, or tells jobs an old number."""
    r = Registry(tmp_path)
    for model in (A, B):
        r.register("fraud", model)
    first, newest = sorted((tmp_path / "fraud" / "aliases").iterdir())
    newest.write_bytes(b"{")
    with pytest.raises(DefinitionError, match="copy the file before it over it"):
        r.aliases("fraud")
    newest.write_bytes(first.read_bytes())
    assert (r.aliases("fraud").revision, r.challengers("fraud")) == (2, (A.version,))
    assert r.promote("fraud", B.version).revision == 3


def test_fetched_is_what_was_announced(registry: Registry) -> None:
    """A job loads bytes other than the announced ones."""
    registry.register("fraud", A)
    registry.promote("fraud", A.version)
    registry.register("fraud", B)
    registry.promote("fraud", B.version)
    told = decode(encode(announcement(registry, "fraud")))
    assert (told.revision, told.previous, told.frozen) == (4, A.version, False)
    assert told.champion is not None
    assert fetch(told.champion).onnx == B.onnx
    assert [fetch(version).version for version in told.challengers] == [A.version]


def _damaged(folder: Path, onnx: bytes) -> None:
    (folder / "model.onnx").write_bytes(onnx)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: _damaged(f, A.onnx[:-1]), f"found {len(A.onnx) - 1} bytes, announced were {len(A.onnx)}"),
        (lambda f: _damaged(f, A.onnx + b"x"), "found more than"),
        (lambda f: _damaged(f, A.onnx[:-1] + b"x"), "found sha256"),
        (lambda f: (f / "model.onnx").unlink(), "as announced"),
    ],
)
def test_changed_bytes_are_refused(tmp_path: Path, damage: Callable[[Path], object], reason: str) -> None:
    """A file that was cut, changed or deleted after it was announced is served or ends in a traceback."""
    r = Registry(tmp_path)
    r.register("fraud", A)
    version = announcement(r, "fraud").challengers[0]
    damage(tmp_path / "fraud" / "versions" / A.version)
    with pytest.raises(ModelRejected, match=reason) as error:
        fetch(version)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("change", [{"golden": []}, {"sha256": "0" * 64}, {"version": B.version}])
def test_a_manifest_of_another_model_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """A model is checked against golden rows that are not its own."""
    r = Registry(tmp_path)
    r.register("fraud", A)
    version = announcement(r, "fraud").challengers[0]
    manifest = msgspec.json.encode(msgspec.json.decode(version.manifest) | change)
    with pytest.raises(ModelRejected, match=next(iter(change))) as error:
        fetch(msgspec.structs.replace(version, manifest=msgspec.Raw(manifest)))
    assert str(tmp_path) in str(error.value)


def test_what_cannot_be_reached_is_told(tmp_path: Path) -> None:
    """A registry that is not there, or whose protocol nobody installed, ends in a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="file"):
        Registry(tmp_path / "file").register("fraud", A)
    with pytest.raises(DefinitionError, match="fsspec"):
        Registry("nonsense://bucket/models")
