"""One immutable version of a model: its ONNX bytes and what is needed to trust, explain and repeat it.

Made by `boosting`, `linear` and the learners' compiler, kept by the registry, loaded by `onnx.Session`, which
scores events. On disk it is a folder of `model.onnx` and `manifest.json`; nothing in it is ever unpickled.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.errors import ModelRejected

GOLDEN = 64  # rows kept with a model, by which every load is checked
LONGEST = 64  # characters of a name
_NAME = re.compile(rf"[a-z][a-z0-9_-]{{0,{LONGEST - 1}}}")


class _Manifest(msgspec.Struct):
    format: Literal[1]
    name: str
    version: str
    sha256: str
    features: tuple[str, ...]
    baseline: tuple[float, ...]
    golden: list[list[float]]
    expected: list[float]
    recipe: dict[str, object]
    metrics: dict[str, float]


@dataclass(frozen=True, eq=False)
class Artifact:
    """A model version; `sha256` and `version` follow from the ONNX bytes.

    features   names of the input columns, in the order in which the model takes them
    baseline   their usual values (medians), which reason codes compare with
    golden     float32[k, f] rows, and in `expected` float64[k] the scores that the trained model gave them
    recipe     how it was trained: command, data, rows, settings, library versions (JSON values)
    metrics    what was measured when it was trained

    Raises ModelRejected where the parts do not fit one another.
    """

    name: str
    onnx: bytes
    features: tuple[str, ...]
    baseline: tuple[float, ...]
    golden: NDArray[np.float32]
    expected: NDArray[np.float64]
    recipe: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", hashlib.sha256(self.onnx).hexdigest())
        f, shape = len(self.features), self.golden.shape
        found: tuple[tuple[bool, str, object, str], ...] = (
            (bool(_NAME.fullmatch(self.name)), "name", self.name, f"a name like {_NAME.pattern}"),
            (
                f > 0 and len(set(self.features)) == f,
                "features",
                self.features,
                "one or more different names",
            ),
            (len(self.baseline) == f, "baseline", f"{len(self.baseline)} values", f"{f}, one a feature"),
            (len(shape) == 2 and shape[0] > 0 and shape[1] == f, "golden", shape, f"one or more rows of {f}"),
            (self.expected.shape == shape[:1], "expected", self.expected.shape, f"{shape[:1]}, as golden"),
            (bool(np.isfinite(self.baseline).all()), "baseline", self.baseline, "finite numbers"),
            (bool(np.isfinite(self.golden).all()), "golden", "nan or inf", "finite numbers"),
            (bool(np.isfinite(self.expected).all()), "expected", "nan or inf", "finite numbers"),
        )
        for good, part, value, expected in found:
            if not good:
                raise ModelRejected(f"model {self.name!r}, {part}: found {value}, expected {expected}; train it again")

    @property
    def version(self) -> str:
        """The name and the first 12 hex digits of the bytes' sha256: same bytes, same version."""
        return f"{self.name}-{self.sha256[:12]}"

    def save(self, folder: Path) -> Path:
        """Write it into `folder`, made where missing; the manifest comes last: a folder with one is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        manifest = _Manifest(
            format=1,
            name=self.name,
            version=self.version,
            sha256=self.sha256,
            features=self.features,
            baseline=self.baseline,
            golden=self.golden.tolist(),
            expected=self.expected.tolist(),
            recipe=dict(self.recipe),
            metrics=dict(self.metrics),
        )
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        for name, data in (("model.onnx", self.onnx), ("manifest.json", text)):
            part = folder / f".{name}.{os.getpid()}"
            part.write_bytes(data)
            part.replace(folder / name)
        return folder


def load(folder: Path) -> Artifact:
    """The artifact of `folder`; raises ModelRejected, naming file and field, where it is not as saved."""
    path = folder / "manifest.json"
    try:
        m = msgspec.json.decode(path.read_bytes(), type=_Manifest)
        onnx = (folder / "model.onnx").read_bytes()
    except OSError as e:
        raise ModelRejected(f"{e.filename}: {e.strerror}; expected the folder of a saved model") from e
    except msgspec.MsgspecError as e:
        raise ModelRejected(f"{path}: {e}; save the model again") from e
    found = hashlib.sha256(onnx).hexdigest()
    if found != m.sha256:
        raise ModelRejected(
            f"{folder / 'model.onnx'}: found sha256 {found}, expected {m.sha256} (manifest.json, sha256); "
            "the file was changed or cut: copy it again from where it was trained"
        )
    if len({len(row) for row in m.golden}) > 1:
        raise ModelRejected(f"{path}, golden: found rows of different lengths; save the model again")
    golden = np.array(m.golden, np.float64).astype(np.float32)
    expected = np.array(m.expected, np.float64)
    try:
        a = Artifact(m.name, onnx, m.features, m.baseline, golden, expected, m.recipe, m.metrics)
    except ModelRejected as e:
        raise ModelRejected(f"{path}: {e}") from e
    if a.version != m.version:
        raise ModelRejected(f"{path}, version: found {m.version!r}, expected {a.version!r}; save the model again")
    return a


def pack(
    name: str,
    onnx: bytes,
    features: tuple[str, ...],
    rows: NDArray[np.float32],
    scores: NDArray[np.float64],
    *,
    recipe: Mapping[str, object] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Artifact:
    """An artifact with the medians of `rows` float32[n, f] as baseline and golden rows picked from them; the names of
    its features are in its bytes, so that the same sums of other columns are another version.

    `scores` float64[n] come from the trained model itself, not from ONNX Runtime. Picked are rows spread
    evenly over the order of the scores, the lowest and the highest among them.
    """
    from models import graph  # brings onnx, which commands that only read a workload can do without

    order = np.argsort(scores, kind="stable")
    spread = np.linspace(0, len(order) - 1, min(GOLDEN, len(order)))
    picked = order[np.unique(spread.round().astype(np.int64))]
    baseline = tuple(np.median(rows, axis=0).astype(np.float64).tolist())
    golden, expected = rows[picked], scores[picked]
    named = graph.named(onnx, features)
    return Artifact(name, named, features, baseline, golden, expected, recipe or {}, metrics or {})
