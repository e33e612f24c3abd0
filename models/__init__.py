"""What decides: models as ONNX artifacts, how they are made, and policies over their scores."""

from pathlib import Path

from models.artifact import Artifact, load
from models.linear import linear
from models.native import native
from models.policy import thresholds
from schemas.errors import DefinitionError

__all__ = ["Artifact", "linear", "native", "pretrained", "thresholds"]

SHIPPED = Path(__file__).parent / "shipped"


def pretrained(name: str) -> Artifact:
    """A model from a folder of `model.onnx` and `manifest.json`: a shipped one by its name, any by its path."""
    shipped = SHIPPED / name
    folder = shipped if "/" not in name and shipped.is_dir() else Path(name)
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in SHIPPED.iterdir())) if SHIPPED.is_dir() else "none"
        raise DefinitionError(f"model {name!r}: no such folder; shipped are {known}; `millrace train` makes others")
    return load(folder)
