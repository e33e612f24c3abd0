"""Learners that a workload declares: frozen values, which `start` puts to work on rows of named inputs.

Beside the way of an event: examples come from the join of outcomes, and what was learned goes to the registry as ONNX.
What they compute is River 0.23's, number for number (the tests compare them), in kernels that release the
interpreter lock and are a hundred times as fast. Defining one imports and runs nothing; a wrong setting fails there.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Protocol

from schemas.errors import DefinitionError

if TYPE_CHECKING:
    from models.learning import Learning

NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
Range = tuple[float, float]
_SHARE: Range = (math.ulp(0.0), 1.0)


class Learner(Protocol):
    """What a workload's `learners` are."""

    @property
    def name(self) -> str:
        """Short and lower-case: names models and metrics."""

    def start(self, inputs: tuple[str, ...]) -> "Learning":
        """One that has learned nothing yet, for rows with these columns."""


class Declaration:
    """What the declarations share: checks of their settings by `limits`, the least and largest value of each."""

    name: str
    limits: ClassVar[dict[str, Range]]

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise DefinitionError(f"{type(self).__name__}(name={self.name!r}): expected a name like {NAME.pattern}")
        for field in fields(self):  # type: ignore[arg-type]
            if field.name not in self.limits:
                continue
            value, (low, high) = getattr(self, field.name), self.limits[field.name]
            whole = "int" in str(field.type)
            kind = int if whole else int | float
            if value is None and "None" in str(field.type):
                continue
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                what = "a whole number" if whole else "a number"
                raise DefinitionError(
                    f"{type(self).__name__}({field.name}={value!r}): expected {what} from {low:g} to {high:g}"
                )

    @property
    def settings(self) -> dict[str, float | int | str | None]:
        """All of them, by name."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]


@dataclass(frozen=True, kw_only=True)
class Logistic(Declaration):
    """Logistic regression on standardised features, a gradient step of `rate` an example, weights drawn to 0 by `l2`.

    As `StandardScaler() | LogisticRegression(SGD(rate), l2=l2, intercept_lr=rate)`.
    """

    rate: float = 0.01
    l2: float = 0.0
    name: str = "logistic"

    limits: ClassVar = {"rate": (0.0, 100.0), "l2": (0.0, 1.0)}

    def start(self, inputs: tuple[str, ...]) -> "Learning":
        """One of weights 0."""
        from models.logistic import LogisticLearning

        return LogisticLearning(self.name, self.settings, inputs, self.rate, self.l2)


@dataclass(frozen=True, kw_only=True)
class HoeffdingTree(Declaration):
    """One tree, which splits a leaf when its examples tell which feature is best; as `HoeffdingTreeClassifier`.

    negatives  share of the examples of class 0 that it learns (the score's odds are corrected for it)
    grace      weight of examples between two attempts to split a leaf
    delta, tau chance that a split is wrong, and the bound below which two features count as equally good
    nodes      at most so many, and `depth` levels
    """

    negatives: float = 1.0
    grace: int = 200
    delta: float = 1e-7
    tau: float = 0.05
    nodes: int = 1000
    depth: int = 50
    name: str = "hoeffding"

    limits: ClassVar = {
        "negatives": _SHARE,
        "grace": (1, 1e9),
        "delta": (1e-300, 1.0),
        "tau": (0.0, 1.0),
        "nodes": (1, 1e6),
        "depth": (0, 200),
    }

    def start(self, inputs: tuple[str, ...]) -> "Learning":
        """One leaf without examples."""
        from models.forest import ForestLearning

        return ForestLearning(self.name, self.settings, inputs, len(inputs), 0.0)


@dataclass(frozen=True, kw_only=True)
class AdaptiveForest(Declaration):
    """Bagged Hoeffding trees, each replaced when its errors change; as `ARFClassifier(leaf_prediction="mc")`.

    features  that a leaf watches, drawn at random; None: the square root of their number
    rate      mean number of times that a tree learns an example
    warning, drift  significance at which a tree's errors start another in the background, and put it in its place
    The others are those of `HoeffdingTree`.
    """

    trees: int = 10
    negatives: float = 0.03
    features: int | None = None
    rate: float = 6.0
    grace: int = 50
    delta: float = 0.01
    tau: float = 0.05
    warning: float = 0.01
    drift: float = 0.001
    nodes: int = 1000
    depth: int = 50
    seed: int = 0
    name: str = "forest"

    limits: ClassVar = HoeffdingTree.limits | {
        "trees": (1, 1000),
        "features": (1, 32_767),
        "rate": (0.01, 100.0),
        "warning": (1e-300, 1.0),
        "drift": (1e-300, 1.0),
        "seed": (0, 2**32 - 1),
    }

    def start(self, inputs: tuple[str, ...]) -> "Learning":
        """Trees of one leaf without examples."""
        from models.forest import ForestLearning

        drawn = self.features or max(1, round(math.sqrt(len(inputs))))
        if drawn > max(len(inputs), 1):
            found = f"found features={drawn}, and {len(inputs)} inputs"
            raise DefinitionError(f"learner {self.name!r}: {found}; expected at most as many features")
        return ForestLearning(self.name, self.settings, inputs, drawn, self.rate)


@dataclass(frozen=True, kw_only=True)
class HalfSpaceTrees(Declaration):
    """Anomaly detection: how few of the last `window` rows were near; as `MinMaxScaler() | HalfSpaceTrees(…)`.

    Trees of `height` levels of random splits; labels and weights are not used.
    """

    trees: int = 10
    height: int = 8
    window: int = 250
    seed: int = 0
    name: str = "halfspace"

    limits: ClassVar = {"trees": (1, 1000), "height": (1, 16), "window": (1, 1e9), "seed": (0, 2**32 - 1)}

    def start(self, inputs: tuple[str, ...]) -> "Learning":
        """Random trees without mass; DefinitionError where there is more of them than a snapshot has room for."""
        from models.halfspace import HalfSpaceLearning
        from models.learning import LIMIT

        if (size := 48 * self.trees << self.height) > LIMIT:
            found = f"found trees={self.trees} of height={self.height}, {size >> 20} MiB"
            raise DefinitionError(f"learner {self.name!r}: {found}; expected at most {LIMIT >> 20}")
        return HalfSpaceLearning(self.name, self.settings, inputs)


def declarations() -> Iterator[type[Learner]]:
    """Every kind of learner that there is; the contract tests run on each."""
    yield from Declaration.__subclasses__()  # type: ignore[misc]
