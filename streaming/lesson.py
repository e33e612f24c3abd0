"""One example, as the teacher takes it, and what concerns several of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.exploration import Cap

F64 = NDArray[np.float64]


class Lesson(NamedTuple):
    """One example: a decision as served (`scores` by `versions`, `row`: the values of `plan.names`) and its label,
    known since `known`; `weight` is one over the share of such events that are examples."""

    id: str
    key: str
    at: int
    known: int
    label: bool
    presumed: bool
    weight: float
    source: str
    versions: tuple[str, ...]
    scores: tuple[float, ...]
    row: Sequence[float] | F64


def within(cap: Cap | None, lessons: Sequence[Lesson]) -> Sequence[Lesson]:
    """Those that `cap` lets count; what was presumed has no source that could forge it."""
    if cap is None:
        return lessons
    said = [lesson for lesson in lessons if not lesson.presumed]
    counts = iter(cap.add([x.source for x in said], np.array([x.known for x in said], np.int64)).tolist())
    return [lesson for lesson in lessons if lesson.presumed or next(counts)]


def by_version(lessons: Sequence[Lesson]) -> dict[str, F64]:
    """Scores f64[k] of each version, NaN where it did not see the event."""
    scores: dict[str, F64] = {}
    for row, lesson in enumerate(lessons):
        for version, score in zip(lesson.versions, lesson.scores, strict=True):
            if version not in scores:
                scores[version] = np.full(len(lessons), np.nan)
            scores[version][row] = score
    return scores


def by_lineage(scores: Mapping[str, F64], of: Callable[[str], str]) -> dict[str, F64]:
    """Scores f64[k] by what a version is of: of one lineage no event was scored by two versions."""
    merged: dict[str, F64] = {}
    for version, values in scores.items():
        name = of(version)
        merged[name] = np.where(np.isfinite(values), values, merged[name]) if name in merged else values
    return merged
