"""Boosted trees: trained by LightGBM from rows that were served, made into an artifact.

Beside the way of an event: `millrace train` calls it on the example log, and what it returns is announced as
a challenger. LightGBM is converted by `graph`, exactly: a float32 row takes the same path through each tree.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Self

import lightgbm
import numpy as np
from numpy.typing import ArrayLike, NDArray

from models import graph, metrics
from models.artifact import Artifact, pack
from models.drift import Reference
from models.onnx import TOLERANCE, Session
from schemas.errors import DefinitionError, ModelRejected

DAY = 86_400_000  # ms
CANARY = 2_000  # rows on which LightGBM and ONNX Runtime must agree
STEPS = 7.5  # trees × rate, of which fewer trees of a larger rate make as good a model, or nearly, up to
LARGEST = 0.3
USUAL = 100_000  # rows that tell what is usual
FEW = 0.01  # of the rows, that may have values of which no tree can be made


@dataclass(frozen=True)
class Boosting:
    """Settings of the training; the defaults are for rare positives and late, noisy labels.

    Many small steps over samples of rows and columns, with leaves that need several positives' weight of
    evidence: a share of the rows that grows with them. Of more negatives than tell something a sample is taken, and
    weighs for all of them. `memory_days` trains one member on the last so many days each and averages their scores;
    models of different memory together were better than each (specs/learning.md). inf is all history.
    """

    trees: int = 150
    leaves: int = 31
    rate: float = STEPS / 150
    leaf_rows: int = 50  # at least, and
    leaf_share: float = 0.001  # of the rows at least so many
    negatives: float = 30.0  # for each positive: the most that are trained on
    column_share: float = 0.6
    row_share: float = 0.8
    l2: float = 5.0
    memory_days: tuple[float, ...] = (float("inf"),)
    validation: float = 0.0  # the latest share of rows: measured on, and stops early, before all rows are used
    patience: int = 40  # trees without improvement of the validation's average precision
    threads: int = 1  # any number gives the same trees
    seed: int = 0

    @classmethod
    def of(cls, trees: int) -> Self:
        """At most `trees`, of steps that are larger the fewer they are; the latest tenth of the rows says how many."""
        return cls(trees=trees, rate=min(STEPS / trees, LARGEST), validation=0.1)

    def lightgbm(self) -> dict[str, object]:
        """LightGBM's names for it."""
        return {
            "objective": "binary",
            "num_leaves": self.leaves,
            "learning_rate": self.rate,
            "feature_fraction": self.column_share,
            "bagging_fraction": self.row_share,
            "bagging_freq": 1,
            "lambda_l2": self.l2,
            "num_threads": self.threads,
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }


def fit(
    X: ArrayLike,
    y: ArrayLike,
    features: Sequence[str],
    name: str,
    *,
    at: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    params: Boosting | None = None,
    recipe: Mapping[str, object] | None = None,
) -> Artifact:
    """Train on X float[n, f] and y bool[n], rows in order of time, and return the checked artifact.

    `at` int64[n] is the rows' time in ms, needed where `params.memory_days` limits a member; `weight`
    float[n] (for thinned negatives: one over the share kept). The same arguments give the same bytes. Raises
    DefinitionError for arguments that do not fit, ModelRejected where no trustworthy model came of them.
    """
    p = params or Boosting()
    rows, label = np.ascontiguousarray(X, np.float32), np.asarray(y, np.float64)
    weights = np.ones(len(label)) if weight is None else np.asarray(weight, np.float64)
    times = np.zeros(len(label), np.int64) if at is None else np.asarray(at, np.int64)
    rows, (label, weights, times), left = _finite(rows, label, weights, times)
    _check(rows, label, weights, times, features, p)
    if at is None and any(np.isfinite(p.memory_days)):
        raise DefinitionError("boosting.fit: memory_days needs the rows' times; pass at=")
    measured: dict[str, float] = {}
    trees = p.trees
    if p.validation > 0:
        cut = round(len(label) * (1 - p.validation))
        old, new = slice(0, cut), slice(cut, None)
        trees, measured = _validate(rows, label, weights, (old, new), p)
    starts = [0 if np.isinf(d) else int(np.searchsorted(times, times[-1] - round(d * DAY))) for d in p.memory_days]
    if any(len(np.unique(label[s:])) < 2 for s in starts):
        raise ModelRejected(f"boosting.fit: found one class within the last {min(p.memory_days)} days, expected both")
    boosters = [_train(rows[s:], label[s:], weights[s:], p, trees) for s in starts]
    scores = np.mean([b.predict(rows, num_threads=p.threads) for b in boosters], axis=0)
    onnx = graph.boosted([list(_trees(b)) for b in boosters], len(features))
    artifact = pack(
        name,
        onnx,
        tuple(features),
        rows,
        scores,
        recipe=_recipe(p, trees, label) | dict(recipe or {}) | ({"left_out": left} if left else {}),
        metrics=measured,
    )
    _agree(artifact, rows, scores)
    return artifact


