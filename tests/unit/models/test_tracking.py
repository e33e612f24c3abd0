"""MLflow as an optional extra: what is registered is found there, under its alias, with the same bytes."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from models.linear import linear
from models.registry import Registry
from models.tracking import Tracking
from schemas.errors import DefinitionError, Unavailable

A, B, C = (linear("fraud", {"amount": weight}) for weight in (0.1, 0.2, 0.3))
THERE = importlib.util.find_spec("mlflow") is not None


@pytest.mark.skipif(not THERE, reason="the extra mlflow is not installed: uv sync --extra mlflow")
def test_versions_and_aliases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version is logged twice, an alias is that of another, or other bytes come back."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    registry, tracking = Registry(tmp_path / "models"), Tracking((tmp_path / "mlruns").as_uri())
    assert registry.register("fraud", replace(A, recipe={**A.recipe, "range": [1, 2]}), by="ann") == A.version
    assert tracking.log(registry, "fraud") == [A.version]
    assert tracking.aliases("fraud") == {"challenger-1": A.version}
    for model in (B, C):
        registry.register("fraud", model)
    registry.promote("fraud", B.version)
    registry.measure("fraud", B.version, {"prequential_ap": 0.5, "labels": float("nan")})
    assert tracking.log(registry, "fraud") == [B.version, C.version]
    assert tracking.log(registry, "fraud") == []
    assert tracking.aliases("fraud") == {
        "champion": B.version, "challenger-1": A.version, "challenger-2": C.version,
    }  # fmt: skip
    registry.rollback("fraud")
    tracking.log(registry, "fraud")
    again = Tracking((tmp_path / "mlruns").as_uri())
    assert again.aliases("fraud") == {"challenger-1": A.version, "challenger-2": C.version}
    for name, model in (("challenger-2", C), (B.version, B)):
        assert again.get("fraud", name).onnx == model.onnx
    with pytest.raises(DefinitionError, match="champion"):
        again.get("fraud", "champion")
    with pytest.raises(Unavailable, match="MLflow"):
        again.aliases("nothing")


@pytest.mark.skipif(THERE, reason="the extra mlflow is installed")
def test_without_it_the_extra_is_named() -> None:
    """Who has no MLflow gets a traceback in place of the command that brings it."""
    with pytest.raises(DefinitionError, match=r"pip install millrace\[mlflow\]"):
        Tracking("http://nowhere")
