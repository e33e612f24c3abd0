"""What remembers: keyed features of sliding windows, decay, sketches and labels, the outcome join, the online store."""

from operators.features import (
    Aggregate,
    Keyed,
    by,
    count,
    decayed_count,
    decayed_sum,
    distinct,
    label_decay,
    label_max,
    label_mean,
    label_rate,
    label_run,
    label_run_age,
    label_since,
    label_smoothed,
    label_std,
    max_,
    mean,
    min_,
    previous,
    quantile,
    since,
    std,
    sum_,
    var,
)
from operators.kernels.tables import Rows
from operators.keyed import EntityFeatures, compile_features

__all__ = [
    "Aggregate", "EntityFeatures", "Keyed", "Rows", "by", "compile_features", "count", "decayed_count", "decayed_sum",
    "distinct", "label_decay", "label_max", "label_mean", "label_rate", "label_run", "label_run_age", "label_since",
    "label_smoothed", "label_std", "max_", "mean", "min_", "previous", "quantile", "since", "std", "sum_", "var",
]  # fmt: skip