def reference(artifact: Artifact, X: ArrayLike, at: ArrayLike) -> Reference:
    """What `artifact` was trained on and says of it, for the watch over drift: rows float[n, f] in order of their times
    `at` int64[n] ms."""
    some = slice(None, None, len(times := np.asarray(at, np.int64)) // USUAL + 1)
    rows = np.asarray(X, np.float32)[some]
    both = np.column_stack((rows, Session(artifact).score(rows)))
    return Reference.of(both, (*artifact.features, "score"), times[some])


def _finite(
    rows: NDArray[np.float32], *columns: NDArray[Any]
) -> tuple[NDArray[np.float32], Sequence[NDArray[Any]], int]:
    """The rows that are finite float32, with what belongs to them, and how many are not, unless more than FEW are."""
    good = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
    left = int((~good).sum())
    if 0 < left <= FEW * len(rows) and all(len(column) == len(rows) for column in columns):
        return rows[good], [column[good] for column in columns], left
    return rows, columns, 0


def _recipe(p: Boosting, trees: int, label: NDArray[np.float64]) -> dict[str, object]:
    return {
        "how": "models.boosting.fit",
        "settings": asdict(p) | {"memory_days": ["all" if np.isinf(d) else d for d in p.memory_days]},
        "trees": trees,
        "rows": len(label),
        "positives": int(label.sum()),
        "versions": {n: version(n) for n in ("lightgbm", "onnx", "numpy")},
    }


def _check(
    rows: NDArray[np.float32],
    label: NDArray[np.float64],
    weights: NDArray[np.float64],
    times: NDArray[np.int64],
    features: Sequence[str],
    p: Boosting,
) -> None:
    n = len(label)
    if rows.shape != (n, len(features)) or weights.shape != (n,) or times.shape != (n,):
        raise DefinitionError(
            f"boosting.fit: found X {rows.shape}, weight {weights.shape}, at {times.shape}; "
            f"expected ({n}, {len(features)}), ({n},), ({n},): one row a label, one column a feature"
        )
    if (np.diff(times) < 0).any():
        raise DefinitionError("boosting.fit: found `at` that goes back, expected rows in order of time; sort them")
    if not ((weights > 0) & (weights <= metrics.HEAVIEST)).all():
        found = f"found weights from {weights.min()} to {weights.max()}"
        raise DefinitionError(f"boosting.fit: {found}, expected some above 0, at most {metrics.HEAVIEST:g}")
    if not 0 <= p.validation < 1 or not p.memory_days:
        raise DefinitionError(f"boosting.fit: found {p}, expected 0 <= validation < 1 and a memory")
    if not np.isfinite(rows).all():
        bad = [f for f, ok in zip(features, np.isfinite(rows).all(axis=0), strict=True) if not ok]
        raise ModelRejected(f"boosting.fit: found nan or inf in {bad}, expected numbers: leave it out of inputs=(…)")
    if not np.isin(label, (0.0, 1.0)).all() or len(np.unique(label)) < 2:
        raise ModelRejected(f"boosting.fit: found labels {np.unique(label)[:5]}, expected 0 and 1, both")


def _train(
    rows: NDArray[np.float32],
    label: NDArray[np.float64],
    weights: NDArray[np.float64],
    p: Boosting,
    trees: int,
) -> lightgbm.Booster:
    data, settings = _dataset(rows, label, weights, p)
    return lightgbm.train(settings, data, num_boost_round=trees)


def _dataset(
    rows: NDArray[np.float32], label: NDArray[np.float64], weights: NDArray[np.float64], p: Boosting
) -> tuple[lightgbm.Dataset, dict[str, object]]:
    """What is trained on, negatives thinned, and LightGBM's settings for so many rows."""
    share = p.negatives * label.sum() / max((label == 0).sum(), 1)
    if share < 1:
        kept = np.flatnonzero((label > 0) | (np.random.default_rng(p.seed).random(len(label)) < share))
        weights = np.where(label > 0, weights, weights / share)[kept]
        rows, label = rows[kept], label[kept]
    settings = p.lightgbm() | {"min_data_in_leaf": max(p.leaf_rows, round(p.leaf_share * len(label)))}
    return lightgbm.Dataset(rows, label, weight=weights, params=settings), settings


def _validate(
    rows: NDArray[np.float32],
    label: NDArray[np.float64],
    weights: NDArray[np.float64],
    split: tuple[slice, slice],
    p: Boosting,
) -> tuple[int, dict[str, float]]:
    """Number of trees that did best on the later rows after training on the earlier, and metrics there."""
    old, new = split
    if min(len(np.unique(label[old])), len(np.unique(label[new]))) < 2:
        raise ModelRejected("boosting.fit: found labels of one class on a side of the validation split, expected both")
    data, settings = _dataset(rows[old], label[old], weights[old], p)
    settings |= {"metric": "average_precision"}
    later = lightgbm.Dataset(rows[new], label[new], weight=weights[new], reference=data)
    stop = lightgbm.early_stopping(p.patience, verbose=False)
    booster = lightgbm.train(settings, data, p.trees, valid_sets=[later], callbacks=[stop])
    score = booster.predict(rows[new], num_iteration=booster.best_iteration, num_threads=p.threads)
    found = metrics.summary(label[new], score, weights[new])
    return booster.best_iteration, {f"validation_{k}": v for k, v in found.items()}


def _trees(booster: lightgbm.Booster) -> Iterator[list[graph.Node]]:
    """LightGBM's trees, leaf values in log-odds (the first tree holds the start value)."""
    for info in booster.dump_model()["tree_info"]:
        nodes: list[graph.Node] = []
        _flatten(info["tree_structure"], nodes)
        yield nodes


def _flatten(node: Mapping[str, Any], nodes: list[graph.Node]) -> int:
    """Append `node` and what hangs on it; returns its place."""
    here = len(nodes)
    if "split_feature" not in node:
        nodes.append(graph.Node(-1, value=node["leaf_value"]))
        return here
    if node["decision_type"] != "<=":
        raise ModelRejected(f"boosting: found split {node['decision_type']!r}, expected <=; no categorical features")
    nodes.append(graph.Node(node["split_feature"], node["threshold"]))
    left = _flatten(node["left_child"], nodes)
    right = _flatten(node["right_child"], nodes)
    # LightGBM that saw no NaN in training reads one as 0
    nodes[here] = nodes[here]._replace(left=left, right=right, missing_left=node["threshold"] >= 0)
    return here


def _agree(artifact: Artifact, rows: NDArray[np.float32], scores: NDArray[np.float64]) -> None:
    """Raise ModelRejected unless the ONNX model gives LightGBM's scores on rows spread over all of them."""
    some = np.unique(np.linspace(0, len(rows) - 1, CANARY).astype(np.int64))
    worst = float(np.abs(Session(artifact).score(rows[some]) - scores[some]).max())
    if not worst <= TOLERANCE:
        raise ModelRejected(
            f"boosting: found ONNX scores {worst} off LightGBM's, expected at most {TOLERANCE}; "
            "fewer or smaller trees keep float32 sums closer"
        )
