"""Artifacts: what is saved is what is loaded, and nothing else is."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from models import artifact
from models.linear import trees
from schemas.errors import ModelRejected


def test_round_trip(tmp_path: Path) -> None:
    """A model changes on its way through the registry's folder."""
    a = trees(7, 3, 5)
    b = artifact.load(a.save(tmp_path / "m"))
    assert (b.onnx, b.version, b.features, b.baseline) == (a.onnx, a.version, a.features, a.baseline)
    assert b.golden.dtype == np.float32
    np.testing.assert_array_equal(b.golden, a.golden)
    np.testing.assert_array_equal(b.expected, a.expected)
    assert (dict(b.recipe), dict(b.metrics)) == (dict(a.recipe), dict(a.metrics))
    assert a.version == f"trees-{a.sha256[:12]}"


def test_same_recipe_same_version() -> None:
    """A retrained model that is the same gets another version, or a different one the same."""
    assert trees(5, 2, 3).version == trees(5, 2, 3).version
    assert trees(5, 2, 3).version != trees(5, 2, 3, seed=1).version


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sha256": "0" * 64}, "sha256"),
        ({"version": "trees-1"}, "version"),
        ({"features": ["f0"]}, "baseline"),
        ({"features": ["f0", 1, "f2"]}, r"features\[1\]"),
        ({"features": ["f0", "f0", "f2"]}, "features"),
        ({"baseline": [0.0, None, 0.0]}, r"baseline\[1\]"),
        ({"golden": [[1.0]]}, "golden"),
        ({"golden": [[1.0], [1.0, 2.0]]}, "golden"),
        ({"golden": []}, "golden"),
        ({"expected": [0.5]}, "expected"),
        ({"name": "../evil"}, "name"),
        ({"format": 2}, "format"),
        ({"metrics": "good"}, "metrics"),
    ],
)
def test_broken_manifest_is_named(tmp_path: Path, change: dict[str, object], word: str) -> None:
    """A damaged manifest is loaded, or the operator is not told which field is wrong."""
    folder = trees(2, 2, 3).save(tmp_path)
    path = folder / "manifest.json"
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | change))
    with pytest.raises(ModelRejected, match=word) as e:
        artifact.load(folder)
    assert str(folder) in str(e.value)


def test_broken_files_are_named(tmp_path: Path) -> None:
    """A missing, cut or changed file is served, or ends in a traceback."""
    folder = trees(2, 2, 3).save(tmp_path)
    onnx = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(onnx[:-1])
    with pytest.raises(ModelRejected, match=r"model\.onnx.*sha256"):
        artifact.load(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelRejected, match=r"model\.onnx"):
        artifact.load(folder)
    (folder / "manifest.json").write_bytes(b'{"format": 1')
    with pytest.raises(ModelRejected, match=r"manifest\.json"):
        artifact.load(folder)
    with pytest.raises(ModelRejected, match="nowhere"):
        artifact.load(tmp_path / "nowhere")
