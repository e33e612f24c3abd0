"""A score that a stage computes itself: what stands in for an ONNX model where state is the model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import DefinitionError


@dataclass(frozen=True)
class Native:
    """The column `column` is the score; `version` is what decisions name as their model."""

    version: str
    column: str

    @property
    def metrics(self) -> Mapping[str, float]:
        """Nothing was trained, so nothing was measured then."""
        return {}

    @property
    def features(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return (self.column,)


def native(version: str, column: str) -> Native:
    """A model that is kept in the state of a stage: `native("conformal-1", "sensor_score")`."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", version):
        raise DefinitionError(f"native({version!r}): expected a version like conformal-1")
    return Native(version, column)
